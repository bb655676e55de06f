"""Who sees to it that what is revoked is known everywhere, and not forgotten?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from threading import Lock

from prometheus_client import CollectorRegistry

from mlguard.logs import Seldom
from mlguard.metrics import Family, families
from mlguard.metrics.worker import degraded
from mlguard.redis.revocations import RevocationStore
from mlguard.revocations import Revocation
from mlguard.runtime.companion.book import Book
from mlguard.runtime.companion.errand import Errand
from mlguard.runtime.companion.revoked_file import RevokedFile

_FILE_EVERY = 0.25  # seconds
_STORE_EVERY = 0.5
_LAST_TRY = 1.0


class Keeper:
    """Keeps a book, the file of this host and the store of all hosts alike.

    Neither file nor store is waited for by a worker: where one fails the rest goes on, says so
    once a minute, and catches up.

    Attributes:
        book: What all of them are to hold.

    Args:
        file: The host's.
        store: Of all hosts, where there is one.
    """

    def __init__(self, book: Book, file: RevokedFile, store: RevocationStore | None = None) -> None:
        self.book = book
        self._file = file
        self._lock = Lock()
        self._owed: list[tuple[Future[int], int]] = []
        self._troubles: set[str] = set()
        self._log = Seldom()
        self._registry = CollectorRegistry()
        self._degraded = degraded()
        self._registry.register(self._degraded)
        self._errands = [Errand("mlguard-revoked-file", _FILE_EVERY, self._save)]
        if store is not None:
            self._errands.append(
                Errand(
                    "mlguard-revoked-store",
                    _STORE_EVERY,
                    lambda: self._does("store", store.exchange),
                )
            )

    def start(self) -> None:
        """Read the file; then look after it and the store in threads."""
        self._save()
        for errand in self._errands:
            errand.start()

    def take(self, revocations: Iterable[Revocation]) -> Future[int]:
        """Learn what a worker or an operator revokes; returns at once.

        Returns:
            How many there was no room for, once the others are in the file.
        """
        kept: Future[int] = Future()
        refused = self.book.learn(revocations)
        with self._lock:
            self._owed.append((kept, refused))
        for errand in self._errands:
            errand.wake()
        return kept

    def touch(self) -> None:
        """Keep the file young."""
        self._file.touch()

    def stop(self) -> None:
        """Write what is not written yet, as far as that goes in a second."""
        for errand in self._errands:
            errand.end()
        for errand in self._errands:
            errand.join(_LAST_TRY)

    def families(self) -> list[Family]:
        """Write down whether all is well."""
        is_lacking = self._file.was_damaged or self.book.is_full
        self._degraded.cell("revocations").set(bool(self._troubles) or is_lacking)
        return families(self._registry)

    def _save(self) -> None:
        with self._lock:
            owed, self._owed = self._owed, []
        if self._does("file", self._file.exchange):
            for kept, refused in owed:
                kept.set_result(refused)
        else:
            with self._lock:
                self._owed = owed + self._owed

    def _does(self, part: str, exchange: Callable[[Book], None]) -> bool:
        try:
            exchange(self.book)
        except Exception as error:  # noqa: BLE001 - without one the others go on
            self._troubles.add(part)
            self._log.warning(part, "revocations are not kept in the %s: %s", part, error)
            return False
        self._troubles.discard(part)
        return True
