"""What is revoked, as this companion knows it?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from threading import Lock

from mlguard.logs import Seldom
from mlguard.revocations import MAX_ENTRIES, Revocation, Revocations, RevocationsFull


class Book:
    """All that is revoked, from whomever it is learned. Threads may share it.

    Attributes:
        revision: Changes with every entry.
        on_news: Told, in the thread that learns, what was not known before.

    Args:
        clock: Seconds since 1970.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._known = Revocations()
        self._clock = clock
        self._lock = Lock()
        self._log = Seldom()
        self.revision = 0
        self.on_news: Callable[[list[Revocation]], None] = lambda _: None

    def learn(self, revocations: Iterable[Revocation]) -> int:
        """Take in what is not past; return how many there was no room for."""
        now, refused = self._clock(), 0
        with self._lock:
            news = self._known.news(r for r in revocations if not r.is_past(now))
            if not news:
                return 0
            if len(self._known) + len(news) > MAX_ENTRIES:
                self._known.forget(now)
            try:
                self._known.add(news)
            except RevocationsFull as full:
                refused = full.refused
            self.revision += 1
        if refused:
            self._log.warning("full", "no room for %d more revocations", refused)
        self.on_news(news)
        return refused

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more."""
        return len(self._known) >= MAX_ENTRIES

    def entries(self) -> list[Revocation]:
        """Return what is revoked now, without what is past."""
        now = self._clock()
        return [r for r in self._known if not r.is_past(now)]
