"""Does a drift last? What is worth a page."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable


class Episodes:
    """Which features' drift lasts: in enough of the last windows, which must not overlap.

    A single window may drift by chance, or by an hour that was unlike any other. A drift that
    lasts ends when none of the last windows shows it, so that nobody is told twice of one that is
    hard to see.

    Args:
        drifted: Windows in which a feature must drift.
        of: The last windows of which.
    """

    def __init__(self, drifted: int = 2, of: int = 2) -> None:
        if not 1 <= drifted <= of:
            raise ValueError(f"drifted={drifted!r} must be between 1 and of={of!r}")
        self._drifted = drifted
        self._last: deque[frozenset[str]] = deque(maxlen=of)
        self._lasting: frozenset[str] = frozenset()

    def add(self, drifted: Iterable[str]) -> frozenset[str]:
        """Add what one window found; return the features whose drift lasts."""
        self._last.append(frozenset(drifted))
        counts = Counter(name for window in self._last for name in window)
        begun = {name for name, times in counts.items() if times >= self._drifted}
        self._lasting = frozenset(begun | (self._lasting & counts.keys()))
        return self._lasting

    def resume(self, lasting: Iterable[str]) -> None:
        """Go on where an earlier process stopped, of which only what lasted is known."""
        self._lasting = frozenset(lasting)
        self._last.append(self._lasting)
