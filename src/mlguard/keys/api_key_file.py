"""Which API keys stand in the file, and who writes there?"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

from mlguard.auth.api_keys import KeyBook
from mlguard.host.private import Lock

MOST = 64 * 1024 * 1024  # bytes
_PATIENCE = 10.0  # seconds
_PAUSE = 0.02

Seen: TypeAlias = tuple[int, int, int]


class ApiKeyFile:
    """A file that is replaced as a whole: who reads it sees all of one version, or of the next.

    Args:
        path: Of the file; it may be mounted into a container, and need not be writable there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Seen | None = None

    def news(self) -> KeyBook | None:
        """Read the file where it is another than the one that was read last, else return None.

        Raises:
            OSError: It cannot be read.
            ValueError: It holds something else.
        """
        with self._path.open("rb") as file:
            found = os.fstat(file.fileno())
            seen = (found.st_ino, found.st_mtime_ns, found.st_size)
            if seen == self._seen:
                return None
            if found.st_size > MOST:
                raise ValueError(f"{self._path}: is larger than {MOST} bytes")
            text = file.read()
        book = self._parsed(text)
        self._seen = seen
        return book

    def change(self, edit: Callable[[KeyBook], KeyBook]) -> None:
        """Replace the file by what is made of it; one after another, whoever does.

        Raises:
            OSError: It cannot be read or written.
            ValueError: It holds something else, or `edit` says so.
        """
        with self._locked():
            try:
                found = self._path.stat()
                book = self._parsed(self._path.read_bytes())
            except FileNotFoundError:
                found, book = None, KeyBook.new()
            self._write(edit(book).to_json(), found)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock, until = (
            Lock(self._path.with_name(f".{self._path.name}.lock")),
            time.time() + _PATIENCE,
        )
        while not lock.acquire():
            if time.time() > until:
                raise TimeoutError(f"{self._path}: another process is writing it")
            time.sleep(_PAUSE)
        with contextlib.closing(lock):
            yield

    def close(self) -> None:
        """Hold nothing."""

    def _write(self, text: bytes, found: os.stat_result | None) -> None:
        draft = self._path.with_name(f".{self._path.name}.{secrets.token_hex(4)}")
        try:
            with os.fdopen(
                os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
            ) as file:
                file.write(text)
                if found is not None:  # who could read it, can
                    with contextlib.suppress(PermissionError):
                        os.fchown(file.fileno(), found.st_uid, found.st_gid)
                    os.fchmod(file.fileno(), found.st_mode & 0o777)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        finally:
            draft.unlink(missing_ok=True)

    def _parsed(self, text: bytes) -> KeyBook:
        try:
            return KeyBook.from_json(text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._path}: {error}") from None
