"""Which sampled rows has this worker not handed on yet?"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mlguard.host.sampled_rows import write_row

MAX_QUEUED = 10_000  # rows
_TOGETHER = 2**20  # bytes of rows, beyond which no more are handed on at once

Drop = Callable[[str, str, str, int], None]
"""Told the model, version, reason and count of rows that are lost after they were offered."""


class QueuedRow(NamedTuple):
    """A row that waits.

    Attributes:
        model: Whose.
        version: Of the model.
        written: With both and its values, as JSON.
    """

    model: str
    version: str
    written: str


class RowQueue:
    """Rows on their way; any thread may offer some, one hands them on.

    Args:
        on_drop: Told of rows that are lost.
    """

    def __init__(self, on_drop: Drop) -> None:
        self._on_drop = on_drop
        self._rows: deque[QueuedRow] = deque()

    def __len__(self) -> int:
        return len(self._rows)

    def forget(self) -> None:
        """Begin anew, in a forked process: what waits is the parent's."""
        self._rows = deque()

    def offer(self, model: str, version: str, values: object, said: object = None) -> bool:
        """Queue a row, and what was said of it; False where it is lost, as too many wait."""
        if len(self._rows) >= MAX_QUEUED:
            return False
        written, trouble = write_row(model, version, values, said)
        if trouble:
            self._on_drop(model, version, trouble, 1)
        else:
            self._rows.append(QueuedRow(model, version, written))
        return True

    def hand_on(self, put: Callable[[Sequence[QueuedRow]], Sequence[QueuedRow]]) -> None:
        """Hand on all rows, some at once.

        Args:
            put: Takes rows, and returns those that there is no room for, which are lost. Where it
                raises, they wait again.
        """
        while rows := self._next():
            try:
                lost = put(rows)
            except Exception:
                self._rows.extendleft(reversed(rows))
                raise
            for model, version, _ in lost:
                self._on_drop(model, version, "busy", 1)

    def _next(self) -> list[QueuedRow]:
        rows: list[QueuedRow] = []
        size = 0
        while self._rows and size < _TOGETHER:
            rows.append(self._rows.popleft())
            size += len(rows[-1].written)
        return rows
