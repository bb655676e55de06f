"""How is a repeated trouble said once?"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LOGGER = logging.getLogger("mlguard")


class Seldom:
    """Log each kind of event at most once per period, so that no client can fill the log.

    Args:
        seconds: The period.
        timer: A monotonic clock in seconds.
    """

    def __init__(self, seconds: float = 60.0, timer: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._timer = timer
        self._last: dict[str, float] = {}

    def warning(self, kind: str, message: str, *args: object) -> None:
        """Log a warning, unless one of this kind was logged within the period.

        Kinds come from the code, never from a client: they are kept.
        """
        now = self._timer()
        last = self._last.get(kind)
        if last is None or now - last >= self._seconds:
            self._last[kind] = now
            LOGGER.warning(message, *args)
