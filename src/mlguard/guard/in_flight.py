"""How many requests are under way in this process?"""

from __future__ import annotations

from collections.abc import Hashable
from threading import Lock


class InFlight:
    """Requests in flight, of everybody and of each caller.

    Args:
        most: Of everybody; None for any number.
    """

    def __init__(self, most: int | None) -> None:
        self._most = most
        self._lock = Lock()
        self._all = 0
        self._of: dict[Hashable, int] = {}

    @property
    def are_too_many(self) -> bool:
        """Whether the service has as many as it takes."""
        return self._most is not None and self._all >= self._most

    def acquire(self) -> bool:
        """Count one, unless it would be one too many."""
        if self._most is None:
            return True
        with self._lock:
            if self._all >= self._most:
                return False
            self._all += 1
            return True

    def release(self) -> None:
        """Count it no longer."""
        if self._most is not None:
            with self._lock:
                self._all -= 1

    def acquire_of(self, whose: Hashable, most: int) -> bool:
        """Count one of a caller, unless it would be one too many."""
        with self._lock:
            now = self._of.get(whose, 0)
            if now >= most:
                return False
            self._of[whose] = now + 1
            return True

    def release_of(self, whose: Hashable) -> None:
        """Count it no longer."""
        with self._lock:
            left = self._of.pop(whose) - 1
            if left:
                self._of[whose] = left
