"""Where does a host write down what is revoked, for the services and companions to come?

In one file for all services of a name, beside their private folders, which it outlives.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from mlguard.host.private import Lock, make_folder, read, verify, write
from mlguard.logs import LOGGER
from mlguard.revocations import Key, Revocation
from mlguard.runtime.companion.book import Book

_LOCK_WAIT = 1.0  # seconds
_RETRY = 0.01

Mark: TypeAlias = tuple[int, int, int]
"""What differs between two contents of a file: its inode, time and size."""


@dataclass(frozen=True, slots=True)
class _Content:
    entries: dict[Key, Revocation]
    is_whole: bool


class RevokedFile:
    """The file, read and written by every companion of a service's name on this host.

    Args:
        folder: Where it is; only this user may open it.
        service: The service's name.

    Attributes:
        was_damaged: Whether some of it could not be read, and so may be accepted again.
    """

    def __init__(self, folder: Path, service: str) -> None:
        self._service = service
        name = hashlib.sha256(service.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self.path = folder / f"revoked-{name}.json"
        self._seen: Mark | None = None
        self._content = _Content({}, is_whole=True)
        self._revision: int | None = None
        self.was_damaged = False

    def read(self) -> list[Revocation]:
        """Return what is revoked, as written there; an OSError says why it cannot be trusted."""
        try:
            verify(self.path.parent)
        except FileNotFoundError:
            return []
        content = self._load()
        if not content.is_whole:
            LOGGER.warning("%s is damaged: what can be read of it counts", self.path)
        now = time.time()
        return [r for r in content.entries.values() if not r.is_past(now)]

    def exchange(self, book: Book) -> None:
        """Let the book learn what others wrote, and write what it alone knows.

        Raises:
            OSError: It cannot be read or written, or be trusted.
        """
        revision = book.revision
        if self._mark() == self._seen and revision == self._revision:
            return
        self._revision = None  # where the rest fails it is tried again
        self._learn(book)
        if not self._content.is_whole or book.missing_from(self._content.entries):
            self._rewrite(book)
        self._revision = revision

    def touch(self) -> None:
        """Keep it young: what is old in a temporary folder is swept."""
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def _learn(self, book: Book) -> None:
        mark = self._mark()
        if mark != self._seen:
            self._content = self._load()
            book.learn(self._content.entries.values())
            self._seen = mark

    def _rewrite(self, book: Book) -> None:
        make_folder(self.path.parent)
        with self._locked():
            self._learn(book)
            if not self._content.is_whole:
                aside = self.path.with_suffix(".corrupt")
                self.path.replace(aside)
                self.was_damaged = True
                LOGGER.error("what was revoked on this host is damaged: see %s", aside)
            # Not the book's entries alone: it may have had no room for others'.
            now = time.time()
            entries = self._content.entries | {r.key: r for r in book.entries()}
            entries = {key: r for key, r in entries.items() if not r.is_past(now)}
            self._save([r.as_dict() for r in entries.values()])
            self._content, self._seen = _Content(entries, is_whole=True), self._mark()

    def _save(self, entries: list[dict[str, object]]) -> None:
        fresh = self.path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        written = json.dumps({"service": self._service, "revoked": entries})
        write(fresh, written.encode(), is_lasting=True)
        fresh.replace(self.path)

    def _load(self) -> _Content:
        text = read(self.path)
        return _Content({}, is_whole=True) if text is None else _parse(text)

    def _mark(self) -> Mark | None:
        try:
            found = self.path.lstat()
        except FileNotFoundError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        deadline = time.monotonic() + _LOCK_WAIT
        with contextlib.closing(Lock(self.path.with_suffix(".lock"))) as lock:
            while not lock.acquire():
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.path}: another process does not unlock it")
                time.sleep(_RETRY)
            yield


def _parse(text: bytes) -> _Content:
    entries: dict[Key, Revocation] = {}
    try:
        revoked = json.loads(text)["revoked"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return _Content(entries, is_whole=False)
    is_whole = isinstance(revoked, list)
    for written in revoked if is_whole else ():
        try:
            revocation = Revocation.from_dict(written)
        except ValueError:
            is_whole = False
        else:
            entries[revocation.key] = revocation.joined(entries.get(revocation.key))
    return _Content(entries, is_whole)
