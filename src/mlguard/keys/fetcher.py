"""Which thread fetches the keys, and how is it asked to?"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from mlguard.auth.keyring import Keyring
from mlguard.chance import CHANCE
from mlguard.keys.joined_fetch import JoinedFetch
from mlguard.keys.supply import Fetch, Supply
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.settings import Auth

_LAST_MOMENTS = 1.0  # seconds


class KeyFetcher:
    """Fetches the keys of issuers, and again in time; blocks no request but those that need it.

    Making one starts nothing; `start` does, once per process.

    Args:
        auth: The issuers, and how long their keys serve.
        rings: Hold the keys, by issuer; only of those whose keys are fetched.
        on_result: Told the issuer and how each fetch went, in the thread that fetches: ok, timeout,
            unreachable, status, redirect, too_large or invalid.
        first_pause: Seconds after a failed fetch before the next, doubled by each further failure.
        chance: Returns random numbers between 0 and 1, which keep workers from coming together.
    """

    def __init__(
        self,
        auth: Auth,
        rings: Mapping[str, Keyring],
        *,
        on_result: Callable[[str, str], None],
        first_pause: float = 1.0,
        chance: Callable[[], float] = CHANCE.random,
    ) -> None:
        self._auth = auth
        self._rings = dict(rings)
        self._on_result = on_result
        self._first_pause = first_pause
        self._chance = chance
        self._log = RateLimitedLog()
        self._work: _Work | None = None
        self._inherited: list[_Work] = []
        for issuer, ring in self._rings.items():
            ring.fetch = partial(self._ask, issuer)

    def start(self) -> None:
        """Begin to fetch, in this process: after a fork each child must start anew.

        Returns at once. Not for two threads at the same time.
        """
        if self._work is not None:
            if self._work.pid == os.getpid():
                return
            # The thread is not here, but its loop shares descriptors with the parent's: it must
            # never be collected, as closing it would disturb the parent.
            self._inherited.append(self._work)
        self._work = _Work(self._supplies(), self._download)
        self._work.thread.start()

    def close(self) -> None:
        """End the thread, within a second; who waits for a fetch waits no longer."""
        if self._work is not None and self._work.pid == os.getpid():
            work, self._work = self._work, None
            work.stop()

    def fetch_once(self) -> dict[str, str | None]:
        """Fetch the keys of all issuers, without a thread; return what is wrong with each.

        Waits: not for an event loop.
        """
        supplies = self._supplies()

        async def fetch() -> list[str | None]:
            download = self._download()
            return await asyncio.gather(*(s.fetch(download) for s in supplies.values()))

        with asyncio.Runner(loop_factory=_new_loop) as runner:
            return dict(zip(supplies, runner.run(fetch()), strict=True))

    def _ask(self, issuer: str) -> Future[None] | None:
        work = self._work
        return work.flights[issuer].ask() if work and work.pid == os.getpid() else None

    def _supplies(self) -> dict[str, Supply]:
        return {
            issuer.issuer: Supply(
                issuer,
                self._rings[issuer.issuer],
                self._auth,
                on_result=self._on_result,
                log=self._log,
                first_pause=self._first_pause,
                chance=self._chance,
            )
            for issuer in self._auth.issuers
            if issuer.issuer in self._rings
        }

    def _download(self) -> Fetch:
        from mlguard.keys.download import Download  # it imports the HTTP client

        return Download(self._auth.jwks_timeout, self._auth.jwks_max_age)


class _Work:
    """What one process does: a thread with a loop, in which each issuer has a task of its own."""

    def __init__(self, supplies: Mapping[str, Supply], download: Callable[[], Fetch]) -> None:
        self.pid = os.getpid()
        self.thread = threading.Thread(target=self._run, name="mlguard-keys", daemon=True)
        self._loop = _new_loop()
        self._supplies = supplies
        self._download = download
        self._closing = asyncio.Event()
        self.flights = {issuer: JoinedFetch(self._loop) for issuer in supplies}

    def stop(self) -> None:
        """End the thread; whether or not it does in time, nobody waits for it."""
        for flights in self.flights.values():
            flights.close()
        with suppress(RuntimeError):  # the loop is closed: the thread has ended already
            self._loop.call_soon_threadsafe(self._closing.set)
        self.thread.join(_LAST_MOMENTS)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except Exception:  # noqa: BLE001 - the service goes on with the keys it has
            LOGGER.exception("keys are no longer fetched: restart the service")

    async def _main(self) -> None:
        try:
            fetch = self._download()
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(supply.keep(self.flights[issuer], fetch))
                    for issuer, supply in self._supplies.items()
                ]
                await self._closing.wait()
                for task in tasks:
                    task.cancel()
        finally:
            for flights in self.flights.values():
                flights.close()


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
