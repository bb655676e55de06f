"""Which rows are judged together?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class RowWindow:
    """Rows that wait for others; each is in one window only.

    Attributes:
        rows: Their values.
        times: When each came, in seconds since 1970.
    """

    rows: list[object] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def age(self, now: float) -> float:
        """Return the seconds since its first row, below any other without rows."""
        return now - self.times[0] if self.times else -math.inf


class Windows:
    """The windows of one model, one after the other: closed when full, or when too old.

    Args:
        size: Rows of one that is full.
        max_age: Seconds after which one is closed with the rows that it has.
    """

    def __init__(self, size: int, max_age: float = math.inf) -> None:
        self._size = size
        self._max_age = max_age
        self._open = RowWindow()

    @property
    def size(self) -> int:
        """Rows of one that is full."""
        return self._size

    @property
    def waiting(self) -> int:
        """Rows in the window that is open."""
        return len(self._open.rows)

    def add(self, values: object, now: float) -> RowWindow | None:
        """Add a row; return its window where that is full now."""
        self._open.rows.append(values)
        self._open.times.append(now)
        return self._close() if len(self._open.rows) >= self._size else None

    def aged(self, now: float) -> RowWindow | None:
        """Return the open window where it is too old to wait for more rows."""
        return self._close() if self._open.age(now) >= self._max_age else None

    def _close(self) -> RowWindow:
        closed, self._open = self._open, RowWindow()
        return closed
