"""Where are sums that must outlive the service, the process and the host's next start?

In a folder that the settings name, in a file that one ledger at a time may write. What was answered
is there when the process is killed, and at most 50 milliseconds later when the power fails.
"""

from __future__ import annotations

import hashlib
import os
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Event, Thread

from mlguard.host.private import Lock
from mlguard.ledger import LIFETIME, MemoryLedger, Note
from mlguard.logs import LOGGER
from mlguard.runtime.stores.host.journal import Journal

HOMELESS = "lifetimes need host:///a/folder/that/outlives/reboots"
_SYNC_PAUSE = 0.02  # seconds


class Lifetimes:
    """The file with a service's lifetime sums; where it cannot be used, none may be counted.

    Args:
        path: The folder, made where it is missing; None where the settings name none.
        service: The service's name.
        ledger: Where the sums are counted.

    Attributes:
        trouble: Why they cannot be counted now; "" where they can.
    """

    def __init__(self, path: Path | None, service: str, ledger: MemoryLedger) -> None:
        name = hashlib.sha256(service.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        self._folder = path
        self._ledger = ledger
        self.trouble = HOMELESS
        if path is not None:
            self.journal = Journal(path / f"lifetimes-{name}.jsonl", is_lasting=True)
            self._lock = Lock(path / f"lifetimes-{name}.lock")
        self._is_loaded = False
        self._is_new = Event()
        self._is_over = False
        self._thread: Thread | None = None

    def look_after(self) -> None:
        """Begin, or begin again where it is possible now."""
        if self._folder is None:
            return
        if not self.trouble and not self.journal.is_there:
            self.trouble = f"{self._folder}: the file is gone"
        if self.trouble:
            try:
                self._begin(self._folder)
            except (OSError, ValueError) as error:
                self._fail(error)

    def write(self, notes: Sequence[Note]) -> None:
        """Write sums down; an OSError where they may not be there, and none may be counted."""
        try:
            self.journal.append(notes)
        except OSError as error:
            self._fail(error)
            raise
        self._is_new.set()

    def close(self) -> None:
        """Let another ledger go on."""
        self._is_over = True
        self._is_new.set()
        if self._thread is not None:
            self._thread.join()
        if self._is_loaded:
            self.journal.close()
            self._lock.close()

    def _begin(self, folder: Path) -> None:
        if self._is_loaded:
            notes = (note for key in self._ledger.keys(lifetime=True) for note in self._sums(key))
            self.journal.rewrite(notes)
        else:
            _prepare(folder)
            if not self._lock.acquire():
                raise BlockingIOError(f"another ledger writes in {folder}")
            try:
                self._load()
            except (OSError, ValueError):
                self._lock.close()
                raise
        self.trouble = ""
        self._is_new.set()
        if self._thread is None:
            self._thread = Thread(target=self._sync, name="mlguard-lifetimes", daemon=True)
            self._thread.start()

    def _load(self) -> None:
        for _ in self.journal.load(self._ledger.restore):
            pass
        self.journal.open()
        self._is_loaded = True

    def _fail(self, error: Exception) -> None:
        """Have none counted until it is mended; said once."""
        before, self.trouble = self.trouble, f"lifetimes cannot be kept: {error}"
        if self.trouble != before:
            LOGGER.warning("%s", self.trouble)

    def _sums(self, key: str) -> list[Note]:
        return [note for note in self._ledger.notes(key) if note.kind == LIFETIME]

    def _sync(self) -> None:
        while not self._is_over:
            self._is_new.wait()
            self._is_new.clear()
            try:
                self.journal.sync()
            except OSError as error:
                self._fail(error)
            time.sleep(_SYNC_PAUSE)


def _prepare(folder: Path) -> None:
    """Make it where it is missing; an OSError says why it cannot be trusted."""
    if not folder.is_absolute():
        raise ValueError(f"{folder} is not absolute")
    folder.mkdir(0o700, exist_ok=True)
    found = folder.stat()
    if not stat.S_ISDIR(found.st_mode):
        raise NotADirectoryError(f"{folder} is no folder")
    if found.st_uid not in (os.getuid(), 0):
        raise PermissionError(f"{folder} belongs to user {found.st_uid}")
    if found.st_mode & 0o022:
        raise PermissionError(
            f"others can write to {folder}: its mode is {stat.S_IMODE(found.st_mode):o}"
        )
