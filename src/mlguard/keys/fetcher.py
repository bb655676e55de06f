"""When does a process fetch keys, and how is it asked to?"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial

from mlguard import forks
from mlguard.auth.keyring import Keyring
from mlguard.chance import CHANCE
from mlguard.keys.joined_fetch import JoinedFetch
from mlguard.keys.supply import Fetched, Supply
from mlguard.logs import RateLimitedLog
from mlguard.settings import Auth, Issuer


class KeyFetcher:
    """Fetches the keys of issuers, and again in time; blocks no request but those that need it.

    Making one starts nothing; `start` does, once per process.

    Args:
        auth: The issuers, and how long their keys serve.
        rings: Hold the keys, by issuer; only of those whose keys are fetched.
        on_result: Told the issuer and how each fetch went, in the thread that fetches: ok, timeout,
            unreachable, status, redirect, too_large or invalid.
        wake: Has `look_after` called; returns at once.
        first_pause: Seconds after a failed fetch before the next, doubled by each further failure.
        chance: Returns random numbers between 0 and 1, which keep workers from coming together.
    """

    def __init__(
        self,
        auth: Auth,
        rings: Mapping[str, Keyring],
        *,
        on_result: Callable[[str, str], None],
        wake: Callable[[], None] = lambda: None,
        first_pause: float = 1.0,
        chance: Callable[[], float] = CHANCE.random,
    ) -> None:
        self._auth = auth
        self._rings = dict(rings)
        self._on_result = on_result
        self._wake = wake
        self._first_pause = first_pause
        self._chance = chance
        self._log = RateLimitedLog()
        self._begin()
        forks.in_child(self, KeyFetcher._begin)
        for issuer, ring in self._rings.items():
            ring.fetch = partial(self._ask, issuer)

    def _begin(self) -> None:
        """Begin, also in a fork's child: a parent's threads are not there."""
        self._fetches: dict[str, JoinedFetch] = {}

    def start(self) -> None:
        """Begin to fetch, in this process; returns at once. Not for two threads at a time."""
        if not self._fetches:
            self._fetches = self._made()
            self.look_after()

    def wait(self) -> None:
        """Wait for the fetches that are under way, for as long as one may take."""
        wait(filter(None, map(self._ask, self._fetches)), self._auth.jwks_timeout)

    def look_after(self) -> float | None:
        """Begin the fetches that are due; tell in how many seconds the next is."""
        return min((fetch.look_after() for fetch in self._fetches.values()), default=None)

    def close(self) -> None:
        """End what is under way, within a second; who waits for a fetch waits no longer."""
        fetches, self._fetches = self._fetches, {}
        for fetch in fetches.values():
            fetch.close()

    def fetch_once(self) -> dict[str, str | None]:
        """Fetch the keys of all issuers; return what is wrong with each. Waits."""
        made = self._made()
        with ThreadPoolExecutor(len(made) or 1) as threads:
            return dict(zip(made, threads.map(JoinedFetch.fetch, made.values()), strict=True))

    def _ask(self, issuer: str) -> Future[None] | None:
        fetch = self._fetches.get(issuer)
        return fetch.ask() if fetch else None

    def _made(self) -> dict[str, JoinedFetch]:
        return {
            issuer.issuer: JoinedFetch(
                Supply(
                    issuer,
                    self._rings[issuer.issuer],
                    self._auth,
                    on_result=self._on_result,
                    log=self._log,
                    first_pause=self._first_pause,
                    chance=self._chance,
                ),
                self._download,
                self._wake,
            )
            for issuer in self._auth.issuers
            if issuer.issuer in self._rings
        }

    async def _download(self, issuer: Issuer, address: str | None) -> Fetched:
        from mlguard.keys.download import Download  # it imports the HTTP client

        return await Download(self._auth.jwks_timeout, self._auth.jwks_max_age)(issuer, address)
