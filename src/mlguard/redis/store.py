"""How does a Redis count for several hosts?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial

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
from mlguard.redis.calls import Reply, Run, marked, slot_of, taken
from mlguard.redis.script import Keys, entries, receipt
from mlguard.redis.servers import Servers

_TOGETHER = 500  # changes in one round trip
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
        clock: Callable[[], float] | None = None,
    ) -> None:
        self._servers = Servers(url, timeout)
        self._keys = Keys(prefix)
        self._holder = holder
        self._clock = clock

    def start(self) -> None:
        """Make connections, in more time than a request has; blocks for a moment."""
        self._servers.connect()

    def shard(self, tag: str) -> str:
        """Name the part of the store that a tag is counted in."""
        return self._servers.router.shard(slot_of(marked(tag)))

    def probe(self, tag: str) -> None:
        """Write where a tag is counted; blocks."""
        self._act(self._keys.probe(tag))

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""
        now = self._now()
        call = self._debit(order, changes, now)
        with self._servers.in_plain_words():
            return _receipt(order, taken(self._servers.run([call]))[0], now)

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop."""
        now = self._now()
        call = self._debit(order, changes, now)
        with self._servers.in_plain_words():
            return _receipt(order, taken(await self._servers.arun([call]))[0], now)

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether the store takes writes.

        Up to 500 go in one round trip; more take several, and the timeout is of each.

        Raises:
            ChangesUnmade: Some were not made: it names those that are to be made again.
        """
        if not changes:
            self.probe("")
        unmade: list[Change] = []
        trouble: StoreUnavailable | None = None
        for parts in self._parts(changes):
            outcomes = self._servers.run([self._changing(part) for part in parts])
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
        now = self._now()
        reply = self._act(self._keys.read(tag, account))
        at = reply.micros / 1e6
        with self._servers.in_plain_words():
            return entries(reply.rest, at if now is None else now, at)

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""
        self._act(self._keys.reset(tag, account, lifetime=lifetime))

    def close(self) -> None:
        """Let the connections go."""
        self._servers.close()

    def _act(self, call: Run) -> Reply:
        with self._servers.in_plain_words():
            return taken(self._servers.run([call]))[0]

    def _debit(self, order: Order, changes: Sequence[Change], now: float | None) -> Run:
        undo = partial(self._undo, order, changes, now)
        return self._keys.count(order, changes, self._holder, now, late=undo)

    def _changing(self, changes: Sequence[Change]) -> Run:
        return self._debit(Order(changes[0].tag, ()), changes, self._now())

    def _undo(
        self, order: Order, changes: Sequence[Change], now: float | None, reply: Reply
    ) -> None:
        """Take back what was done when nobody waited for it any longer, and others did again."""
        found = _receipt(order, reply, now)
        undone = [change._replace(extra=-change.extra) for change in changes]
        if found.is_admitted:
            undone += [Change(order.tag, a, x, -cost, found.at) for a, x, cost in order.lines]
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

    def _now(self) -> float | None:
        return None if self._clock is None else self._clock()


def _receipt(order: Order, reply: Reply, now: float | None) -> Receipt:
    if not order.lines:
        return Receipt((), reply.micros / 1e6)
    return receipt(order, reply.rest, reply.micros / 1e6 if now is None else now)
