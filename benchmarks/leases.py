"""What do leases save a Redis, and what do they strand?

Measured: four workers, each a process, that spend one tenant's window flat out, without leases and
with them; the Redis' own CPU time is what INFO says.

Simulated: the same leases, kept by the same code, of up to ten thousand workers that share one
tenant, each asked fifty times a second at random moments, until a window is spent that takes four
fifths of all requests. Round trips are those until the first request was refused, as what is spent
is known for a while; each counts as the microseconds of Redis CPU that were measured. "Stranded" is
what workers held at most; "early" is what of the limit others held when the first one was refused,
"unused" what of it was left when all requests had come.
"""

from __future__ import annotations

import multiprocessing
import time
from random import Random
from typing import Any, NamedTuple

from benchmarks import callers
from benchmarks.quotas import redis_server
from mlguard.ledger import Limit, Line, Order, Reading, Receipt
from mlguard.redis import RedisStore
from mlguard.redis.leases import Leases

LEASES = (0, 100)
WORKERS = 4
SECONDS = 2.0
CROWDS = (4, 100, 1000, 10_000)
RATE = 50.0  # requests of one worker in a second
REQUESTS = 100_000  # in one simulation, or forty of each worker
WINDOW = 3600
SHARE = 10  # as in count.lua


class Measured(NamedTuple):
    """What four workers did.

    Attributes:
        rate: Requests a second.
        micros: Of the Redis' CPU time, for one request.
        trips: Round trips of one request.
    """

    rate: float
    micros: float
    trips: float


class Simulated(NamedTuple):
    """What a crowd of workers did.

    Attributes:
        trips: Round trips of one request, until one was refused.
        stranded: Units that workers held at most.
        early: Share of the limit that was held elsewhere at the first refusal.
        unused: Share of the limit that was never admitted.
        over: Units admitted beyond the limit.
    """

    trips: float
    stranded: int
    early: float
    unused: float
    over: int


def spend(url: str, lease: int, told: Any) -> None:
    """Be a worker: spend for a while, and tell how often."""
    store = RedisStore(url, prefix=f"lease-{lease}", holder="x", timeout=1, lease=lease)
    order = Order("acme", (Line("acme", Limit("requests", 10**9, WINDOW), 1),))
    done, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        store.debit(order)
        done += 1
    store.close()
    told.put(done)


def measure(server: callers.Server, lease: int) -> Measured:
    """Have four workers spend at once."""
    told: Any = multiprocessing.Queue()
    workers = [
        multiprocessing.Process(target=spend, args=(server.url, lease, told))
        for _ in range(WORKERS)
    ]
    with server.client() as client:
        client.config_resetstat()
        for worker in workers:
            worker.start()
        done = sum(told.get() for _ in workers)
        for worker in workers:
            worker.join()
        called = client.info("commandstats")["cmdstat_evalsha"]
    return Measured(done / SECONDS, called["usec"] / done, called["calls"] / done)


class Counter:
    """One window, as the script keeps it."""

    def __init__(self, limit: Limit) -> None:
        self.limit, self.used, self.trips = limit, 0, 0

    def debit(self, order: Order, leases: Leases, now: float) -> Receipt:
        """Charge an order, and lease what is wished."""
        self.trips += 1
        wish = leases.wish(order)
        self.used += sum(change.extra for change in wish.returned)
        left = self.limit.amount - self.used - 1
        if left < 0:
            receipt, got = Receipt((Reading(0, WINDOW, 1.0),), now), [0]
        else:
            got = [min(wish.wanted[0], left // SHARE)] if wish.wanted else [0]
            self.used += 1 + got[0]
            receipt = Receipt((Reading(self.limit.amount - self.used, WINDOW, 0.0),), now)
        return leases.learn(order, wish, receipt, got)


def simulate(workers: int, lease: int, chance: Random) -> Simulated:
    """Have a crowd spend a window."""
    requests = max(REQUESTS, 40 * workers)
    limit = Limit("requests", requests * 4 // 5, WINDOW)
    order = Order("acme", (Line("acme", limit, 1),))
    counter, now = Counter(limit), 0.0
    leased = [Leases(lease, lambda: now) for _ in range(workers)]
    admitted = stranded = 0
    early: int | None = None
    trips = 0.0
    for number in range(requests):
        now += chance.expovariate(workers * RATE)
        leases = leased[chance.randrange(workers)]
        receipt = leases.take(order) or counter.debit(order, leases, now)
        admitted += receipt.is_admitted
        if early is None and not receipt.is_admitted:
            early, trips = limit.amount - admitted, counter.trips / (number + 1)
        if number % 64 == 0:
            stranded = max(stranded, counter.used - admitted)
    over = max(0, admitted - limit.amount)
    unused = max(0, limit.amount - admitted) / limit.amount
    return Simulated(trips, stranded, (early or 0) / limit.amount, unused, over)


def main() -> None:
    """Print what leases save, measured and simulated."""
    micros = 50.0
    with redis_server() as server:
        if server is None:
            print("\nThere is no redis-server on the PATH: nothing is measured with a Redis.")
        else:
            print(f"\n{WORKERS} workers on one tenant, flat out")
            print("  lease  requests/s  Redis µs/request  round trips/request")
            found = {lease: measure(server, lease) for lease in LEASES}
            for lease, (rate, spent, trips) in found.items():
                print(f"  {lease:5}  {rate:10.0f}  {spent:16.2f}  {trips:19.3f}")
            micros = found[0].micros
            ratio = micros / found[LEASES[-1]].micros
            print(f"  {ratio:.0f} times the requests for the same CPU time of the Redis")
    print("\nsimulated: workers that share one tenant, until its window is spent")
    print("  workers  lease  round trips/request  Redis s/million  stranded  early  unused   over")
    chance = Random(1)
    for workers in CROWDS:
        for lease in LEASES:
            trips, stranded, early, unused, over = simulate(workers, lease, chance)
            print(
                f"  {workers:7}  {lease:5}  {trips:19.3f}  {trips * micros:15.1f}"
                f"  {stranded:8}  {early:5.1%}  {unused:6.1%}  {over:5}"
            )


if __name__ == "__main__":
    main()
