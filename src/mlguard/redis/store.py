"""How does a Redis count for several hosts?"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mlguard import places
from mlguard.errors import MissingExtra
from mlguard.ledger import Change, Entry, Order, Receipt, StoreUnavailable
from mlguard.logs import Seldom
from mlguard.redis.asks import Refusal
from mlguard.redis.clocks import Clocks
from mlguard.redis.routes import Router
from mlguard.redis.script import Call, Keys, Reply, entries, receipt
from mlguard.urls import shown

_TOGETHER = 500  # changes in one round trip
_OF_ONE = 100  # changes in one run of the script, which nobody else may interrupt
_HOMEWARD = 0.2  # of the timeout is left to an answer on its way
_PATIENCE = 10  # timeouts for which a call waits for its turn among many of one event loop
_OLDEST = (6, 2)
_FACT = re.compile(r"^([a-z_]+):([^\r\n]*)", re.MULTILINE)


class RedisStore:
    """Counts in Redis, in one round trip, by its clock.

    Every request says until when it counts, and the server skips what it comes to later: what was
    given up has no effect afterwards.

    Args:
        url: Of the Redis; see `problem`. Never shown, as it may hold a password.
        prefix: What all keys begin with.
        timeout: Seconds that a call may take as a whole.
        holder: Who holds what is in flight; a name without blanks.
        clock: The time to count by, in seconds; the server's where it is None.

    Raises:
        ValueError: The URL has a problem.
        MissingExtra: The package redis is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout: float = 0.1,
        holder: str,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._shown = shown(url)
        self._place = places.place(url)
        self._keys = Keys(prefix)
        self._timeout = timeout
        self._holder = holder
        self._clock = clock
        self._log = Seldom()
        clocks = Clocks(timeout * _HOMEWARD)
        self._router = Router(self._place, clocks)
        try:
            from mlguard.redis.aio import AsyncPool
            from mlguard.redis.blocking import BlockingPool
        except ImportError as error:
            raise MissingExtra("counting in Redis needs mlguard-core[redis]") from error
        self._blocking = BlockingPool(self._place, clocks)
        self._async = AsyncPool(self._place, clocks)

    def start(self) -> None:
        """Get ready: nothing is to be done before the first call."""

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""
        now, until = self._now(), self._until()
        call = self._keys.count(order, changes, self._holder, now)
        with self._in_plain_words():
            return _receipt(order, self._run([call], until)[0], now)

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop."""
        now = self._now()
        call = self._keys.count(order, changes, self._holder, now)
        with self._in_plain_words():
            async with self._async.turn(self._timeout / 2, self._timeout * _PATIENCE):
                steps = self._router.run([call], self._until())
                replies = await self._async.drive(steps)
            return _receipt(order, replies[0], now)

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether the store takes writes.

        Up to 500 go in one round trip; more take several, and the timeout is of each.
        """
        with self._in_plain_words():
            if not changes:
                self._run([self._keys.probe()], self._until())
            for start in range(0, len(changes), _TOGETHER):
                calls = self._calls(changes[start : start + _TOGETHER])
                self._run(calls, self._until())

    def complaint(self, *, lifetime: bool) -> str | None:
        """Say what makes the store unfit; blocks.

        Args:
            lifetime: Whether something is counted that must never be forgotten.
        """
        with self._in_plain_words():
            until = self._until()
            for section in ("server", "memory"):
                for reply in self._blocking.drive(self._router.ask_all(("INFO", section), until)):
                    facts = self._facts(reply)
                    complaint = _unfit(facts, self._place.kind, lifetime=lifetime)
                    if complaint:
                        return f"{self._shown} {complaint}"
        return None

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used; blocks."""
        now = self._now()
        with self._in_plain_words():
            reply = self._run([self._keys.read(tag, account)], self._until())[0]
            at = reply.micros / 1e6
            return entries(reply.rest, at if now is None else now, at)

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""
        with self._in_plain_words():
            self._run([self._keys.reset(tag, account, lifetime=lifetime)], self._until())

    def close(self) -> None:
        """Let the connections go; those of an event loop go with it."""
        self._blocking.close()

    def _calls(self, changes: Sequence[Change]) -> list[Call]:
        by_tag: dict[str, list[Change]] = {}
        for change in changes:
            by_tag.setdefault(change.tag, []).append(change)
        now = self._now()
        return [
            self._keys.count(Order(tag, ()), same[start : start + _OF_ONE], self._holder, now)
            for tag, same in by_tag.items()
            for start in range(0, len(same), _OF_ONE)
        ]

    def _run(self, calls: Sequence[Call], until: float) -> list[Reply]:
        replies: list[Reply] = self._blocking.drive(self._router.run(calls, until))
        return replies

    def _facts(self, reply: Any) -> dict[str, str]:
        if isinstance(reply, Refusal):
            self._log.warning(
                "unasked", "whether %s is fit could not be asked: %s", self._shown, reply.reason
            )
            return {}
        return dict(_FACT.findall(bytes(reply).decode("utf-8", "replace")))

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()

    def _until(self) -> float:
        return time.monotonic() + self._timeout

    @contextlib.contextmanager
    def _in_plain_words(self) -> Iterator[None]:
        try:
            yield
        except StoreUnavailable as error:
            raise StoreUnavailable(f"{self._shown}: {error}") from None
        except (ValueError, TypeError, IndexError, StopIteration):
            raise StoreUnavailable(f"{self._shown}: it holds what is not ours") from None


def _receipt(order: Order, reply: Reply, now: float | None) -> Receipt:
    return receipt(order, reply.rest, reply.micros / 1e6 if now is None else now)


def _unfit(facts: dict[str, str], kind: str, *, lifetime: bool) -> str | None:
    version = facts.get("redis_version", "")
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if numbers and numbers < _OLDEST:
        return f"is too old: {version}, where 6.2 is needed"
    if facts.get("redis_mode") == "cluster" and kind != places.CLUSTER:
        return "is part of a cluster: write redis+cluster://"
    policy = facts.get("maxmemory_policy", "")
    if lifetime and policy.startswith("allkeys") and facts.get("maxmemory", "0") != "0":
        return (
            f"forgets what must never be forgotten: its maxmemory-policy is {policy}, "
            "where noeviction or volatile-ttl would keep it"
        )
    return None
