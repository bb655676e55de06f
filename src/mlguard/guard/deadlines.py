"""What if something takes too long in a thread that cannot be interrupted?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass


@dataclass(slots=True, eq=False)
class Deadline:
    """A moment by which something must be done.

    Attributes:
        at: By the clock of its deadlines.
        cancel: What ends it from another thread.
        has_passed: Whether it was ended.
    """

    at: float
    cancel: Callable[[], object]
    has_passed: bool = False


class Deadlines:
    """What is to be done in time in this process; `check` ends what is late.

    Args:
        timer: A monotonic clock in seconds.
    """

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._open: dict[Deadline, None] = {}

    @contextmanager
    def within(self, seconds: float, cancel: Callable[[], object]) -> Iterator[Deadline]:
        """Surround what must be done in so many seconds.

        Args:
            seconds: How long it may take.
            cancel: Ends it; called by another thread.
        """
        deadline = Deadline(self._timer() + seconds, cancel)
        self._open[deadline] = None
        try:
            yield deadline
        finally:
            self._open.pop(deadline, None)

    def check(self) -> None:
        """End what is late."""
        now = self._timer()
        for deadline in list(self._open):
            if deadline.at <= now and not deadline.has_passed:
                deadline.has_passed = True
                with suppress(OSError):
                    deadline.cancel()
