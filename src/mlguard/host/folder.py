"""Where do the workers of a service meet, and who else can get in?

In a folder that only this user can open: <folder of the settings, runtime folder or temporary
folder>/mlguard-<uid>/<hash of the service's name>. It holds the file, and the key of pseudonyms.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from mlguard.host.private import Lock, make_folder, read, user_folder, verify, write
from mlguard.host.schema import NUMBER

_KEY_BYTES = 32


class Folder:
    """The private folder of a service on this host.

    Attributes:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, service: str, wanted: Path | None = None) -> Folder:
        """Return the folder of a service; it need not exist yet.

        Args:
            service: Its name.
            wanted: Where the settings want it, None where this platform keeps such folders.
        """
        return cls((user_folder(wanted.absolute()) if wanted else _usual()) / _name(service))

    @classmethod
    def existing(cls, service: str, wanted: Path | None = None) -> list[Folder]:
        """Find the folders that a service of this user may have here.

        An operator may have been given another environment than the service was.
        """
        roots = [user_folder(wanted.absolute())] if wanted else usual_roots()
        found = []
        for root in roots:
            with contextlib.suppress(OSError):
                verify(root)
                verify(root / _name(service))
                found.append(cls(root / _name(service)))
        return found

    @classmethod
    def used(cls, service: str, wanted: Path | None = None) -> list[Folder]:
        """Find those in which the service has written its file."""
        return [folder for folder in cls.existing(service, wanted) if folder.database.exists()]

    @property
    def database(self) -> Path:
        """The file."""
        return self.path / "host.db"

    def prepare(self) -> None:
        """Make it where it is missing; an OSError says why it cannot be, or be trusted."""
        root = self.path.parent
        root.parent.mkdir(0o700, exist_ok=True)
        make_folder(root)
        make_folder(self.path)

    def key(self) -> bytes:
        """Return 32 secret bytes, the same for every worker; an OSError where there are none."""
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

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[bool]:
        """Try to hold the lock of this name; yield whether it is held. It dies with its holder."""
        with contextlib.closing(Lock(self.path / f"{name}.lock")) as lock:
            yield lock.acquire()

    def touch(self) -> None:
        """Keep it young: what is old in a temporary folder is swept."""
        for path in (self.path, *self.path.iterdir()):
            with contextlib.suppress(OSError):
                os.utime(path)


def usual_roots() -> list[Path]:
    """Return where services of this user may have their folders: this process's own first."""
    found = [_usual(), *(user_folder(Path(path)) for path in (tempfile.gettempdir(), "/tmp"))]  # noqa: S108
    if hasattr(os, "getuid"):  # a login session's, which a service may or may not have been given
        found.append(user_folder(Path(f"/run/user/{os.getuid()}")))
    return list(dict.fromkeys(found))


def _name(service: str) -> str:
    text = f"{NUMBER} {service}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:16]


def _usual() -> Path:
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    # It may be another user's, kept by sudo or by a server that gave up root; a volume is root's.
    if runtime and os.access(runtime, os.W_OK):
        with contextlib.suppress(OSError):
            if Path(runtime).stat().st_uid in (0, os.getuid()):
                return user_folder(Path(runtime))
    return user_folder(Path(_temporary()))


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        raise PermissionError(
            "no folder can be written to: name one in service.folder, or in TMPDIR"
        ) from None
