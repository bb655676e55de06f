"""How does a ledger that is killed lose nothing?

Each counter that changed is written to a file, where it stands then, before the change is
answered. The last note of a counter is what counts, so the file can be written anew while it is
appended to: every note that comes meanwhile goes into both.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from threading import Lock

from mlguard.host.private import read
from mlguard.ledger import Note
from mlguard.logs import LOGGER

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0)
_SLACK = 4 * 2**20  # bytes before the file is written anew
_GROWTH = 2  # times its length when it was last written anew
_SLICE = 100  # accounts that are written together, which is a millisecond
_REST = 0.001  # seconds between two

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Journal:
    """A file of notes.

    Args:
        path: Where it is; only this user may open it.
        is_lasting: Whether it is to survive the power, as far as it was synced.
    """

    def __init__(self, path: Path, *, is_lasting: bool = False) -> None:
        self._path = path
        self._is_lasting = is_lasting
        self._swap = Lock()
        self._file = -1
        self._fresh = -1
        self._size = 0
        self._compact_at = _SLACK
        self._is_torn = False

    def load(self, take: Callable[[Note], None]) -> Iterator[Note]:
        """Have each note taken that can be, in their order; tell which.

        Args:
            take: Raises a ValueError, TypeError or OverflowError for what it cannot.
        """
        lost = 0
        for line in (read(self._path) or b"").splitlines():
            try:
                note = Note(*json.loads(line))
                take(note)
            except (ValueError, TypeError, OverflowError, RecursionError):
                # Empty, or of a write that was never ended: it was not answered.
                lost += bool(line)
            else:
                yield note
        if lost:
            LOGGER.warning("%s: %d lines cannot be read", self._path, lost)

    def open(self) -> None:
        """Begin to append; an OSError where that cannot be."""
        self._file = os.open(self._path, _FLAGS, 0o600)
        self._size = os.fstat(self._file).st_size
        self._is_torn = self._size > 0

    def append(self, notes: Iterable[Note]) -> None:
        """Write notes down; an OSError where they may not be there whole."""
        lines = _lines(notes)
        if self._fresh >= 0:
            try:
                _write(self._fresh, lines)
            except OSError:
                self._give_up()
        torn, self._is_torn = self._is_torn, True
        _write(self._file, b"\n" + lines if torn else lines)
        self._is_torn = False
        self._size += len(lines)

    @property
    def has_grown(self) -> bool:
        """Whether it is time to write it anew."""
        return self._fresh < 0 and self._size > self._compact_at

    @property
    def is_there(self) -> bool:
        """Whether what is written can still be found."""
        try:
            return os.path.samestat(self._path.stat(), os.fstat(self._file))
        except OSError:
            return False

    async def compact(self, keys: list[str], notes: Callable[[str], Iterable[Note]]) -> None:
        """Write it anew in slices, between which others have their turn.

        Args:
            keys: The accounts.
            notes: Tells where one account's counters stand.
        """
        try:
            self._begin()
            for start in range(0, len(keys), _SLICE):
                if self._fresh < 0:
                    break
                some = keys[start : start + _SLICE]
                _write(self._fresh, _lines(note for key in some for note in notes(key)))
                await asyncio.sleep(_REST)
            if self._fresh >= 0 and self._is_lasting:
                await asyncio.to_thread(os.fsync, self._fresh)
            if self._fresh >= 0:
                self._end()
        except OSError as error:
            LOGGER.warning("%s cannot be written anew: %s", self._path, error)
        finally:
            self._give_up()
            self._compact_at = _SLACK + (1 + _GROWTH) * self._size

    def rewrite(self, notes: Iterable[Note]) -> None:
        """Write it anew at once; an OSError where that cannot be."""
        self._begin()
        try:
            _write(self._fresh, _lines(notes))
            os.fsync(self._fresh)
            self._end()
        finally:
            self._give_up()

    def sync(self) -> None:
        """Have what is written survive the power."""
        with self._swap:
            if self._file < 0:
                return
            copy = os.dup(self._file)
        try:
            os.fsync(copy)
            _sync_folder(self._path.parent)
        finally:
            os.close(copy)

    def close(self) -> None:
        """Let go of the file."""
        self._give_up()
        with self._swap:
            file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _begin(self) -> None:
        self._give_up()
        fresh = self._path.with_name(self._path.name + ".new")
        fresh.unlink(missing_ok=True)
        self._fresh = os.open(fresh, _FLAGS | os.O_EXCL, 0o600)

    def _end(self) -> None:
        self._path.with_name(self._path.name + ".new").replace(self._path)
        with self._swap:
            old, self._file, self._fresh = self._file, self._fresh, -1
        self._size = os.fstat(self._file).st_size
        self._is_torn = False
        if old >= 0:
            os.close(old)

    def _give_up(self) -> None:
        """Forget a new file that is not whole."""
        fresh, self._fresh = self._fresh, -1
        if fresh >= 0:
            os.close(fresh)


def _lines(notes: Iterable[Note]) -> bytes:
    return "".join([_encode(note) + "\n" for note in notes]).encode()


def _write(file: int, content: bytes) -> None:
    """Write all of it, at once where the disk has room."""
    while content:
        content = content[os.write(file, content) :]


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
