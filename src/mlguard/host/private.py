"""Which files and folders can only this user open?"""

from __future__ import annotations

import contextlib
import getpass
import os
import stat
from pathlib import Path

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def user_folder(parent: Path) -> Path:
    """Return the path of this user's own folder in one that users share."""
    user = os.getuid() if hasattr(os, "getuid") else getpass.getuser()
    return parent / f"mlguard-{user}"


def make_folder(path: Path) -> None:
    """Make a folder where it is missing; an OSError says why it cannot be trusted."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(0o700)
    verify(path)


def verify(path: Path) -> None:
    """Do nothing where only this user can open a folder; an OSError says why it is not so."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{path}: not a folder of its own, a link perhaps")
    _demand_ours(path, found, 0o700)


def read(path: Path) -> bytes | None:
    """Return a file's content, None where there is none; an OSError says why it is not trusted."""
    flags = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0)
    try:
        file = os.fdopen(os.open(path, flags), "rb")
    except FileNotFoundError:
        return None
    with file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise PermissionError(f"{path}: not a file")
        _demand_ours(path, found, 0o600)
        return file.read()


def write(path: Path, content: bytes, *, is_lasting: bool = False) -> None:
    """Write a new file that only this user can open; one that is lasting survives the power."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK
    with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
        file.write(content)
        if is_lasting:
            file.flush()
            os.fsync(file.fileno())


class Lock:
    """A file that one at a time can hold; where the platform has no such locks, all can.

    It is there only while it is held, and dies with the process that holds it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Try to hold it; say whether it is held."""
        if fcntl is None:  # pragma: no cover - Windows
            return True
        while True:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(descriptor)
                if isinstance(error, BlockingIOError):
                    return False
                raise
            self._descriptor = descriptor
            # Its last holder may have removed it before we held it.
            if self._is_there(descriptor):
                return True
            self.close()

    def close(self) -> None:
        """Let others hold it."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            return
        if self._is_there(descriptor):
            self._path.unlink(missing_ok=True)
        # A forked child may hold the descriptor too: closing it would not unlock.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    def _is_there(self, descriptor: int) -> bool:
        try:
            return os.path.samestat(self._path.lstat(), os.fstat(descriptor))
        except FileNotFoundError:
            return False


def _demand_ours(path: Path, found: os.stat_result, mode: int) -> None:
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            raise PermissionError(f"{path}: belongs to user {found.st_uid}")
        if found.st_mode & 0o077:
            raise PermissionError(
                f"{path}: mode is {stat.S_IMODE(found.st_mode):o}, must be {mode:o}"
            )
