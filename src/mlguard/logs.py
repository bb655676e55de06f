"""How is a repeated trouble said once?"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

LOGGER = logging.getLogger("mlguard")


class _LastResort(logging.Handler):
    """Write with level and name where nobody has configured logging.

    Python's own last resort would write the text alone. An app's configuration is never touched,
    and where there is one, this is silent.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s[%(process)d] %(message)s"))

    def filter(self, record: logging.LogRecord) -> bool:
        is_alone = LOGGER.handlers == [self] and not logging.getLogger().handlers
        return is_alone and bool(super().filter(record))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            print(self.format(record), file=sys.stderr, flush=True)  # noqa: T201 - a last resort
        except Exception:  # noqa: BLE001 - as logging's own handlers do
            self.handleError(record)


LOGGER.addHandler(_LastResort())


_IS_QUIET: ContextVar[bool] = ContextVar("mlguard_quiet", default=False)


class _Quiet(logging.Filter):
    """Drops what is logged in our own doings, and nothing else."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not _IS_QUIET.get()


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Keep a library from logging what is said otherwise, or must not be said."""
    filters = logging.getLogger(logger).filters
    if not any(isinstance(f, _Quiet) for f in filters):
        logging.getLogger(logger).addFilter(_Quiet())
    token = _IS_QUIET.set(True)
    try:
        yield
    finally:
        _IS_QUIET.reset(token)


class RateLimitedLog:
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
