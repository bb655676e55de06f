"""How much may they still ask? Held against a model that counts every debit."""

from __future__ import annotations

import gc
import math
import weakref
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from mlguard.messages import Deny
from mlguard.quotas import Charge, Debit, MemoryLedger, Quota, Reading
from mlguard.settings import Quotas, Rate

NOW = 1_800_000_000.0  # begins a minute
MOMENT = 0.001  # floats that should meet do so within this, in seconds
ALICE = ("", "", "alice")
BOB = ("", "", "bob")


def rate(limit: int, seconds: int) -> Rate:
    return Rate(text=f"{limit} per {seconds} seconds", limit=limit, seconds=seconds)


def charge(key: object, cost: int, *rates: Rate, unit: str = "rows") -> Charge:
    return Charge(key, unit, rates, cost)  # type: ignore[arg-type]


def debited(ledger: MemoryLedger, now: float, *charges: Charge) -> bool:
    return all(reading.wait == 0 for reading in ledger.debit(charges, now))


class Window:
    """One principal's window, as the words of its documentation say it."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self.buckets: dict[int, int] = defaultdict(int)

    def bucket(self, now: float) -> int:
        return math.floor(now / self.rate.seconds)

    def used(self, now: float) -> float:
        """Weigh the bucket before by the share of it that the window still covers."""
        bucket = self.bucket(now)
        covered = bucket + 1 - now / self.rate.seconds
        return self.buckets[bucket - 1] * covered + self.buckets[bucket]

    def fits(self, cost: int, now: float) -> bool:
        return self.used(now) + cost <= self.rate.limit

    def add(self, cost: int, now: float) -> None:
        self.buckets[self.bucket(now)] += cost

    def settle(self, extra: int, since: float, now: float) -> None:
        if extra > 0:
            here = self.bucket(now)
            most = max(self.buckets[here], 2 * self.rate.limit)
            self.buckets[here] = min(self.buckets[here] + extra, most)
        else:
            there = self.bucket(since)
            self.buckets[there] = max(0, self.buckets[there] + extra)


# Binary fractions of seconds and windows of powers of two: floats are exact, so is the comparison.
REQUESTS = (rate(6, 8),)
ROWS = (rate(20, 16), rate(50, 64))
PRINCIPALS = st.sampled_from(["alice", "bob", "carol"])


class LedgerMachine(RuleBasedStateMachine):
    """Any order of debits, settlements and pauses, of several principals in several windows."""

    @initialize(start=st.integers(0, 1000))
    def begin(self, start: int) -> None:
        self.now = NOW + start / 8
        self.ledger = MemoryLedger()
        self.windows: dict[tuple[str, str], list[Window]] = {}
        self.admitted: list[tuple[str, Charge, float]] = []

    def of(self, who: str, unit: str) -> list[Window]:
        rates = REQUESTS if unit == "requests" else ROWS
        return self.windows.setdefault((who, unit), [Window(r) for r in rates])

    @rule(eighths=st.integers(1, 40))
    def pause(self, eighths: int) -> None:
        self.now += eighths / 8

    @rule(seconds=st.sampled_from([8, 16, 64, 65, 127, 128, 129, 200, 257, 1000]))
    def long_pause(self, seconds: int) -> None:
        self.now += seconds

    @rule(who=PRINCIPALS, rows=st.integers(0, 20), counted=st.booleans())
    def debit(self, who: str, rows: int, counted: bool) -> None:
        charges = [charge((who, "rows"), rows, *ROWS)]
        if counted:
            charges.insert(0, charge((who, "requests"), 1, *REQUESTS, unit="requests"))
        asked = [(c, window) for c in charges for window in self.of(who, c.unit)]
        expected = [window.fits(c.cost, self.now) for c, window in asked]

        readings = self.ledger.debit(charges, self.now)

        assert [reading.wait == 0 for reading in readings] == expected
        if all(expected):
            for c, window in asked:
                window.add(c.cost, self.now)
            self.admitted += [(who, c, self.now) for c in charges]
        for (c, window), reading in zip(asked, readings, strict=True):
            self.check(c, window, reading, admitted=all(expected))

    def check(self, c: Charge, window: Window, reading: Reading, *, admitted: bool) -> None:
        assert 0 < reading.reset <= window.rate.seconds
        assert window.bucket(self.now + reading.reset) == window.bucket(self.now) + 1
        if admitted:
            left = window.rate.limit - window.used(self.now)
            assert reading.remaining == max(0, math.floor(left))
        elif reading.wait:
            assert window.fits(c.cost, self.now + reading.wait + MOMENT)
            assert not window.fits(c.cost, self.now + reading.wait * 0.99 - MOMENT)

    @precondition(lambda self: self.admitted)
    @rule(data=st.data(), cost=st.integers(0, 120))
    def settle(self, data: st.DataObject, cost: int) -> None:
        which = data.draw(st.integers(0, len(self.admitted) - 1))
        who, c, since = self.admitted.pop(which)
        self.ledger.settle(c, cost, since, self.now)

        for window in self.of(who, c.unit):
            window.settle(cost - c.cost, since, self.now)


TestLedger = LedgerMachine.TestCase
TestLedger.settings = examples(max_examples=60, stateful_step_count=30, deadline=None)


class TestWaits:
    @examples(max_examples=100, deadline=None)
    @given(
        limit=st.integers(1, 1000),
        seconds=st.sampled_from([1, 7, 60, 3600, 86400, 2592000]),
        first=st.floats(0, 0.999),
        gap=st.floats(0, 1.5),
        data=st.data(),
    )
    def test_wait_is_exact(
        self, limit: int, seconds: int, first: float, gap: float, data: st.DataObject
    ) -> None:
        """Who waits as long as told is admitted; who waits 1 % less is not."""
        window = rate(limit, seconds)
        spent, cost = data.draw(st.integers(1, limit)), data.draw(st.integers(1, limit))
        began = NOW + first * seconds
        now = began + gap * seconds

        def asked(at: float) -> Reading:
            ledger = MemoryLedger()
            ledger.debit([charge("k", spent, window)], began)
            ledger.debit([charge("k", cost, window)], now) if at > now else None
            return ledger.debit([charge("k", cost, window)], at)[0]

        wait = asked(now).wait
        if wait:
            assert asked(now + wait + MOMENT).wait == 0
        if wait > 100 * MOMENT:
            assert asked(now + wait * 0.99 - MOMENT).wait > 0

    def test_the_longest_of_all(self) -> None:
        """Retry-After is of the window that opens last."""
        settings = Quotas(requests=(rate(1, 8),), rows=(rate(2, 64),))
        quota = Quota(settings, MemoryLedger())
        assert isinstance(quota.admit(ALICE, "iris", 2, NOW), Debit)

        deny = quota.admit(ALICE, "iris", 2, NOW)

        assert isinstance(deny, Deny)
        assert (deny.status, deny.code) == (429, "quota_exceeded")
        wait = int(dict(deny.headers)["Retry-After"])
        assert isinstance(quota.admit(ALICE, "iris", 2, NOW + wait - 1), Deny)
        assert isinstance(quota.admit(ALICE, "iris", 2, NOW + wait), Debit)

    @pytest.mark.parametrize(("first", "code"), [(1, "rate_exceeded"), (64, "rate_exceeded")])
    def test_requests_have_their_own_code(self, first: int, code: str) -> None:
        """Too many requests are told apart from too many rows."""
        quota = Quota(Quotas(requests=(rate(1, first),)), MemoryLedger())
        quota.admit(ALICE, None, 0, NOW)

        deny = quota.admit(ALICE, None, 0, NOW)

        assert isinstance(deny, Deny)
        assert deny.code == code
        assert int(dict(deny.headers)["Retry-After"]) >= 1


class TestDebits:
    def test_all_or_nothing(self) -> None:
        """A debit that one window refuses is debited in none."""
        ledger = MemoryLedger()
        requests = charge("requests", 1, rate(3, 60), unit="requests")
        ledger.debit([charge("rows", 5, rate(10, 60))], NOW)
        refused = [debited(ledger, NOW, requests, charge("rows", 6, rate(10, 60))) for _ in "12345"]

        admitted = [debited(ledger, NOW, requests) for _ in "1234"]

        assert refused == [False] * 5
        assert admitted == [True, True, True, False]

    def test_a_window_of_weeks_and_one_of_seconds(self) -> None:
        """Every window of a counter must admit: the shortest refills, the longest does not."""
        ledger = MemoryLedger()
        row = charge("k", 1, rate(1, 1), rate(3, 604_800))

        admitted = [debited(ledger, NOW + 2 * second, row) for second in range(6)]

        assert admitted == [True, True, True, False, False, False]

    def test_nothing_costs_nothing(self) -> None:
        """A cost of no rows fits where nothing else does."""
        ledger = MemoryLedger()
        debited(ledger, NOW, charge("k", 10, rate(10, 60)))

        assert debited(ledger, NOW, charge("k", 0, rate(10, 60)))

    def test_a_border_admits_no_burst(self) -> None:
        """At a bucket's border, what was admitted before still weighs."""
        ledger, window = MemoryLedger(), rate(100, 60)
        assert debited(ledger, NOW + 59.9, charge("k", 100, window))

        assert not debited(ledger, NOW + 60.1, charge("k", 1, window))

    @pytest.mark.parametrize("late", [0.001, 0.5, 59.0])
    def test_a_clock_that_goes_back(self, late: float) -> None:
        """A thread that read its clock before a border and debits after it gives nothing back."""
        ledger, window = MemoryLedger(), rate(10, 60)
        assert debited(ledger, NOW + 59.9, charge("k", 10, window))
        assert not debited(ledger, NOW + 60.1, charge("k", 5, window))

        debited(ledger, NOW + 60 - late, charge("k", 1, window))

        assert not debited(ledger, NOW + 60.1, charge("k", 5, window))

    def test_threads(self) -> None:
        """Threads that debit at once are admitted as much as the window holds, and no more."""
        ledger, window = MemoryLedger(), rate(500, 60)

        def work(number: int) -> int:
            row = charge("shared", 1, window), charge(number, 1, rate(10**6, 60))
            return sum(debited(ledger, NOW + 1, *row) for _ in range(200))

        with ThreadPoolExecutor(8) as pool:
            admitted = list(pool.map(work, range(8)))

        assert sum(admitted) == 500

    def test_threads_that_settle(self) -> None:
        """What each thread refunds is there for the others, and no more than that."""
        ledger, window = MemoryLedger(), rate(8, 60)
        batch = charge("shared", 1, window)

        def work(_: int) -> int:
            admitted = 0
            for _ in range(300):
                if debited(ledger, NOW, batch):
                    admitted += 1
                    ledger.settle(batch, 0, NOW, NOW)
            return admitted

        with ThreadPoolExecutor(8) as pool:
            admitted = list(pool.map(work, range(8)))

        assert admitted == [300] * 8
        assert debited(ledger, NOW, charge("shared", 8, window))


class TestSettlements:
    WINDOW = rate(100, 60)

    @pytest.mark.parametrize(
        ("cost", "room"),
        [(0, 100), (40, 60), (60, 40), (90, 10), (100, 0)],
        ids=["refund", "down", "same", "up", "full"],
    )
    def test_the_last_word(self, cost: int, room: int) -> None:
        """A settled charge costs what it was settled for."""
        ledger, asked = MemoryLedger(), charge("k", 60, self.WINDOW)
        ledger.debit([asked], NOW)

        ledger.settle(asked, cost, NOW, NOW + 1)

        (reading,) = ledger.debit([charge("k", 0, self.WINDOW)], NOW + 1)
        assert reading.remaining == room

    def test_a_refund_behind_a_border(self) -> None:
        """What was charged in the bucket before is given back there, not here."""
        ledger, asked = MemoryLedger(), charge("k", 60, self.WINDOW)
        ledger.debit([asked], NOW + 30)
        ledger.debit([charge("k", 10, self.WINDOW)], NOW + 90)

        ledger.settle(asked, 0, NOW + 30, NOW + 90)

        assert not debited(ledger, NOW + 90, charge("k", 91, self.WINDOW))
        assert debited(ledger, NOW + 90, charge("k", 90, self.WINDOW))

    def test_a_refund_after_all_windows(self) -> None:
        """What weighs no more cannot be given back."""
        ledger, asked = MemoryLedger(), charge("k", 60, self.WINDOW)
        ledger.debit([asked], NOW)
        ledger.debit([charge("k", 50, self.WINDOW)], NOW + 600)

        ledger.settle(asked, 0, NOW, NOW + 600)

        assert not debited(ledger, NOW + 600, charge("k", 51, self.WINDOW))

    def test_debt_is_bounded(self) -> None:
        """However many rows were answered, who waits three windows is free of debt."""
        ledger, asked = MemoryLedger(), charge("k", 1, self.WINDOW)
        ledger.debit([asked], NOW)

        ledger.settle(asked, 10**9, NOW, NOW)

        assert not debited(ledger, NOW + 60, charge("k", 1, self.WINDOW))
        assert not debited(ledger, NOW + 89, charge("k", 1, self.WINDOW))
        assert debited(ledger, NOW + 91, charge("k", 1, self.WINDOW))

    def test_debt_after_a_long_run(self) -> None:
        """Debt of a run that lasted for four windows is not forgotten by the next debit."""
        ledger, asked = MemoryLedger(), charge("k", 1, self.WINDOW)
        ledger.debit([asked], NOW)

        ledger.settle(asked, 101, NOW, NOW + 241)

        assert not debited(ledger, NOW + 241, charge("k", 1, self.WINDOW))

    def test_debt_holds_in_the_long_window(self) -> None:
        """An answer larger than the short window is debt in the long one too."""
        ledger, rates = MemoryLedger(), (rate(10, 8), rate(100, 64))
        asked = charge("k", 1, *rates)
        ledger.debit([asked], NOW)

        ledger.settle(asked, 95, NOW, NOW)

        assert debited(ledger, NOW + 40, charge("k", 5, *rates))
        assert not debited(ledger, NOW + 41, charge("k", 1, *rates))


class Name:
    """A key whose end can be watched."""


class TestMemory:
    def test_idle_counters_leave(self) -> None:
        """Counters that nobody touched for four of their windows are gone."""
        ledger, window = MemoryLedger(), rate(10, 60)
        names = [Name() for _ in range(1000)]
        for name in names:
            ledger.debit([charge(name, 1, window)], NOW)
        left = [weakref.ref(name) for name in names]
        del names, name

        for second in range(0, 300, 10):
            ledger.debit([charge("busy", 0, window)], NOW + second)
        gc.collect()

        assert [ref for ref in left if ref() is not None] == []

    @pytest.mark.parametrize("pause", [59, 60, 90, 119])
    def test_counters_that_weigh_stay(self, pause: int) -> None:
        """No counter leaves while it still weighs, whenever the others come."""
        for phase in range(0, 300, 7):
            ledger, window = MemoryLedger(), rate(1000, 60)
            ledger.debit([charge("other", 1, window)], NOW)
            start = NOW + phase // 60 * 60
            ledger.debit([charge("k", 1000, window)], start)
            for second in range(0, pause, 3):
                ledger.debit([charge("other", 0, window)], start + second)

            assert not debited(ledger, start + pause, charge("k", 1000, window))


class TestQuota:
    SETTINGS = Quotas(requests=(rate(600, 60),), rows=(rate(10_000, 3600), rate(50_000, 86_400)))

    def admit(self, quota: Quota, who: tuple[str, str, str], model: str | None, rows: int) -> Any:
        return quota.admit(who, model, rows, NOW)

    def test_headers(self) -> None:
        """draft-ietf-httpapi-ratelimit-headers: the policies, and what is left of each."""
        quota = Quota(self.SETTINGS, MemoryLedger())
        debit = self.admit(quota, ALICE, "iris", 30)

        assert dict(quota.headers(debit.left)) == {
            "RateLimit-Policy": (
                '"requests-60";q=600;w=60, "rows-3600";q=10000;w=3600, "rows-86400";q=50000;w=86400'
            ),
            "RateLimit": (
                '"requests-60";r=599;t=60, "rows-3600";r=9970;t=3600, "rows-86400";r=49970;t=57600'
            ),
        }

    def test_headers_without_a_model(self) -> None:
        """A route without a model says nothing of rows."""
        quota = Quota(self.SETTINGS, MemoryLedger())
        debit = self.admit(quota, ALICE, None, 1)

        assert dict(quota.headers(debit.left)) == {
            "RateLimit-Policy": '"requests-60";q=600;w=60',
            "RateLimit": '"requests-60";r=599;t=60',
        }

    @pytest.mark.parametrize(
        ("who", "model"),
        [
            (BOB, "iris"),
            (ALICE, "other"),
            (("", "t", "alice"), "iris"),
            (("i", "", "alice"), "iris"),
        ],
        ids=["another subject", "another model", "another tenant", "another issuer"],
    )
    def test_others_are_others(self, who: tuple[str, str, str], model: str) -> None:
        """Rows are counted by issuer, tenant, subject and model."""
        quota = Quota(Quotas(rows=(rate(10, 60),)), MemoryLedger())
        assert isinstance(self.admit(quota, ALICE, "iris", 10), Debit)

        assert isinstance(self.admit(quota, ALICE, "iris", 1), Deny)
        assert isinstance(self.admit(quota, who, model, 10), Debit)

    def test_a_batch_that_never_fits(self) -> None:
        """A batch larger than the smallest window is told the largest that would fit."""
        quota = Quota(self.SETTINGS, MemoryLedger())

        deny = self.admit(quota, ALICE, "iris", 10_001)

        assert (deny.status, deny.code) == (422, "batch_exceeds_quota")
        assert deny.more == {"largest_batch": 10_000}
        assert "Retry-After" not in dict(deny.headers)
        assert isinstance(self.admit(quota, ALICE, "iris", 10_000), Debit)

    def test_it_costs_nothing(self) -> None:
        """A batch that never fits is not charged as a request either."""
        quota = Quota(Quotas(requests=(rate(1, 60),), rows=(rate(10, 60),)), MemoryLedger())
        for _ in range(5):
            assert self.admit(quota, ALICE, "iris", 11).status == 422

        assert isinstance(self.admit(quota, ALICE, "iris", 10), Debit)

    @pytest.mark.parametrize("rows", [-1, -(10**9)])
    def test_a_batch_of_less_than_nothing(self, rows: int) -> None:
        """No number of rows, whoever computed it, gives quota that was not there."""
        quota = Quota(Quotas(rows=(rate(10, 60),)), MemoryLedger())
        with pytest.raises(ValueError, match="rows"):
            self.admit(quota, ALICE, "iris", rows)

    def test_no_charges(self) -> None:
        """What no window counts goes on without headers."""
        quota = Quota(Quotas(rows=(rate(10, 60),)), MemoryLedger())

        assert quota.headers(self.admit(quota, ALICE, None, 1).left) == ()

    def test_settled_by_rows_only(self) -> None:
        """A refund is of rows: the request was made."""
        quota = Quota(Quotas(requests=(rate(1, 60),), rows=(rate(10, 60),)), MemoryLedger())
        debit = self.admit(quota, ALICE, "iris", 10)

        debit.settle(0, NOW)

        assert self.admit(quota, ALICE, "iris", 10).code == "rate_exceeded"
        assert isinstance(quota.admit(ALICE, "iris", 10, NOW, request=False), Debit)
