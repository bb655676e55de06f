"""Where do the workers of a service meet, and who else can get in?

In a folder that only this user can open: <runtime or temporary folder>/mlguard-<uid>/<hash>.
It holds the socket, the key that is shared, and what departed workers had counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING

import mlguard
from mlguard.host.private import Lock, make_folder, read, user_folder, write
from mlguard.host.processes import Process

if TYPE_CHECKING:
    from mlguard.runtime.companion.config import CompanionConfig

_KEY_BYTES = 32
_MAX_ADDRESS = 100  # bytes: sun_path has 108 on Linux, 104 on macOS
_UNIX = hasattr(socket, "AF_UNIX")


class Folder:
    """The private folder of the workers that share a service, its settings and a supervisor."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def root(self) -> Path:
        """The user's folder, with those of all services."""
        return self.path.parent

    @classmethod
    def of(cls, config: CompanionConfig, supervisor: Process) -> Folder:
        """Return the folder that belongs to them; it need not exist yet."""
        identity = [
            *(config.service, config.digest, supervisor.pid, supervisor.started),
            mlguard.__version__,
        ]
        name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
        path = _root(config.root) / name
        if len(os.fsencode(path / "socket")) > _MAX_ADDRESS:
            path = user_folder(Path("/tmp")) / name  # noqa: S108 - checked like any other
        return cls(path)

    def prepare(self) -> None:
        """Make it where it is missing; an OSError says why it cannot be trusted."""
        make_folder(self.root)
        make_folder(self.path)

    def key(self) -> bytes:
        """Return 32 secret bytes, the same for every worker."""
        path = self.path / "key"
        if not path.exists():
            fresh = self.path / f"key.{os.getpid()}.{secrets.token_hex(4)}"
            write(fresh, secrets.token_bytes(_KEY_BYTES))
            # The first to link wins, and nobody ever sees half a key.
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)
            fresh.unlink()
        key = read(path)
        if key is None or len(key) != _KEY_BYTES:
            raise PermissionError(f"{path}: not a key of {_KEY_BYTES} bytes")
        return key

    def authkey(self) -> bytes:
        """Return what both ends of a connection must prove to know."""
        return hmac.digest(self.key(), b"mlguard companion connection", "sha256")

    def connect(self) -> Connection:
        """Return a connection to the companion; an OSError, EOFError or AuthenticationError."""
        if _UNIX:
            return Client(str(self._socket), "AF_UNIX", authkey=self.authkey())
        address = (self.path / "address").read_text()  # pragma: no cover - Windows
        return Client(address, authkey=self.authkey())  # pragma: no cover - Windows

    @contextlib.contextmanager
    def listen(self) -> Iterator[Listener]:
        """Listen, in place of one that died; who connects has proved nothing yet."""
        if _UNIX:
            self._socket.unlink(missing_ok=True)
            listener = Listener(str(self._socket), "AF_UNIX", backlog=64)
        else:  # pragma: no cover - Windows
            listener = Listener()
            (self.path / "address").write_text(str(listener.address))
        try:
            yield listener
        finally:
            with contextlib.suppress(FileNotFoundError):
                listener.close()

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Try to hold the lock of this name; yield whether it is held. It dies with its holder."""
        with contextlib.closing(Lock(self.path / f"{name}.lock")) as lock:
            yield lock.acquire()

    def is_there(self) -> bool:
        """Say whether it still exists: temporary folders are swept."""
        return self.path.is_dir() and (not _UNIX or self._socket.exists())

    def touch(self) -> None:
        """Keep it young: what is old in a temporary folder is swept."""
        for path in (self.path, *self.path.iterdir()):
            with contextlib.suppress(OSError):
                os.utime(path)

    def save(self, name: str, content: bytes) -> None:
        """Replace a file as a whole."""
        fresh = self.path / f"{name}.new"
        fresh.unlink(missing_ok=True)
        write(fresh, content)
        fresh.replace(self.path / name)

    def load(self, name: str) -> bytes | None:
        """Return a file's content, None where there is none."""
        return read(self.path / name)

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def _socket(self) -> Path:
        return self.path / "socket"


def roots() -> list[Path]:
    """Return where services of this user may have their folders: this process's own first."""
    found = [_root(None), *(user_folder(Path(path)) for path in (tempfile.gettempdir(), "/tmp"))]  # noqa: S108
    if hasattr(os, "getuid"):  # a login session's, which a service may or may not have been given
        found.append(user_folder(Path(f"/run/user/{os.getuid()}")))
    return list(dict.fromkeys(found))


def _root(wanted: str | None) -> Path:
    if wanted is not None:
        return user_folder(Path(wanted).absolute())
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # It may be another user's, kept by sudo or by a server that gave up root.
    if runtime and os.access(runtime, os.W_OK) and Path(runtime).stat().st_uid == os.getuid():
        return user_folder(Path(runtime))
    return user_folder(Path(tempfile.gettempdir()))
