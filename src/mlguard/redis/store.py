"""How does a Redis count for several hosts?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import NamedTuple

from mlguard import forks
from mlguard.ledger import (
    FLIGHT,
    Change,
    ChangesUnmade,
    Entry,
    Order,
    Receipt,
    StoreUnavailable,
    again,
)
from mlguard.redis.calls import Outcome, RedisCall, Reply, marked, slot_of, taken
from mlguard.redis.leases import Leases, Wish
from mlguard.redis.script import COUNT, Keys, entries, receipt
from mlguard.redis.servers import Servers

_TOGETHER = 500  # changes in one round trip
_NO_WISH = Wish()
_OF_ONE = 100  # changes in one run of the script, which nobody else may interrupt


class RedisStore:
    """Counts in Redis, in one round trip, by its clock.

    Every request says until when it counts, and the server skips what it comes to later: what was
    given up has no effect afterwards. What it had done by then, although its answer came too late,
    is undone.

    Args:
        url: Of the Redis; see `problem`. Never shown, as it may hold a password.
        prefix: What all keys begin with.
        timeout: Seconds that a call may take as a whole.
        holder: Who holds what is in flight; a name without blanks.
        lease: Units of a counter that a worker pays for beforehand at most; 0: none.
        clock: The time to count by, in seconds; the server's where it is None.

    Raises:
        ValueError: The URL has a problem.
    """

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        timeout: float = 0.1,
        holder: str,
        lease: int = 0,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._servers = Servers(url, timeout)
        self._keys = Keys(prefix)
        self._holder = holder
        self._clock = clock
        self._lease = lease
        self._begin()
        forks.in_child(self, RedisStore._begin)

    def start(self) -> None:
        """Make connections, in more time than a request has; blocks for a moment."""
        self._servers.prepare(COUNT)

    def shard(self, tag: str) -> str:
        """Name the part of the store that a tag is counted in."""
        return self._servers.router.shard(slot_of(marked(tag)))

    def probe(self, tag: str) -> None:
        """Write where a tag is counted; blocks."""
        self._act(self._keys.probe(tag))

    def give_back(self, *, everything: bool = False) -> None:
        """Give back what is leased and not used, or all; blocks.

        What the store does not take ends with its window.
        """
        if back := self._leases.take_back(everything=everything):
            with suppress(StoreUnavailable):
                self.apply(back)

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""
        asked = self._asked(order, changes)
        if isinstance(asked, Receipt):
            return asked
        with self._answering(asked):
            return self._answered(asked, self._servers.run([asked.call]))

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop."""
        asked = self._asked(order, changes)
        if isinstance(asked, Receipt):
            return asked
        with self._answering(asked):
            return self._answered(asked, await self._servers.arun([asked.call]))

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether the store takes writes.

        Up to 500 go in one round trip; more take several, and the timeout is of each.

        Raises:
            ChangesUnmade: Some were not made: it names those that are to be made again.
        """
        if not changes:
            self.probe("")
        changes = self._leases.settle(changes)
        unmade: list[Change] = []
        trouble: StoreUnavailable | None = None
        for parts in self._parts(changes):
            outcomes = self._servers.run(
                [self._call(Order(part[0].tag, ()), part) for part in parts]
            )
            for part, outcome in zip(parts, outcomes, strict=True):
                if isinstance(outcome, StoreUnavailable):
                    unmade += again(part, outcome)
                    trouble = outcome
        if trouble is not None:
            raise ChangesUnmade(f"{self._servers.shown}: {trouble}", unmade)

    def complaint(self, *, lifetime: bool) -> str | None:
        """Say what makes the store unfit; blocks.

        Args:
            lifetime: Whether something is counted that must never be forgotten.
        """
        return self._servers.complaint(keeps=lifetime)

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used; blocks."""
        reply = self._act(self._keys.read(tag, account))
        at = reply.micros / 1e6
        with self._servers.in_plain_words():
            return entries(reply.rest, self._clock() if self._clock else at, at)

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""
        self._act(self._keys.reset(tag, account, lifetime=lifetime))

    def close(self) -> None:
        """Give back what is leased, and let the connections go."""
        self.give_back(everything=True)
        self._servers.close()

    def _act(self, call: RedisCall) -> Reply:
        with self._servers.in_plain_words():
            return taken(self._servers.run([call]))[0]

    def _asked(self, order: Order, changes: Sequence[Change]) -> _Asked | Receipt:
        """Return what the store is asked, or what became of an order that is paid for already."""
        changes = self._leases.settle(changes)
        if not changes and (found := self._leases.take(order)) is not None:
            return found
        wish = self._leases.wish(order)
        return _Asked(order, wish, self._call(order, changes, wish))

    def _begin(self) -> None:
        """Begin, also in a fork's child: what a parent paid for is the parent's."""
        self._leases = Leases(self._lease, self._clock or time.monotonic)

    def _call(self, order: Order, changes: Sequence[Change], wish: Wish = _NO_WISH) -> RedisCall:
        now = self._clock() if self._clock else None
        undo = partial(self._undo, order, changes, wish)
        everything = (*wish.returned, *changes)
        return self._keys.count(order, everything, self._holder, now, wanted=wish.wanted, late=undo)

    @contextmanager
    def _answering(self, asked: _Asked) -> Iterator[None]:
        try:
            with self._servers.in_plain_words():
                yield
        except BaseException:
            self._leases.fail(asked.order, asked.wish)
            raise

    def _answered(self, asked: _Asked, outcomes: Sequence[Outcome]) -> Receipt:
        order, wish, _ = asked
        (reply,) = taken(outcomes)
        found, leased = self._receipt(order, reply, wish)
        return self._leases.learn(order, wish, found, leased)

    def _receipt(self, order: Order, reply: Reply, wish: Wish) -> tuple[Receipt, list[int]]:
        now = self._clock() if self._clock else reply.micros / 1e6
        if not order.lines:
            return Receipt((), now), []
        return receipt(order, reply.rest, now, leases=bool(wish.wanted))

    def _undo(self, order: Order, changes: Sequence[Change], wish: Wish, reply: Reply) -> None:
        """Take back what was done when nobody waited for it any longer, and others did again."""
        found, leased = self._receipt(order, reply, wish)
        undone = [change._replace(extra=-change.extra) for change in changes]
        if found.is_admitted:
            for (account, limit, cost), more in zip(order.lines, leased, strict=True):
                undone.append(Change(order.tag, account, limit, -cost - more, found.at))
        # What is in flight its holder says again.
        undone = [change for change in undone if change.limit.kind != FLIGHT]
        with suppress(StoreUnavailable):
            for start in range(0, len(undone), _OF_ONE):
                self.apply(undone[start : start + _OF_ONE])

    def _parts(self, changes: Sequence[Change]) -> Iterator[list[list[Change]]]:
        """Part changes into what goes in one round trip, to one part of the store."""
        by_shard: dict[str, dict[str, list[Change]]] = {}
        for change in changes:
            by_tag = by_shard.setdefault(self.shard(change.tag), {})
            by_tag.setdefault(change.tag, []).append(change)
        for by_tag in by_shard.values():
            together: list[list[Change]] = []
            for same in by_tag.values():
                for start in range(0, len(same), _OF_ONE):
                    together.append(same[start : start + _OF_ONE])
                    if sum(map(len, together)) > _TOGETHER - _OF_ONE:
                        yield together
                        together = []
            if together:
                yield together


class _Asked(NamedTuple):
    """What the store is asked.

    Attributes:
        order: What is to be charged.
        wish: What is to be leased.
        call: Both.
    """

    order: Order
    wish: Wish
    call: RedisCall
