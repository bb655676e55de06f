"""Where do the workers of a service meet, and who else can get in?

In a folder that only this user can open: <runtime or temporary folder>/mlguard-<uid>/<hash>.
It holds the socket, the key that is shared, and what departed workers had counted.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import hmac
import json
import os
import secrets
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection, Listener
from pathlib import Path

import mlguard
from mlguard.runtime.companion.config import CompanionConfig
from mlguard.runtime.companion.processes import Process

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_KEY_BYTES = 32
_MAX_ADDRESS = 100  # bytes: sun_path has 108 on Linux, 104 on macOS
_UNIX = hasattr(socket, "AF_UNIX")


class Lock:
    """A file that one process at a time can lock; where the platform has no such, all can."""

    def __init__(self, path: Path) -> None:
        self._descriptor: int | None = None
        self._is_held = False
        if fcntl is not None:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)

    def acquire(self) -> bool:
        """Try to hold it; say whether it is held."""
        if self._descriptor is not None:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        self._is_held = True
        return True

    def close(self) -> None:
        """Let others hold it."""
        if self._descriptor is not None:
            if self._is_held:
                # A forked child may hold the descriptor too: closing it would not unlock.
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)


class Folder:
    """The private folder of the workers that share a service, its settings and a supervisor."""

    def __init__(self, path: Path) -> None:
        self.path = path

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
            path = Path("/tmp") / ours() / name  # noqa: S108 - checked like any other
        return cls(path)

    def prepare(self) -> None:
        """Make it where it is missing; an OSError says why it cannot be trusted."""
        private(self.path.parent)
        private(self.path)

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
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            key = file.read(_KEY_BYTES + 1)
        if len(key) != _KEY_BYTES:
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
        with contextlib.suppress(FileNotFoundError):
            return (self.path / name).read_bytes()
        return None

    def remove(self) -> None:
        """Leave nothing behind."""
        shutil.rmtree(self.path, ignore_errors=True)

    @property
    def _socket(self) -> Path:
        return self.path / "socket"


def roots() -> list[Path]:
    """Return where services of this user may have their folders: this process's own first."""
    found = [_root(None), Path(tempfile.gettempdir()) / ours(), Path("/tmp") / ours()]  # noqa: S108
    if hasattr(os, "getuid"):  # a login session's, which a service may or may not have been given
        found.append(Path(f"/run/user/{os.getuid()}") / ours())
    return list(dict.fromkeys(found))


def ours() -> str:
    """Return the name of a folder that is this user's."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return f"mlguard-{user}"


def _root(wanted: str | None) -> Path:
    if wanted is not None:
        return Path(wanted).absolute() / ours()
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # It may be another user's, kept by sudo or by a server that gave up root.
    if runtime and os.access(runtime, os.W_OK) and Path(runtime).stat().st_uid == os.getuid():
        return Path(runtime) / ours()
    return Path(tempfile.gettempdir()) / ours()


def private(path: Path) -> None:
    """Make a folder where it is missing; an OSError says why it cannot be trusted."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    verify(path)


def verify(path: Path) -> None:
    """Do nothing where only this user can open a folder; an OSError says why it is not so."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{path}: not a folder of its own, a link perhaps")
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            raise PermissionError(f"{path}: belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            mode = stat.S_IMODE(found.st_mode)
            raise PermissionError(f"{path}: mode is {mode:o}, must be 700")


def write(path: Path, content: bytes, *, is_lasting: bool = False) -> None:
    """Write a new file that only this user can open; one that is lasting survives the power."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        if is_lasting:
            file.flush()
            os.fsync(file.fileno())
