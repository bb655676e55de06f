"""Does every ledger count as it should, and does the one in memory forget as it should?"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from mlguard.ledger import FLIGHT, LIFETIME, Change, Limit, Line, MemoryLedger, Order, Receipt
from tests.core.ledgers import Hooks, LedgerMachine
from tests.redis_servers import Redis

NOW = 1_700_000_000.0


def in_memory(clock: Callable[[], float]) -> Hooks:
    ledger = MemoryLedger(clock)

    def debit(order: Order, changes: Sequence[Change]) -> Receipt:
        ledger.settle(changes)
        return ledger.debit(order)

    return Hooks(debit, ledger.settle, ledger.entries, ledger.reset)


def in_redis(url: str, clock: Callable[[], float]) -> tuple[Hooks, Callable[[], None]]:
    """Return what a new store in Redis does, and what closes it."""
    from mlguard.redis import RedisStore

    # What is counted is looked at, not how long it takes.
    store = RedisStore(url, prefix=uuid4().hex, timeout=5, holder="worker", clock=clock)
    return Hooks(store.debit, store.apply, store.entries, store.reset), store.close


class MemoryMachine(LedgerMachine):
    """The ledger in memory."""

    def make(self, clock: Callable[[], float]) -> Hooks:
        return in_memory(clock)


class RedisMachine(LedgerMachine):
    """The store in a real Redis."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.url = url

    def make(self, clock: Callable[[], float]) -> Hooks:
        hooks, self.close = in_redis(self.url, clock)
        return hooks

    def teardown(self) -> None:
        if hasattr(self, "close"):
            self.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    pytest.importorskip("redis", reason="the package redis is not installed")
    path: Path = tmp_path_factory.mktemp("redis")
    with Redis(path) as server:
        yield server


class TestEvery:
    """Does each ledger do what plain dicts do?"""

    def test_memory(self) -> None:
        """The ledger in memory counts like plain dicts, whatever happens in which order."""
        settings = examples(max_examples=40, stateful_step_count=30, deadline=None)
        run_state_machine_as_test(MemoryMachine, settings=settings)

    def test_redis(self, redis: Redis) -> None:
        """The store in Redis counts like plain dicts, whatever happens in which order."""
        settings = examples(max_examples=25, stateful_step_count=30, deadline=None)
        run_state_machine_as_test(partial(RedisMachine, redis.url), settings=settings)


class Slow(MemoryLedger):
    """The ledger in memory without its way for the usual order."""

    def _usual(self, order: Order, now: float) -> Receipt | None:
        return None


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def order(limit: Limit, cost: int = 1, account: str = "alice", tag: str = "acme") -> Order:
    return Order(tag, (Line(account, limit, cost),))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis"])
def hooks(request: pytest.FixtureRequest, clock: Clock) -> Iterator[Hooks]:
    """Any ledger, which goes by the clock."""
    if request.param == "memory":
        yield in_memory(clock)
        return
    hooks, close = in_redis(request.getfixturevalue("redis").url, clock)
    yield hooks
    close()


class TestDebt:
    """What becomes of what is charged later?"""

    @pytest.mark.parametrize(
        ("limit", "expected"),
        [
            pytest.param(Limit("rows", 5, 60), [4, 10, 3, 0], id="a window's is bounded"),
            pytest.param(Limit("rows", 5, 0, LIFETIME), [4, 104, 97, 0], id="a lifetime's counts"),
        ],
    )
    def test_how_far_it_goes(self, hooks: Hooks, limit: Limit, expected: list[int]) -> None:
        """Windows forgive what is beyond twice the limit, lifetimes nothing; refunds end at 0."""
        used = []

        for extra in (4, 100, -7, -97):
            hooks.settle([Change("acme", "alice", limit, extra, NOW)])
            used.append(hooks.entries("acme", "alice")[0].used)

        assert used == expected

    def test_a_lifetime_is_overdrawn_once(self, hooks: Hooks) -> None:
        """Calls under way at once that answer too much leave a budget spent for ever."""
        ever = Limit("ever", 1000, kind=LIFETIME, unit="rows")
        for _ in "1234":
            assert hooks.debit(order(ever), ()).is_admitted

        hooks.settle([Change("acme", "alice", ever, 199_999, NOW)] * 4)
        hooks.settle([Change("acme", "alice", ever, -199_999, NOW)])

        assert hooks.entries("acme", "alice")[0].used == 600_001
        assert hooks.debit(order(ever, 0), ()).readings[0].remaining == 0


class TestFields:
    """Which counter is which?"""

    IRIS = Limit("concurrency:iris", 1, kind=FLIGHT, model="iris")
    WINE = Limit("concurrency:wine", 2, kind=FLIGHT, model="wine")

    def test_what_is_in_flight_is_counted_apart(self, hooks: Hooks) -> None:
        """Requests of one model in flight take nothing from another one's limit."""
        asked = [self.IRIS, self.WINE, self.IRIS, self.WINE, self.WINE]

        found = [hooks.debit(order(limit), ()).is_admitted for limit in asked]

        assert found == [True, True, False, True, False]
        listed = {(e.field, e.used, e.kind) for e in hooks.entries("acme", "alice")}
        assert listed == {("concurrency:iris", 1, FLIGHT), ("concurrency:wine", 2, FLIGHT)}

    def test_what_is_given_back_is_of_one_field(self, hooks: Hooks) -> None:
        """What one model gives back is free for that model, and for no other."""
        for limit in (self.IRIS, self.WINE):
            hooks.debit(order(limit), ())

        hooks.settle([Change("acme", "alice", self.WINE, -1, NOW)])

        assert {e.field for e in hooks.entries("acme", "alice")} == {"concurrency:iris"}
        assert not hooks.debit(order(self.IRIS), ()).is_admitted
        assert hooks.debit(order(self.WINE, 2), ()).is_admitted

    def test_what_is_added_to_nothing_counts(self, hooks: Hooks) -> None:
        """Who holds nothing and is charged later holds that."""
        hooks.settle([Change("acme", "alice", self.WINE, 2, NOW)])

        assert not hooks.debit(order(self.WINE), ()).is_admitted
        assert hooks.debit(order(self.WINE), [Change("acme", "alice", self.WINE, -1, NOW)])


class TestEnds:
    """What is told of a window that has ended?"""

    LIMIT = Limit("rows", 10, 60)

    def test_it_is_a_share_of_its_own_limit(self, hooks: Hooks, clock: Clock) -> None:
        """A limit that has changed since does not change how much of the old one was used."""
        hooks.debit(order(self.LIMIT, 4), ())
        clock.now += 60

        receipt = hooks.debit(order(Limit("rows", 1000, 60)), ())

        assert receipt.ended == ((0, 0.4),)

    def test_a_refund_does_not_hide_it(self, hooks: Hooks, clock: Clock) -> None:
        """What is given back after the end counts, and the next debit still tells the end."""
        since = hooks.debit(order(self.LIMIT, 4), ()).at
        clock.now += 60
        hooks.settle([Change("acme", "alice", self.LIMIT, -1, since)])

        ended = [hooks.debit(order(self.LIMIT), ()).ended for _ in "12"]

        assert ended == [((0, 0.3),), ()]


def admitted(ledger: MemoryLedger, limit: Limit, cost: int = 1, account: str = "alice") -> bool:
    return ledger.debit(order(limit, cost, account)).is_admitted


class TestWaits:
    """How long does a refusal say to wait?"""

    @examples(max_examples=150, deadline=None)
    @given(
        amount=st.integers(1, 1000),
        seconds=st.sampled_from([1, 7, 60, 3600, 86400, 2592000]),
        first=st.floats(0, 0.999),
        gap=st.floats(0, 1.5),
        data=st.data(),
    )
    def test_are_exact(
        self, amount: int, seconds: int, first: float, gap: float, data: st.DataObject
    ) -> None:
        """Who waits as long as told is admitted, and a moment before nobody is."""
        limit = Limit("rows", amount, seconds)
        spent, cost = data.draw(st.integers(1, amount)), data.draw(st.integers(1, amount))
        # In its first buckets a clock has the most precision.
        began = first * seconds + seconds
        moment = 1e-6 * seconds

        def wait(at: float) -> float:
            clock = Clock(began)
            ledger = MemoryLedger(clock)
            ledger.debit(order(limit, spent))
            clock.now = at
            return ledger.debit(order(limit, cost)).readings[0].wait

        now = began + gap * seconds
        told = wait(now)
        if told:
            assert wait(now + told + moment) == 0
        if told > moment:
            assert wait(now + told - moment) > 0

    def test_are_of_each_line(self) -> None:
        """Only the lines that refuse say to wait: what never comes back for ever."""
        ledger = MemoryLedger(Clock())
        lines = [
            (Limit("window", 1, 60), 2),
            (Limit("free", 5, 60), 1),
            (Limit("ever", 1, kind=LIFETIME), 2),
            (Limit("held", 1, kind=FLIGHT), 2),
        ]

        receipt = ledger.debit(Order("acme", tuple(Line("a", *line) for line in lines)))

        window, *others = [reading.wait for reading in receipt.readings]
        assert window > 0
        assert others == [0, math.inf, 1]


class TestUsualOrders:
    """Does the short way of a debit do what the long one does?"""

    WINDOWS = st.builds(
        Limit, st.sampled_from(["a", "b"]), st.integers(1, 40), st.sampled_from([1, 7, 60, 3600])
    )
    OTHERS = st.sampled_from([Limit("e", 50, kind=LIFETIME), Limit("f", 3, kind=FLIGHT)])
    LINES = st.builds(
        Line,
        st.sampled_from(["p", "t"]),
        st.one_of(WINDOWS, WINDOWS, WINDOWS, OTHERS),
        st.one_of(st.integers(0, 3), st.just(2**53)),
    )
    STEPS = st.lists(
        st.tuples(
            st.sampled_from([0, 0, 1e-9, 0.1, 0.5, 1 / 3, 1, 6.999999999, 7, 59.9, 60, 4000]),
            st.lists(LINES, min_size=1, max_size=4),
            st.integers(-9, 90),
        ),
        max_size=40,
    )

    @examples(max_examples=150, deadline=None)
    @given(began=st.floats(0, 2e9), steps=STEPS)
    def test_are_equal(self, began: float, steps: list[tuple[float, list[Line], int]]) -> None:
        """Whatever came before, receipts are equal to the last bit, and so is what is kept."""
        clock = Clock(began)
        fast, slow = MemoryLedger(clock), Slow(clock)
        for pause, lines, extra in steps:
            clock.now += pause
            asked = Order("acme", tuple(lines))
            assert fast.debit(asked) == slow.debit(asked)
            change = Change("acme", *lines[0][:2], extra, clock.now - pause, extra % 2 == 0)
            for ledger in (fast, slow):
                ledger.settle([change])

        for account in ("p", "t"):
            assert fast.notes("acme" + account) == slow.notes("acme" + account)

    def test_are_what_they_are_for(self) -> None:
        """A window under way that has room is such a one: the short way is taken."""
        ledger, asked = MemoryLedger(Clock()), order(Limit("rows", 5, 60))
        ledger.debit(asked)

        assert ledger._usual(asked, NOW) is not None

    def test_a_look_ends_no_window(self) -> None:
        """What is told of a debit beforehand charges nothing, and hides no end of a window."""
        clock, asked = Clock(60.0), order(Limit("rows", 10, 60), 4)
        ledger = MemoryLedger(clock)
        ledger.debit(asked)
        clock.now = 130.0

        looked = [ledger.peek(asked) for _ in "12"]

        assert [x.readings[0].wait for x in looked] == [0, 0]
        assert ledger.debit(asked).ended == ((0, 0.4),)


class TestForgetting:
    """What leaves the memory?"""

    def test_who_is_gone_for_two_windows(self) -> None:
        """Accounts that nobody touched for two of the longest windows leave, others stay."""
        clock = Clock()
        ledger, limit = MemoryLedger(clock), Limit("rows", 5, 60)
        for number in range(100):
            admitted(ledger, limit, account=f"account {number}")
        assert len(ledger) == 100

        for _ in range(6):
            clock.now += 50
            admitted(ledger, limit, account="busy")

        assert len(ledger) == 1

    def test_nobody_earlier(self) -> None:
        """What still weighs is never forgotten, whatever short windows others have."""
        clock = Clock(NOW - NOW % 3600 + 3599)
        ledger, hour = MemoryLedger(clock), Limit("rows", 5, 3600)
        assert admitted(ledger, hour, 5)

        for _ in range(20):
            clock.now += 60
            admitted(ledger, Limit("requests", 5, 1), account="busy")

        assert not admitted(ledger, hour, 2)

    def test_the_oldest_beyond_the_bound(self) -> None:
        """There are never more accounts than may be."""
        ledger, limit = MemoryLedger(Clock(), most=10), Limit("rows", 5, 60)
        for number in range(50):
            admitted(ledger, limit, 5, account=f"account {number}")

        assert len(ledger) == 10
        assert not admitted(ledger, limit, account="account 49")

    def test_lifetimes_never(self) -> None:
        """What never comes back stays, however long ago and however many others there are."""
        clock = Clock()
        ledger, ever = MemoryLedger(clock, most=2), Limit("ever", 5, kind=LIFETIME)
        admitted(ledger, ever, 5)
        for number in range(10):
            clock.now += 1e9
            admitted(ledger, Limit("rows", 5, 60), account=f"account {number}")

        assert not admitted(ledger, ever)
        ledger.reset("acme", "alice")
        assert not admitted(ledger, ever)
        ledger.reset("acme", "alice", lifetime=True)
        assert admitted(ledger, ever)


class TestHolders:
    """Who holds what is in flight?"""

    LIMIT = Limit("held", 3, kind=FLIGHT)

    def test_give_back(self) -> None:
        """What is given back may be held by others."""
        ledger = MemoryLedger(Clock())
        assert [admitted(ledger, self.LIMIT) for _ in "1234"] == [True, True, True, False]

        ledger.settle([Change("acme", "alice", self.LIMIT, -1, NOW)])

        assert [admitted(ledger, self.LIMIT) for _ in "12"] == [True, False]

    def test_are_dropped(self) -> None:
        """Who is gone holds nothing, and others still do."""
        ledger = MemoryLedger(Clock())
        second = Limit("held too", 3, kind=FLIGHT)
        for limit in (self.LIMIT, second):
            ledger.debit(order(limit, 2), "one")
        ledger.debit(order(self.LIMIT, 1), "other")

        ledger.drop("one")

        assert {e.field: e.used for e in ledger.entries("acme", "alice")} == {"held": 1}

    def test_give_back_no_more_than_they_hold(self) -> None:
        """Nobody gives back what another one holds."""
        ledger = MemoryLedger(Clock())
        ledger.debit(order(self.LIMIT, 3), "one")

        ledger.settle([Change("acme", "alice", self.LIMIT, -3, NOW)], "other")

        assert not ledger.debit(order(self.LIMIT), "other").is_admitted


class TestCounters:
    """What becomes of a counter?"""

    @pytest.mark.parametrize("kind", ["window", LIFETIME])
    def test_grants(self, kind: str) -> None:
        """A grant admits more than the limit."""
        limit = Limit("rows", 5, 60 if kind == "window" else 0, kind)
        ledger = MemoryLedger(Clock())

        ledger.settle([Change("acme", "alice", limit, -3, NOW, is_grant=True)])

        assert [admitted(ledger, limit, cost) for cost in (8, 1)] == [True, False]

    def test_an_end_is_told_once(self) -> None:
        """The first debit of a new window tells how much was used in the last one."""
        clock, limit = Clock(60.0), Limit("rows", 10, 60)
        ledger = MemoryLedger(clock)
        ledger.debit(order(limit, 4))
        clock.now = 130.0

        ended = [ledger.debit(order(limit)).ended for _ in "12"]

        assert ended == [((0, 0.4),), ()]

    def test_tags_are_apart(self) -> None:
        """An account of one tag is another one of another tag."""
        ledger, limit = MemoryLedger(Clock()), Limit("rows", 1, 60)

        assert ledger.debit(order(limit, tag="acme:")).is_admitted
        assert ledger.debit(order(limit, tag="other:")).is_admitted

    def test_threads(self) -> None:
        """Threads that debit at once are admitted as much as the window holds, and no more."""
        ledger, limit = MemoryLedger(), Limit("rows", 500, 3_000_000)
        found: list[bool] = []

        def run() -> None:
            found.extend([admitted(ledger, limit) for _ in range(200)])

        threads = [threading.Thread(target=run) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert found.count(True) == 500
