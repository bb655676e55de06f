"""How do quotas hold while their store is away?"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from mlguard.app.background import Background
from mlguard.errors import InvalidSettings
from mlguard.ledger import (
    FLIGHT,
    LIFETIME,
    Change,
    ChangesUnmade,
    Entry,
    Limit,
    Line,
    MemoryLedger,
    Order,
    Receipt,
    StoreUnavailable,
)
from mlguard.quota_store.failover import Failover
from mlguard.quota_store.pending import MOST, Held, Owed, Pending
from tests.servers import wait_until

ROWS = Limit("rows:iris:60", 100, 60, unit="rows", model="iris")
CLOSED = Limit("requests::60", 10, 60, on_failure="closed")
OPEN = Limit("requests::60", 10, 60, on_failure="open")
EVER = Limit("rows:iris:lifetime", 1000, 0, LIFETIME, "rows", "iris")
FLIGHTS = Limit("concurrency:", 2, 0, FLIGHT, "concurrency")


class Far:
    """A store in this process that can be taken away."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger(lambda: 600.0)
        self.is_there = True
        self.calls: list[str] = []
        self.said: str | None = None
        self.gate: asyncio.Event | None = None

    def _call(self, what: str) -> None:
        self.calls.append(what)
        if not self.is_there:
            raise StoreUnavailable("nobody answers")

    def start(self) -> None:
        self._call("start")

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        self._call("debit")
        self.ledger.settle(changes)
        return self.ledger.debit(order)

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        if self.gate is not None:
            await self.gate.wait()
        return self.debit(order, changes)

    def apply(self, changes: Sequence[Change]) -> None:
        self._call("apply")
        self.ledger.settle(changes)

    def complaint(self, *, lifetime: bool) -> str | None:
        self._call("complaint")
        return self.said

    def entries(self, tag: str, account: str) -> list[Entry]:
        return self.ledger.entries(tag, account)

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        self.ledger.reset(tag, account, lifetime=lifetime)

    def close(self) -> None:
        self.calls.append("close")

    def used(self, who: str = "alice") -> dict[str, float]:
        return {entry.field: entry.used for entry in self.entries(who, "p")}


class Told:
    """What a failover said of its store."""

    def __init__(self) -> None:
        self.away: list[bool] = []
        self.seconds: list[float] = []


@contextmanager
def guarded(
    far: Far, *, share: float = 0.25, is_there: bool = True
) -> Iterator[tuple[Failover, Told]]:
    told = Told()
    far.is_there = is_there
    failover = Failover(
        lambda: far,
        name="far",
        share=share,
        lifetime=False,
        on_away=told.away.append,
        on_call=told.seconds.append,
        wake=lambda seconds: background.wake("quotas", seconds),
    )
    background = Background("mlguard-test")
    background.add("quotas", 1.0, failover.look_after, may_wait=True)
    failover.start()
    background.start()
    try:
        yield failover, told
    finally:
        background.close()
        failover.close()


def order(cost: int, *limits: Limit, who: str = "alice") -> Order:
    return Order(who, tuple(Line("p", limit, cost) for limit in limits or (ROWS,)))


def undone(found: Order, receipt: Receipt) -> list[Change]:
    return [Change(found.tag, x.account, x.limit, -x.cost, receipt.at) for x in found.lines]


def in_a_thread(failover: Failover, found: Order) -> Receipt | None:
    return failover.debit(found)


def on_a_loop(failover: Failover, found: Order) -> Receipt | None:
    return asyncio.run(failover.adebit(found))


Debit = Callable[[Failover, Order], Receipt | None]
both = pytest.mark.parametrize("debit", [in_a_thread, on_a_loop])


def admitted(receipt: Receipt | None) -> bool:
    return receipt is not None and receipt.is_admitted


class TestThere:
    @both
    def test_one_call(self, debit: Debit) -> None:
        """A debit is one call of the store, which its own corrections go with."""
        far = Far()
        with guarded(far) as (failover, told):
            first = order(60)
            receipt = debit(failover, first)
            assert receipt is not None
            failover.settle(undone(first, receipt))
            assert admitted(debit(failover, order(100)))

        assert far.calls.count("debit") == 2
        assert far.used() == {"rows:iris:60": 100}
        assert told.away == []
        assert len(told.seconds) == 2

    def test_corrections_are_carried(self) -> None:
        """What nobody's debit takes along is carried to the store all the same."""
        far = Far()
        with guarded(far) as (failover, _):
            found = order(60)
            receipt = failover.debit(found)
            assert receipt is not None
            failover.settle(undone(found, receipt))

            wait_until(lambda: far.used() == {"rows:iris:60": 0}, "the refund arrives")

    def test_the_last_corrections(self) -> None:
        """Whoever ends tells the store first."""
        far = Far()
        with guarded(far) as (failover, _):
            found = order(60)
            receipt = failover.debit(found)
            assert receipt is not None
            failover.settle(undone(found, receipt))

        assert far.used() == {"rows:iris:60": 0}
        assert far.calls[-1] == "close"

    def test_who_leaves_pays_nothing(self) -> None:
        """A call that is cancelled while the store charges it is given back."""
        far = Far()

        async def leave() -> None:
            far.gate = asyncio.Event()
            asking = asyncio.ensure_future(failover.adebit(order(60)))
            await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            far.gate.set()
            await asyncio.wait(asyncio.all_tasks() - {asyncio.current_task()})

        with guarded(far) as (failover, _):
            asyncio.run(leave())

        assert far.used() == {"rows:iris:60": 0}

    def test_unfit(self) -> None:
        """A store that is not fit stops the start, and says why."""
        far = Far()
        far.said = "it forgets"

        with pytest.raises(InvalidSettings, match="it forgets"), guarded(far):
            pass


class TestAway:
    @both
    def test_counts_here(self, debit: Debit) -> None:
        """Each worker admits its share meanwhile, and says so once."""
        far = Far()
        with guarded(far, is_there=False) as (failover, told):
            assert [admitted(debit(failover, order(5))) for _ in range(7)] == [True] * 5 + [
                False
            ] * 2
            assert told.away == [True]

    @both
    def test_one_failure_is_not_away(self, debit: Debit) -> None:
        """One call that fails goes by the settings, and the next asks the store again."""
        far = Far()
        with guarded(far) as (failover, told):
            far.is_there = False
            assert admitted(debit(failover, order(5)))
            far.is_there = True
            assert admitted(debit(failover, order(5)))

            wait_until(lambda: far.used() == {"rows:iris:60": 10}, "both are charged there")
            assert told.away == []

    @both
    def test_nobody_asks_who_is_away(self, debit: Debit) -> None:
        """After three failures in a row no request waits for the store."""
        far = Far()
        with guarded(far) as (failover, told):
            far.is_there = False
            for _ in range(20):
                debit(failover, order(1))

            assert far.calls.count("debit") == 3
            assert told.away == [True]

    @both
    def test_closed(self, debit: Debit) -> None:
        """Where one quota is closed nobody can tell, and nothing is counted."""
        far = Far()
        with guarded(far, is_there=False) as (failover, _):
            assert debit(failover, order(1, CLOSED, ROWS)) is None
            assert [admitted(debit(failover, order(5))) for _ in range(6)] == [True] * 5 + [False]

    @both
    def test_open(self, debit: Debit) -> None:
        """What is open is not counted; what stands beside it is."""
        far = Far()
        with guarded(far, is_there=False) as (failover, _):
            found = [debit(failover, order(5, OPEN, ROWS)) for _ in range(6)]

        assert [admitted(receipt) for receipt in found] == [True] * 5 + [False]
        assert found[0] is not None
        assert [reading.remaining for reading in found[0].readings] == [10, 20]

    def test_what_is_open_is_not_given_back(self) -> None:
        """A refund of what was never charged gives nobody units."""
        far = Far()
        free = Limit(ROWS.field, ROWS.amount, ROWS.seconds, unit="rows", on_failure="open")
        with guarded(far) as (failover, told):
            failover.debit(order(40, free))
            far.is_there = False
            for _ in range(3):
                found = order(30, free)
                receipt = failover.debit(found)
            assert receipt is not None
            failover.settle(undone(found, receipt))
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")

        assert far.used() == {"rows:iris:60": 40}

    def test_whatever_fails(self) -> None:
        """A store that raises what it should not is away like any other, and comes back."""

        class Odd(Far):
            def _call(self, what: str) -> None:
                self.calls.append(what)
                if not self.is_there:
                    raise KeyError("a mistake of ours")

        far = Odd()
        with guarded(far) as (failover, told):
            far.is_there = False
            assert all(admitted(failover.debit(order(1))) for _ in range(5))
            assert told.away == [True]
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")

        assert far.used() == {"rows:iris:60": 5}

    def test_more_than_the_share(self) -> None:
        """What would never fit into the share meanwhile cannot be told."""
        far = Far()
        with guarded(far, is_there=False) as (failover, _):
            assert failover.debit(order(26)) is None
            assert admitted(failover.debit(order(25)))

    def test_refunds_here(self) -> None:
        """What was charged here is given back here."""
        far = Far()
        with guarded(far, is_there=False) as (failover, _):
            for _ in range(5):
                found = order(25)
                receipt = failover.debit(found)
                assert receipt is not None
                assert receipt.is_admitted
                failover.settle(undone(found, receipt))

    def test_a_refund_is_not_lost(self) -> None:
        """What the store had charged is given back when it returns."""
        far = Far()
        with guarded(far) as (failover, told):
            found = order(60)
            receipt = failover.debit(found)
            assert receipt is not None
            far.is_there = False
            failover.settle(undone(found, receipt))
            for _ in range(3):
                failover.debit(order(1, who="bob"))
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")

            assert far.used() == {"rows:iris:60": 0}


class TestBack:
    def test_what_was_charged_here_is_charged_there(self) -> None:
        """The store learns what was admitted without it, refunds taken off, and is asked again."""
        far = Far()
        with guarded(far, is_there=False) as (failover, told):
            for rows in (10, 5, 3):
                found = order(rows)
                receipt = failover.debit(found)
            assert receipt is not None
            failover.settle(undone(found, receipt))
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")

            assert far.used() == {"rows:iris:60": 15}
            assert not admitted(failover.debit(order(86)))
            assert admitted(failover.debit(order(85)))

    def test_in_full(self) -> None:
        """What was admitted without the store is no debt: it counts, however much it is."""
        far = Far()
        with guarded(far, is_there=False, share=1.0) as (failover, told):
            far.ledger.debit(order(100))
            for _ in range(10):
                assert admitted(failover.debit(order(10)))
            far.ledger.settle([Change("alice", "p", ROWS, 100, 600.0)])
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")

        assert far.used() == {"rows:iris:60": 300}

    def test_each_share_is_given_once(self) -> None:
        """A store that comes and goes gives no worker its share anew."""
        far = Far()
        with guarded(far, is_there=False) as (failover, told):
            assert admitted(failover.debit(order(25)))
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")
            far.is_there = False
            for _ in range(3):
                assert not admitted(failover.debit(order(1)))

    def test_a_share_of_what_was_left(self) -> None:
        """Who had used most of a quota before has only a share of the rest without the store."""
        far = Far()
        with guarded(far) as (failover, told):
            assert admitted(failover.debit(order(80)))
            far.is_there = False
            assert admitted(failover.debit(order(5)))
            wait_until(lambda: told.away == [True], "it is away")

            assert not admitted(failover.debit(order(1)))

    def test_changes_that_were_made_are_not_made_again(self) -> None:
        """A store that fails after the corrections were made says so, and they are made once."""

        class Full(Far):
            def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
                if changes:
                    self.ledger.settle(changes)
                    raise ChangesUnmade("the disk is full", ())
                return super().debit(order, changes)

        far = Full()
        with guarded(far) as (failover, _):
            found = order(40)
            receipt = failover.debit(found)
            assert receipt is not None
            failover.settle([Change(found.tag, "p", ROWS, -10, receipt.at)])
            failover.debit(order(0))

            wait_until(lambda: far.used() == {"rows:iris:60": 30}, "it is refunded")
            failover.debit(order(0))
        assert far.used() == {"rows:iris:60": 30}

    def test_a_refund_after_it_was_charged_there(self) -> None:
        """A call that began without the store is settled in it."""
        far = Far()
        with guarded(far, is_there=False) as (failover, told):
            found = order(20)
            receipt = failover.debit(found)
            assert receipt is not None
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")
            failover.settle(undone(found, receipt))

            wait_until(lambda: far.used() == {"rows:iris:60": 0}, "the refund arrives")

    def test_what_was_in_flight_without_it(self) -> None:
        """A flight that began here lands here: the store never knew of it."""
        far = Far()
        with guarded(far, is_there=False, share=1.0) as (failover, told):
            found = order(1, FLIGHTS)
            receipt = failover.debit(found)
            assert receipt is not None
            far.is_there = True
            wait_until(lambda: told.away == [True, False], "the store is back")
            assert all(admitted(failover.debit(order(1, FLIGHTS))) for _ in "12")
            failover.settle(undone(found, receipt))

            assert not admitted(failover.debit(order(1, FLIGHTS)))

    @both
    def test_what_nobody_knows_is_not_in_flight(self, debit: Debit) -> None:
        """A store that counts a flight and does not say so is told that there is none."""

        class Mute(Far):
            def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
                receipt = super().debit(order, changes)
                if self.is_mute:
                    raise StoreUnavailable("it does not say")
                return receipt

            is_mute = False

        far = Mute()
        with guarded(far, share=1.0) as (failover, _):
            first = order(1, FLIGHTS)
            receipt = debit(failover, first)
            assert receipt is not None
            far.is_mute = True
            debit(failover, first)
            far.is_mute = False
            wait_until(lambda: far.used() == {"concurrency:": 1}, "one is in flight, not two")
            failover.settle(undone(first, receipt))

            wait_until(lambda: far.used() == {}, "none is in flight")

    def test_unfit_when_it_is_back(self, caplog: pytest.LogCaptureFixture) -> None:
        """A store that could not be looked at when we began is looked at before it counts."""
        far = Far()
        far.said = "it forgets"
        with guarded(far, is_there=False) as (failover, told):
            far.is_there = True
            wait_until(lambda: "it forgets" in caplog.text, "the complaint is logged")
            assert admitted(failover.debit(order(1)))

            assert told.away == [True]
            assert "debit" not in far.calls


class TestPending:
    def test_is_bounded(self, caplog: pytest.LogCaptureFixture) -> None:
        """Where too much waits the newest is lost, and the log says so."""
        pending = Pending()
        change = Change("t", "p", ROWS, -1, 0.0)

        pending.put([change] * (MOST + 5))

        assert len(pending) == MOST
        assert "5 settlements of quotas are lost" in caplog.text

    def test_taken_once(self) -> None:
        """A change is taken by its caller's debit, or carried: never both."""
        pending = Pending()
        pending.put(Change(str(n % 7), "p", ROWS, -1, 0.0) for n in range(5000))
        taken: list[Change] = []

        def carry() -> None:
            while some := pending.take_some():
                taken.extend(some)

        threads = [threading.Thread(target=carry) for _ in range(3)]
        for thread in threads:
            thread.start()
        for tag in range(7):
            taken += pending.take(str(tag))
        for thread in threads:
            thread.join()

        assert (len(taken), len(pending)) == (5000, 0)

    def test_owed_is_bounded(self) -> None:
        """What is owed by too many callers is forgiven."""
        owed = Owed()
        for number in range(MOST + 5):
            owed.add(order(1, who=str(number)))

        assert len(owed.take()) == MOST
        assert owed.take() == []

    def test_lifetimes_are_not_forgiven(self) -> None:
        """Where there is no room, a lifetime is not owed anew, and what is owed of it is kept."""
        owed, first = Owed(), order(1, EVER, who="first")
        owed.add(first)
        for number in range(MOST):
            owed.add(order(1, who=str(number)))

        assert [owed.takes(x) for x in (first, order(1), order(1, EVER))] == [True, True, False]
        owed.add(first)
        assert [c.extra for c in owed.take() if c.limit == EVER] == [2]

    def test_what_lifetimes_owe_is_not_lost(self) -> None:
        """Where too much waits, what a lifetime is owed waits beside it, as one sum."""
        pending = Pending()
        pending.put([Change("t", "p", ROWS, -1, 0.0)] * MOST)

        pending.put([Change("t", "p", EVER, extra, 0.0) for extra in (7, 5, -3)])

        taken: list[Change] = []
        while some := pending.take_some():
            taken += some
        assert [c.extra for c in taken if c.limit == EVER] == [12]
        assert len(pending) == 0

    def test_a_lifetime_is_corrected_in_full(self) -> None:
        """What an answer cost of a lifetime is charged in the store, wherever the call began."""
        far = Far()
        with guarded(far, share=1.0) as (failover, _):
            for is_there in (True, False):
                far.is_there = is_there
                found = order(1, EVER)
                receipt = failover.debit(found)
                assert receipt is not None
                extra = [Change(found.tag, "p", EVER, 5000, receipt.at)]
                failover.settle(extra)
            far.is_there = True

            wait_until(lambda: far.used() == {"rows:iris:lifetime": 10_002}, "all is charged")

    def test_held(self) -> None:
        """What is held or has been is said again, and what is doubted once, all in all."""
        held = Held()
        place: Any = ("t", "p", FLIGHTS)
        held.change(place, 2)
        held.change(place, -1)
        assert [(c.extra, c.is_grant) for c in held.renewals()] == [(1, True)]
        assert held.doubted() == []

        held.change(place, -1)
        held.doubt(place)

        assert [(c.extra, c.is_grant) for c in held.renewals()] == [(0, True)]
        assert held.renewals() == []
        assert [(c.extra, c.is_grant) for c in held.doubted()] == [(0, True)]
        assert held.doubted() == []
