"""Who sees to it that what is revoked is known everywhere, and not forgotten?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Event, Lock, Thread

from prometheus_client import CollectorRegistry

from mlguard.logs import Seldom
from mlguard.metrics import Family, Gauges, families
from mlguard.revocations import Revocation
from mlguard.runtime.companion.book import Book
from mlguard.runtime.companion.revoked_file import RevokedFile
from mlguard.runtime.companion.store import Store

_FILE_EVERY = 0.25  # seconds
_STORE_EVERY = 0.5
_LAST_TRY = 1.0


class Keeper:
    """Keeps a book, the file of this host and the store of all hosts alike.

    Neither file nor store is waited for by a worker: where one fails the rest goes on, says so
    once a minute, and catches up.

    Args:
        file: The host's.
        store: Of all hosts, where there is one.
    """

    def __init__(self, file: RevokedFile, store: Store | None = None) -> None:
        self.book = Book()
        self._file = file
        self._store = store
        self._lock = Lock()
        self._owed: list[Callable[[], None]] = []
        self._troubles: set[str] = set()
        self._log = Seldom()
        self._registry = CollectorRegistry()
        self._degraded = Gauges(
            "mlguard_degraded", "1 while a part works less well than configured.", ("part",)
        )
        self._registry.register(self._degraded)
        self._errands = [Errand("mlguard-revoked-file", _FILE_EVERY, self._save)]
        if store is not None:
            self._errands.append(Errand("mlguard-revoked-store", _STORE_EVERY, self._meet))

    def start(self) -> None:
        """Read the file; then look after it and the store in threads."""
        self._save()
        for errand in self._errands:
            errand.start()

    def take(self, revocations: Iterable[Revocation], then: Callable[[int], None]) -> None:
        """Learn what a worker or an operator revokes; returns at once.

        Args:
            revocations: What is revoked.
            then: Called once it is in the file, with how many there was no room for.
        """
        refused = self.book.learn(revocations)
        with self._lock:
            self._owed.append(lambda: then(refused))
        for errand in self._errands:
            errand.wake()

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
        self._degraded.cell("revocations").set(bool(self._troubles) or self.book.is_full)
        return families(self._registry)

    def _save(self) -> None:
        with self._lock:
            owed, self._owed = self._owed, []
        if self._does("file", self._file.exchange):
            for tell in owed:
                tell()
        else:
            with self._lock:
                self._owed = owed + self._owed

    def _meet(self) -> None:
        if self._store is not None:
            self._does("store", self._store.exchange)

    def _does(self, part: str, exchange: Callable[[Book], None]) -> bool:
        try:
            exchange(self.book)
        except Exception as error:  # noqa: BLE001 - without one the others go on
            self._troubles.add(part)
            self._log.warning(part, "revocations are not kept in the %s: %s", part, error)
            return False
        self._troubles.discard(part)
        return True


class Errand:
    """Something done every so many seconds, when woken, and once more at the end."""

    def __init__(self, name: str, seconds: float, do: Callable[[], None]) -> None:
        self._seconds = seconds
        self._do = do
        self._is_woken = Event()
        self._is_over = False
        self._log = Seldom()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Do it now."""
        self._is_woken.set()

    def end(self) -> None:
        """Do it once more, and then no more."""
        self._is_over = True
        self.wake()

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._is_woken.wait(self._seconds)
            self._is_woken.clear()
            is_last = self._is_over
            try:
                self._do()
            except Exception as error:  # noqa: BLE001 - the next time may be better
                self._log.warning(self._thread.name, "%s: %r", self._thread.name, error)
