"""Who waits for a fetch, and when may one be asked for?"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from mlguard.keys.supply import Fetched, Supply
from mlguard.settings import Issuer

_LAST_MOMENTS = 1.0  # seconds

Download = Callable[[Issuer, str | None], Awaitable[Fetched]]
"""Gets the keys of an issuer from an address; None has it discovered."""


class JoinedFetch:
    """Lets any thread ask for a fetch; one at a time is in flight, and all who ask join it.

    Each has a thread of its own, as a key server may hang, and none stays between them.

    Args:
        supply: What is fetched.
        download: Gets it.
        on_ended: Told when a fetch has ended, in its thread.
        timer: A monotonic clock in seconds.
    """

    def __init__(
        self,
        supply: Supply,
        download: Download,
        on_ended: Callable[[], None] = lambda: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supply = supply
        self._download = download
        self._on_ended = on_ended
        self._timer = timer
        self._lock = threading.Lock()  # over all below; nobody waits while holding it
        self._flight: Future[None] | None = None
        self._thread: threading.Thread | None = None
        self._cancel: Callable[[], object] = lambda: None
        self._quiet_until = self._due = 0.0
        self._is_closed = False

    def ask(self) -> Future[None] | None:
        """Join the fetch in flight, else begin one; None while it is too early for that."""
        with self._lock:
            if self._flight is None and self._timer() >= self._quiet_until:
                with suppress(RuntimeError):  # no thread can be started
                    self._begin(was_asked=True)
            return self._flight

    def look_after(self) -> float:
        """Begin a fetch that is due; tell in how many seconds the next is, as far as is known."""
        with self._lock:
            if self._flight is None and self._due <= self._timer():
                self._begin(was_asked=False)
            return math.inf if self._flight else max(0.0, self._due - self._timer())

    def fetch(self) -> str | None:
        """Fetch here and now, and return what went wrong; waits."""
        return self._supply.fetch(self._get)

    def close(self) -> None:
        """End what is in flight, within a second; nobody waits or asks from now on."""
        with self._lock:
            self._is_closed = True
            flight, self._flight = self._flight, None
            self._cancel()
        if flight is not None:
            flight.set_result(None)
        if self._thread is not None:
            self._thread.join(_LAST_MOMENTS)

    def _begin(self, *, was_asked: bool) -> None:
        if self._is_closed:
            return
        thread = threading.Thread(
            target=self._fly, args=(was_asked,), name="mlguard-keys", daemon=True
        )
        thread.start()
        self._thread, self._flight = thread, Future()
        # As it runs already, nobody who gives up can cancel it for others.
        self._flight.set_running_or_notify_cancel()

    def _fly(self, was_asked: bool) -> None:
        with suppress(asyncio.CancelledError):
            self.fetch()
        with self._lock:
            flight, self._flight = self._flight, None
            quiet = self._supply.quiet(was_asked)
            if quiet is not None:
                self._quiet_until = self._timer() + quiet
            self._due = self._timer() + self._supply.pause()
        if flight is not None:
            flight.set_result(None)
        self._on_ended()

    def _get(self, issuer: Issuer, address: str | None) -> Fetched:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return runner.run(self._until_closed(self._download(issuer, address)))

    async def _until_closed(self, fetched: Awaitable[Fetched]) -> Fetched:
        task, loop = asyncio.ensure_future(fetched), asyncio.get_running_loop()
        with self._lock:
            if self._is_closed:
                task.cancel()
            self._cancel = partial(loop.call_soon_threadsafe, task.cancel)
        try:
            return await task
        finally:
            with self._lock:
                self._cancel = lambda: None


class _Threads(ThreadPoolExecutor):
    """Looks names up in threads that nobody waits for: a name server may hang for a minute."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        threading.Thread(
            target=_fulfil, args=(future, partial(fn, *args, **kwargs)), daemon=True
        ).start()
        return future


def _fulfil(future: Future[Any], call: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is awaited
            future.set_exception(error)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    loop.set_default_executor(_Threads())
    return loop
