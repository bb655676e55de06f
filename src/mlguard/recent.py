"""What was seen of late?"""

from __future__ import annotations

from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Keeps so many entries at most; the oldest leave together, half of all at once.

    Threads may share it; reading takes no lock.

    Args:
        most: Entries that are kept.
    """

    def __init__(self, most: int) -> None:
        self._half = max(1, most // 2)
        self._lock = Lock()
        self._young: dict[K, V] = {}
        self._old: dict[K, V] = {}

    def __len__(self) -> int:
        """Tell how many entries are kept, one that came again counted twice."""
        return len(self._young) + len(self._old)

    def get(self, key: K) -> V | None:
        """Return an entry, which stays as if it were new."""
        found = self._young.get(key)
        if found is None and self._old:
            found = self._old.get(key)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: K, value: V) -> None:
        """Keep an entry, in place of an older one of this key."""
        young = self._young
        if key in young:
            young[key] = value  # in what may have grown old meanwhile, and is kept all the same
            return
        with self._lock:
            if len(self._young) >= self._half and key not in self._young:
                self._old = self._young  # first, so that who reads meanwhile misses nothing
                self._young = {}
            self._young[key] = value

    def items(self) -> list[tuple[K, V]]:
        """Return all keys and entries."""
        with self._lock:
            return list({**self._old, **self._young}.items())

    def drop(self, key: K) -> None:
        """Keep an entry no longer."""
        with self._lock:
            self._young.pop(key, None)
            self._old.pop(key, None)
