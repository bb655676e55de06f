"""Who waits for a fetch, and when may one be asked for?"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress


class JoinedFetch:
    """Lets any thread ask for a fetch; one at a time is in flight, and all who ask join it.

    `ask` and `close` may be called from any thread and return at once, the rest from the loop.

    Args:
        loop: Where the fetches run.
        timer: A monotonic clock in seconds.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._loop = loop
        self._timer = timer
        self._bell = asyncio.Event()
        self._lock = threading.Lock()  # over the four below; nobody waits while holding it
        self._flight: Future[None] | None = None
        self._was_asked = False
        self._quiet_until = 0.0
        self._is_closed = False

    def ask(self) -> Future[None] | None:
        """Join the fetch in flight, else begin one; None while it is too early for that."""
        with self._lock:
            if self._flight is not None:
                return self._flight
            if self._is_closed or self._timer() < self._quiet_until:
                return None
            self._was_asked = True
            self._flight = _flight()
            self._loop.call_soon_threadsafe(self._bell.set)
            return self._flight

    def begin(self) -> bool:
        """Tell that a fetch begins, and return whether somebody asked for it."""
        with self._lock:
            if self._flight is None and not self._is_closed:
                self._flight = _flight()
                self._was_asked = False
            return self._was_asked

    def end(self, quiet: float | None = None) -> None:
        """Tell all who wait that the fetch has ended.

        Args:
            quiet: Seconds in which none may be asked for; None leaves that as it was.
        """
        with self._lock:
            flight, self._flight = self._flight, None
            if quiet is not None:
                self._quiet_until = self._timer() + quiet
        if flight is not None:
            flight.set_result(None)

    async def rest(self, seconds: float) -> None:
        """Wait until a fetch is asked for, or the time is over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._flight is None:
                    # Who asks sets the flight first and rings in this loop: no bell is lost.
                    self._bell.clear()
                    await self._bell.wait()

    def close(self) -> None:
        """Let nobody wait or ask from now on."""
        with self._lock:
            self._is_closed = True
        self.end()


def _flight() -> Future[None]:
    """Make what is waited for; as it runs already, nobody who gives up can cancel it for others."""
    flight: Future[None] = Future()
    flight.set_running_or_notify_cancel()
    return flight
