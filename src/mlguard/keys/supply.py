"""When are an issuer's keys fetched, and what follows from how it went?"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from mlguard.auth.keyring import Keyring
from mlguard.auth.keys import KeySet
from mlguard.chance import CHANCE
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.settings import Auth, Issuer

_REFRESH = 0.8  # of the time for which keys are fresh
_SPREAD = 0.1  # so that workers do not come together
_LONGEST_PAUSE = 30.0
_AFTER_OLD_NEWS = 0.2  # seconds: the replicas of a key server may differ for a while
_MOST_IDS = 1000
_DAY = 86_400.0
_NAMED = 3  # of the keys passed over, in one log line


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought.

    Attributes:
        keys: The keys.
        fresh: Seconds after which they are to be fetched anew.
        address: Where they were found.
        passed_over: What is wrong with the keys that were left out.
    """

    keys: KeySet
    fresh: float
    address: str
    passed_over: tuple[str, ...] = ()


class FetchFailed(Exception):
    """A fetch brought no keys; the message says why, and what to do.

    Attributes:
        result: timeout, unreachable, status, redirect, too_large or invalid.
    """

    def __init__(self, result: str, problem: str) -> None:
        self.result = result
        super().__init__(problem)


Fetch: TypeAlias = Callable[[Issuer, str | None], Fetched]
"""Fetches the keys of an issuer from an address, None has it discovered; waits."""


class Supply:
    """Keeps one issuer's keys in their ring. Fails safe: bad answers leave the good keys there.

    Args:
        issuer: Whose keys.
        ring: Holds them.
        auth: How long they serve, and how often they may be asked for.
        on_result: Told the issuer and how each fetch went.
        log: Says troubles once in a while.
        first_pause: Seconds after a failure, doubled by each further one.
        chance: Returns random numbers between 0 and 1.
        timer: A monotonic clock in seconds.
    """

    def __init__(
        self,
        issuer: Issuer,
        ring: Keyring,
        auth: Auth,
        *,
        on_result: Callable[[str, str], None],
        log: RateLimitedLog,
        first_pause: float,
        chance: Callable[[], float] = CHANCE.random,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._issuer = issuer
        self._ring = ring
        self._auth = auth
        self._on_result = on_result
        self._log = log
        self._first_pause = first_pause
        self._chance = chance
        self._timer = timer
        self._address: tuple[str, float] | None = None  # discovered, and when
        self._fresh = 0.0
        self._failures = 0
        self._is_fruitful = False
        self._is_old_news = False
        self._ids: frozenset[bytes] = frozenset()  # of all keys seen
        self._passed_over: tuple[str, ...] = ()

    def fetch(self, fetch: Fetch) -> str | None:
        """Fetch once; return what went wrong. Waits."""
        known = self._known_address()
        try:
            fetched = fetch(self._issuer, known)
            if known is None:
                self._address = (fetched.address, self._timer())
            self._hold(fetched)
        except FetchFailed as failure:
            return self._failed(failure)
        except Exception as error:  # noqa: BLE001 - the keys held go on, and the next fetch may succeed
            LOGGER.debug("a fetch of keys broke", exc_info=True)
            problem = f"a fetch broke with {type(error).__name__}; its traceback is logged as DEBUG"
            return self._failed(FetchFailed("invalid", problem))
        self._tell("ok")
        return None

    def _known_address(self) -> str | None:
        if self._issuer.jwks_url:
            return self._issuer.jwks_url
        if self._address is None or self._timer() - self._address[1] >= _DAY:
            return None
        return self._address[0]

    def _hold(self, fetched: Fetched) -> None:
        before = self._ring.keys()
        self._is_fruitful = before is None or not fetched.keys.ids <= before.ids
        self._is_old_news = fetched.keys.ids <= self._ids
        self._ids = fetched.keys.ids | (self._ids if len(self._ids) < _MOST_IDS else frozenset())
        if self._failures:
            LOGGER.info("the keys of %s are fetched again", self._issuer.issuer)
        self._fresh = fetched.fresh
        self._failures = 0
        self._ring.put(fetched.keys, fetched.fresh + self._auth.jwks_max_stale)
        self._ring.is_failing = False
        self._say_passed_over(fetched.passed_over)

    def _failed(self, failure: FetchFailed) -> str:
        self._failures += 1
        self._address = None
        self._ring.is_failing = True
        self._log.warning(
            f"{self._issuer.issuer} {failure.result}",
            "the keys of %s cannot be fetched: %s; %s",
            self._issuer.issuer,
            failure,
            "those fetched last go on for now" if self._ring.keys() else "its tokens get a 503",
        )
        self._tell(failure.result)
        return str(failure)

    def quiet(self, was_asked: bool) -> float | None:
        """Say for how long none may ask for a fetch; only a fruitless request for one counts."""
        if self._failures:
            return min(self._doubled(), float(self._auth.jwks_cooldown))
        if self._is_fruitful:
            return _AFTER_OLD_NEWS if was_asked and self._is_old_news else 0.0
        return float(self._auth.jwks_cooldown) if was_asked else None

    def pause(self) -> float:
        """Say when to fetch next without being asked."""
        seconds = self._fresh * _REFRESH
        if self._failures:
            seconds = min(self._doubled(), _LONGEST_PAUSE, float(self._auth.jwks_max_age))
        return seconds * (1 + _SPREAD * (2 * self._chance() - 1))

    def _doubled(self) -> float:
        return float(self._first_pause * 2 ** min(self._failures - 1, 12))

    def _say_passed_over(self, problems: tuple[str, ...]) -> None:
        """Log once which keys cannot be used: many issuers show the same ones for ever."""
        if problems and problems != self._passed_over:
            text = "; ".join(problems[:_NAMED])
            more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
            self._log.warning(
                f"{self._issuer.issuer} passed over",
                "some keys of %s cannot be used: %s",
                self._issuer.issuer,
                text + more,
            )
        self._passed_over = problems

    def _tell(self, result: str) -> None:
        try:
            self._on_result(self._issuer.issuer, result)
        except Exception as error:  # noqa: BLE001 - observers fail open
            self._log.warning("on_result", "a fetch of keys cannot be counted: %r", error)
