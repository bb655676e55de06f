"""What must every ledger do? A model to compare it with, whatever happens in which order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mlguard.ledger import FLIGHT, LIFETIME, WINDOW, Change, Entry, Limit, Line, Order, Receipt

TAG = "acme"
ACCOUNTS = ("alice", "bob:lifetime")
REQUESTS = Limit("requests", 6, 8)
ROWS = Limit("rows", 20, 16, unit="rows")
ROWS_OF_MODEL = Limit("rows iris}", 50, 64, unit="rows", model="iris")
EVER = Limit("ever", 90, kind=LIFETIME, unit="rows")
HELD = Limit("held", 5, kind=FLIGHT)
HELD_OF_MODEL = Limit("held my model", 3, kind=FLIGHT, model="my model")
LIMITS = (REQUESTS, ROWS, ROWS_OF_MODEL, EVER, HELD, HELD_OF_MODEL)
START = 1_700_000_000.0
MOMENT = 1e-6


class Hooks(NamedTuple):
    """What a machine can have done by the ledger it looks at.

    Attributes:
        debit: Makes the changes, then the debit, always for the same holder.
        settle: Makes changes.
        entries: Tells what an account has used, given its tag and its name.
        reset: Forgets what an account has used, ever too where `lifetime=True`.
    """

    debit: Callable[[Order, Sequence[Change]], Receipt]
    settle: Callable[[Sequence[Change]], None]
    entries: Callable[[str, str], list[Entry]]
    reset: Callable[..., None]


class Counter:
    """What one counter should hold: the units of each bucket, in a plain dict."""

    def __init__(self, limit: Limit) -> None:
        self.limit = limit
        self.buckets: dict[int, int] = {}
        self.touched = 0
        self.touched_at = 0.0

    def bucket(self, now: float) -> int:
        return math.floor(now / self.limit.seconds) if self.limit.seconds else 0

    def used(self, now: float) -> float:
        current = self.buckets.get(self.bucket(now), 0)
        if not self.limit.seconds:
            return current
        passed = now % self.limit.seconds / self.limit.seconds
        return self.buckets.get(self.bucket(now) - 1, 0) * (1 - passed) + current

    def ended(self, now: float) -> float:
        """Tell how much was used in the last window in use, where that has ended."""
        if self.limit.kind != "window" or self.bucket(now) == self.touched:
            return 0
        return max(0, self.buckets.get(self.touched, 0)) / self.limit.amount

    def touch(self, now: float) -> None:
        self.touched, self.touched_at = self.bucket(now), now

    def add(self, units: int, now: float) -> None:
        bucket = self.bucket(now)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + units

    def change(self, change: Change, now: float) -> None:
        bucket, extra = self.bucket(now), change.extra
        if change.is_grant:
            if self.limit.kind == FLIGHT:
                self.buckets[bucket] = extra
            else:
                self.add(extra, now)
            return
        if extra <= 0 and self.limit.seconds:
            bucket = min(bucket, self.bucket(change.since))
        units = self.buckets.get(bucket, 0)
        if self.limit.kind == FLIGHT:
            self.buckets[bucket] = max(0, units + extra)
        elif extra > 0:
            most = math.inf if self.limit.kind == LIFETIME else 2 * self.limit.amount
            self.buckets[bucket] = max(units, min(units + extra, most))
        elif bucket >= min(self.bucket(now), self.touched) - 1:
            self.buckets[bucket] = max(min(0, units), units + extra)


class LedgerMachine(RuleBasedStateMachine):
    """Any order of debits, changes, resets and pauses, compared with plain dicts."""

    def make(self, clock: Callable[[], float]) -> Hooks:
        """Return a new and empty ledger that goes by the clock."""
        raise NotImplementedError

    @initialize(eighths=st.integers(0, 1000))
    def begin(self, eighths: int) -> None:
        self.now = START + eighths / 8
        self.hooks = self.make(lambda: self.now)
        self.counters: dict[tuple[str, str], Counter] = {}
        self.charged: list[tuple[Line, float]] = []

    def of(self, account: str, limit: Limit) -> Counter:
        return self.counters.setdefault((account, limit.field), Counter(limit))

    @rule(eighths=st.integers(1, 40))
    def pause(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(seconds=st.sampled_from([8, 16, 64, 65, 127, 128, 129, 200, 257, 1000]))
    def long_pause(self, seconds: int) -> None:
        self.now += seconds

    @rule(data=st.data())
    def debit(self, data: st.DataObject) -> None:
        lines = data.draw(_LINES)
        changes = self.draw_changes(data) if data.draw(st.booleans()) else []
        for change in changes:
            self.change(change)
        asked = [(line, self.of(line.account, line.limit)) for line in lines]
        fits = [c.used(self.now) + line.cost <= line.limit.amount for line, c in asked]
        ended = self.ended(asked)

        receipt = self.hooks.debit(Order(TAG, tuple(lines)), changes)

        assert receipt.is_admitted == all(fits)
        assert receipt.at == self.now
        # What is forgotten after two windows has no end either.
        if ended is not None and not any(change.extra > 0 for change in changes):
            assert dict(receipt.ended) == ended
        if all(fits):
            for line, counter in asked:
                counter.add(line.cost, self.now)
                self.charged.append((line, self.now))
        for (line, counter), fit, reading in zip(asked, fits, receipt.readings, strict=True):
            counter.touch(self.now)
            left = math.floor(line.limit.amount - counter.used(self.now))
            assert reading.remaining == max(0, left), (line, left, reading, counter.buckets)
            assert (reading.wait == 0) == (fit or all(fits))
            self.check_times(line, counter, reading.reset, reading.wait)

    def ended(self, asked: Sequence[tuple[Line, Counter]]) -> dict[int, float] | None:
        if any(c.touched and self.now - c.touched_at > 2 * c.limit.seconds for _, c in asked):
            return None
        found = {n: counter.ended(self.now) for n, (_, counter) in enumerate(asked)}
        return {number: share for number, share in found.items() if share}

    def check_times(self, line: Line, counter: Counter, reset: float, wait: float) -> None:
        if not line.limit.seconds:
            assert reset == 0
            assert wait in ((0, 1) if line.limit.kind == FLIGHT else (0, math.inf))
            return
        assert counter.bucket(self.now + reset) == counter.bucket(self.now) + 1
        if wait:
            room = line.limit.amount - line.cost
            assert counter.used(self.now + wait + MOMENT) <= room
            assert counter.used(self.now + wait - MOMENT) > room

    def draw_changes(self, data: st.DataObject) -> list[Change]:
        changes = []
        for _ in range(data.draw(st.integers(0, 3)) if self.charged else 0):
            which = data.draw(st.integers(0, len(self.charged) - 1))
            (account, limit, cost), since = self.charged[which]
            extra = data.draw(st.integers(-cost, _MOST_EXTRA[limit.kind]))
            changes.append(Change(TAG, account, limit, extra, since))
        return changes

    def change(self, change: Change) -> None:
        counter = self.of(change.account, change.limit)
        counter.change(change, self.now)
        if change.extra > 0 or change.is_grant:
            counter.touch(self.now)

    @precondition(lambda self: self.charged)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        changes = self.draw_changes(data)
        self.hooks.settle(changes)
        for change in changes:
            self.change(change)

    @rule(account=st.sampled_from(ACCOUNTS), limit=st.sampled_from(LIMITS), units=st.integers(0, 9))
    def grant(self, account: str, limit: Limit, units: int) -> None:
        extra = units if limit.kind == FLIGHT else -units
        change = Change(TAG, account, limit, extra, self.now, is_grant=True)
        self.hooks.settle([change])
        self.change(change)

    @rule(account=st.sampled_from(ACCOUNTS), lifetime=st.booleans())
    def reset(self, account: str, lifetime: bool) -> None:
        self.hooks.reset(TAG, account, lifetime=lifetime)
        for limit in LIMITS:
            if limit.seconds or (lifetime and limit is EVER):
                self.counters.pop((account, limit.field), None)

    @rule(account=st.sampled_from(ACCOUNTS))
    def look(self, account: str) -> None:
        found = {e.field: e.used for e in self.hooks.entries(TAG, account) if e.used}
        expected = {
            limit.field: used
            for limit in LIMITS
            if (used := self.of(account, limit).used(self.now))
        }
        assert found == expected, (found, expected)
        for limit in LIMITS:
            # A ledger may take a look for a touch, after which no end is told.
            self.of(account, limit).touched_at = -math.inf


_MOST_EXTRA = {FLIGHT: 2, WINDOW: 60, LIFETIME: 800}


def _costs(limit: Limit) -> st.SearchStrategy[int]:
    return st.integers(0, 20) if limit.unit == "rows" else st.integers(0, 2)


_LINES = st.lists(
    st.sampled_from([(account, limit) for account in ACCOUNTS for limit in LIMITS]).flatmap(
        lambda pair: st.builds(Line, st.just(pair[0]), st.just(pair[1]), _costs(pair[1]))
    ),
    min_size=1,
    max_size=6,
    unique_by=lambda line: (line.account, line.limit.field),
)
