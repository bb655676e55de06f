"""What is revoked, as this companion knows it?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock

from mlguard.logs import Seldom
from mlguard.revocations import MAX_ENTRIES, Key, Revocation, Revocations


class Book:
    """All that is revoked, from whomever it is learned. Threads may share it.

    Attributes:
        revision: Changes with every entry.

    Args:
        on_news: Told, in the thread that learns, what was not known before.
    """

    def __init__(self, on_news: Callable[[list[Revocation]], None] = lambda _: None) -> None:
        self._known = Revocations()
        self._on_news = on_news
        self._lock = Lock()
        self._log = Seldom()
        self.revision = 0

    def learn(self, revocations: Iterable[Revocation]) -> int:
        """Take in what is not past; return how many there was no room for."""
        with self._lock:
            news, refused = self._known.learn(revocations, time.time())
            self.revision += bool(news)
        if refused:
            self._log.warning("full", "no room for %d more revocations", refused)
        if news:
            self._on_news(news)
        return refused

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more."""
        return len(self._known) >= MAX_ENTRIES

    def entries(self) -> list[Revocation]:
        """Return what is revoked now, without what is past."""
        now = time.time()
        return [r for r in self._known if not r.is_past(now)]

    def missing_from(self, stored: Mapping[Key, Revocation]) -> list[Revocation]:
        """Return the entries that are not stored, or stored otherwise."""
        return [r for r in self.entries() if stored.get(r.key) != r]
