"""How are the servers of one URL asked, for whichever purpose?"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from mlguard import redis_url
from mlguard.ledger import StoreUnavailable
from mlguard.logs import RateLimitedLog
from mlguard.redis import awaits, waits
from mlguard.redis.calls import Outcome, RedisCall, Reply, Script
from mlguard.redis.clocks import Clocks
from mlguard.redis.links import Unreachable
from mlguard.redis.pool import Pool
from mlguard.redis.resp import ErrorReply, Word
from mlguard.redis.router import Router
from mlguard.urls import redacted_url

_HOMEWARD = 0.2  # of the timeout is left to an answer on its way
_PATIENCE = 10  # timeouts for which a call waits for its turn among many of one event loop
_AT_START = 1.0  # seconds in which connections are made before the first call
_OLDEST = (6, 2)
_FACT = re.compile(r"^([a-z_]+):([^\r\n]*)", re.MULTILINE)


class Servers:
    """One router, and both carriers: who waits and who awaits shares the connections.

    Args:
        url: Of the Redis; see `problem` in places. Never shown, as it may hold a password.
        timeout: Seconds that a call may take as a whole.

    Raises:
        ValueError: The URL has a problem.

    Attributes:
        shown: The URL as it may be shown.
        router: Knows where everything is.
    """

    def __init__(self, url: str, timeout: float) -> None:
        self.shown = redacted_url(url)
        self._place = redis_url.parse(url)
        self._timeout = timeout
        clocks = Clocks(timeout * _HOMEWARD)
        self._pool = Pool(self._place, clocks)
        self.router = Router(self._place, clocks, self._pool)
        self._turns = awaits.Turns(timeout / 2, timeout * _PATIENCE)
        self._log = RateLimitedLog()

    def run(self, calls: Sequence[RedisCall], timeout: float | None = None) -> list[Outcome]:
        """Run calls, and return what became of each; blocks."""
        until = self._until() if timeout is None else time.monotonic() + timeout
        found: list[Outcome] = waits.drive(self.router.run(calls, until))
        return found

    async def arun(self, calls: Sequence[RedisCall]) -> list[Outcome]:
        """Do what `run` does, never blocking the event loop."""
        async with self._turns.turn() as gate:
            found: list[Outcome] = await awaits.drive(self.router.run(calls, self._until()))
            if any(isinstance(outcome, Reply) for outcome in found):
                gate.answered = time.monotonic()
            return found

    def prepare(self, script: Script) -> None:
        """Make connections, and have servers know a script, in more time than a request has."""
        with self.in_plain_words():
            self._ask_all("EVAL", script.text, 0, "", 0)  # which is too late to do anything

    def facts(self) -> list[dict[str, str]]:
        """Ask each server that takes writes what it says of itself; blocks."""
        with self.in_plain_words():
            both = zip(
                self._ask_all("INFO", "server"), self._ask_all("INFO", "memory"), strict=True
            )
            return [self._facts(one) | self._facts(other) for one, other in both]

    def complaint(self, *, keeps: bool) -> str | None:
        """Say what makes a server unfit, and warn of what makes it a bad choice; blocks.

        Args:
            keeps: Whether it must never forget.
        """
        for facts in self.facts():
            if trouble := _unfit(facts, self._place.kind):
                return f"{self.shown} {trouble}"
            if policy := _evicts(facts):
                text = "its maxmemory-policy is {}, where noeviction would keep it"
                if keeps:
                    forgets = f"forgets what must never be forgotten: {text.format(policy)}"
                    return f"{self.shown} {forgets}"
                self._log.warning(
                    "evicts", f"{self.shown} may forget windows at any time: {text.format(policy)}"
                )
        return None

    def close(self) -> None:
        """Let the connections go."""
        self._pool.close()

    @contextlib.contextmanager
    def in_plain_words(self) -> Iterator[None]:
        """Name the Redis in errors; what an answer of another's makes us raise is one, too."""
        try:
            yield
        except StoreUnavailable as error:
            raised = StoreUnavailable(f"{self.shown}: {error}")
            raised.may_be_done = error.may_be_done
            raise raised from None
        except (ValueError, TypeError, IndexError, StopIteration):
            raise StoreUnavailable(f"{self.shown}: it holds what is not ours") from None

    def _ask_all(self, *command: Word) -> list[Any]:
        patience = max(self._timeout, _AT_START)
        replies: list[Any] = waits.drive(self.router.ask_all(command, patience))
        for reply in replies:
            if isinstance(reply, Unreachable):
                raise reply
        return replies

    def _facts(self, reply: Any) -> dict[str, str]:
        if isinstance(reply, ErrorReply):
            text = "whether %s is fit could not be asked: %s"
            self._log.warning("unasked", text, self.shown, reply.reason)
            return {}
        return dict(_FACT.findall(bytes(reply).decode("utf-8", "replace")))

    def _until(self) -> float:
        return time.monotonic() + self._timeout


def _unfit(facts: dict[str, str], kind: str) -> str | None:
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < _OLDEST:
        return f"is too old: {version}, where 6.2 is needed"
    if facts.get("redis_mode") == "cluster" and kind != redis_url.CLUSTER:
        return "is part of a cluster: write redis+cluster://"
    return None


def _evicts(facts: dict[str, str]) -> str | None:
    """Return a policy by which a server throws away what somebody counts on, None without one."""
    policy = facts.get("maxmemory_policy", "noeviction")
    return policy if policy != "noeviction" and facts.get("maxmemory", "0") != "0" else None
