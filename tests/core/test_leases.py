"""Are units that workers pay for beforehand never overspent, nor lost? A real Redis."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mlguard.ledger import FLIGHT, LIFETIME, Change, Limit, Line, MemoryLedger, Order, Receipt
from mlguard.redis import RedisStore
from tests.redis_servers import Redis
from tests.servers import wait_until

REQUESTS = Limit("requests", 3000, 3600)
ROWS = Limit("rows", 4000, 3600, unit="rows")
LEASE = 100
WORKERS = 4

Make = Callable[..., RedisStore]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def make(server: Redis) -> Iterator[Make]:
    made: list[RedisStore] = []
    prefix = uuid4().hex

    def store(lease: int = LEASE, **more: Any) -> RedisStore:
        made.append(
            RedisStore(server.url, prefix=prefix, holder="x", timeout=5, lease=lease, **more)
        )
        return made[-1]

    yield store
    for each in made:
        each.close()


def order(*limits: Limit, cost: int = 1) -> Order:
    return Order("acme", tuple(Line("p", limit, cost) for limit in limits or (REQUESTS,)))


def used(store: RedisStore) -> dict[str, float]:
    return {entry.field: entry.used for entry in store.entries("acme", "p")}


def spend(url: str, prefix: str, told: Any, stays: bool) -> None:
    """Be a worker: spend until refused, tell how much, and stop, or stay until killed."""
    store = RedisStore(url, prefix=prefix, holder=str(os.getpid()), timeout=5, lease=LEASE)
    admitted = 0
    while store.debit(order(REQUESTS, ROWS)).is_admitted:
        admitted += 1
        if stays and admitted == 200:
            told.put(admitted)
            time.sleep(60)
    store.close()
    told.put(admitted)


def workers(url: str, prefix: str, *, stay: bool = False) -> tuple[list[Any], Any]:
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    all_workers = [
        context.Process(target=spend, args=(url, prefix, told, stay), daemon=True)
        for _ in range(WORKERS)
    ]
    for worker in all_workers:
        worker.start()
    return all_workers, told


class TestProcesses:
    """What do four workers admit that share a tenant?"""

    def test_never_more_than_the_limit(self, server: Redis, make: Make) -> None:
        """They admit the limit at most, and what they stop with others may have."""
        observer = make(lease=0)
        all_workers, told = workers(server.url, observer._keys._prefix)
        admitted = sum(told.get(timeout=60) for _ in all_workers)
        for worker in all_workers:
            worker.join()

        assert REQUESTS.amount - WORKERS * LEASE <= admitted <= REQUESTS.amount
        assert used(observer) == {"requests": admitted, "rows": admitted}
        rest = 0
        while observer.debit(order(REQUESTS, ROWS)).is_admitted:
            rest += 1
        assert admitted + rest == REQUESTS.amount

    def test_a_worker_that_is_killed(self, server: Redis, make: Make) -> None:
        """What killed workers had paid for is stranded, no more than a lease each."""
        observer = make(lease=0)
        all_workers, told = workers(server.url, observer._keys._prefix, stay=True)
        admitted = sum(told.get(timeout=60) for _ in all_workers)
        for worker in all_workers:
            os.kill(worker.pid, signal.SIGKILL)
            worker.join()

        assert admitted <= used(observer)["requests"] <= admitted + WORKERS * LEASE


class TestOne:
    """What does one worker lease?"""

    def test_few_round_trips(self, server: Redis, make: Make) -> None:
        """Four workers of one tenant cost the Redis a fifth, at most, of what they did."""
        spent = []
        for lease in (0, LEASE):
            stores = [make(lease) for _ in range(WORKERS)]
            wide = Limit(f"wide {lease}", 10**6, 3600)
            server.ask("CONFIG", "RESETSTAT")
            for number in range(1000):
                assert stores[number % WORKERS].debit(order(wide)).is_admitted
            spent.append(server.ask("INFO", "commandstats")["cmdstat_evalsha"]["usec"])

        assert spent[1] < spent[0] / 5

    def test_who_comes_seldom_leases_nothing(self, make: Make) -> None:
        """The first debit is charged alone."""
        store = make()
        store.debit(order())

        assert used(store) == {"requests": 1}

    def test_readings_are_what_this_worker_would_admit(self, make: Make) -> None:
        """What is leased is among what is left."""
        store = make()
        remaining = [store.debit(order()).readings[0].remaining for _ in range(50)]

        assert remaining == list(range(2999, 2949, -1))

    def test_what_is_idle_is_given_back(self, make: Make) -> None:
        """Nobody comes, and after a while only what was used is charged."""
        store = make()
        for _ in range(50):
            store.debit(order())
        assert used(store)["requests"] > 50

        wait_until(
            lambda: store.give_back() or used(store) == {"requests": 50}, "the rest is given back"
        )

    @pytest.mark.parametrize("kind", [LIFETIME, FLIGHT])
    def test_other_kinds_are_charged_one_by_one(self, make: Make, kind: str) -> None:
        """What never comes back, or is in flight, is not paid for beforehand."""
        store, other = make(), Limit("other", 100, kind=kind)
        for _ in range(50):
            store.debit(order(REQUESTS, other))

        assert used(store) == {"requests": 50, "other": 50}

    def test_corrections_are_made_here(self, server: Redis, make: Make) -> None:
        """What was reserved and not used is leased on, without a round trip."""
        store = make()
        for _ in range(50):
            found = store.debit(order(ROWS))
        before = server.calls("evalsha")

        store.apply(
            [Change("acme", "p", ROWS, 3, found.at), Change("acme", "p", ROWS, -3, found.at)]
        )

        assert server.calls("evalsha") == before
        store.close()
        assert used(make(lease=0)) == {"rows": 50}


class LeaseMachine(RuleBasedStateMachine):
    """Three workers with leases, beside a ledger that is told of each admission alone."""

    SMALL = Limit("small", 60, 60)
    LARGE = Limit("large", 150, 600, unit="rows")

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url
        self.now = 1_800_000_000.0

    @initialize()
    def begin(self) -> None:
        prefix = uuid4().hex
        self.workers = [
            RedisStore(
                self._url, prefix=prefix, holder="x", timeout=5, lease=20, clock=lambda: self.now
            )
            for _ in range(3)
        ]
        self.ledger = MemoryLedger(lambda: self.now)
        self.admitted: list[tuple[int, Order, Receipt]] = []

    @rule(worker=st.integers(0, 2), cost=st.integers(0, 7), times=st.integers(1, 12))
    def ask(self, worker: int, cost: int, times: int) -> None:
        found = order(self.SMALL, self.LARGE, cost=cost)
        for _ in range(times):
            receipt = self.workers[worker].debit(found)
            if receipt.is_admitted:
                assert self.ledger.debit(found).is_admitted, "overspent"
                self.admitted.append((worker, found, receipt))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        if self.admitted:
            number = data.draw(st.integers(0, len(self.admitted) - 1))
            worker, found, receipt = self.admitted.pop(number)
            changes = [Change("acme", "p", x.limit, -x.cost, receipt.at) for x in found.lines]
            self.workers[worker].apply(changes)
            self.ledger.settle(changes)

    @rule(seconds=st.floats(0, 45))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(worker=st.integers(0, 2))
    def stop(self, worker: int) -> None:
        self.workers[worker].give_back(everything=True)

    @invariant()
    def counts_at_least_what_was_spent(self) -> None:
        if hasattr(self, "workers"):
            spent = {entry.field: entry.used for entry in self.ledger.entries("acme", "p")}
            counted = used(self.workers[0])
            assert all(counted[field] >= units - 1e-6 for field, units in spent.items())

    def teardown(self) -> None:
        for worker in getattr(self, "workers", ()):
            worker.close()


def test_whatever_happens(server: Redis) -> None:
    """A ledger without leases would have admitted all that workers with leases admit."""
    run_state_machine_as_test(
        lambda: LeaseMachine(server.url),
        settings=settings(max_examples=25, stateful_step_count=20, deadline=None),
    )
