"""How much memory do a million callers take, and does it come back?

Each has one window of requests and two of rows. The ledger in memory is filled in a process of its
own, by a clock that is told the time; meanwhile a host's file and a Redis are told of fewer.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.turns import Unfit, say
from mlguard.host.database import Database
from mlguard.host.ledger import HostLedger
from mlguard.ledger import Change, Limit, Line, MemoryLedger, Order
from mlguard.quota_store.store import Store
from mlguard.redis import RedisStore

PRINCIPALS = 1_000_000
FEWER = 100_000  # elsewhere
BEYOND = 20_000  # more than may be kept
STEP = 200_000  # between two lines of progress
MOST = 512 * 2**20  # bytes by which the process may grow
MIB = 2**20
WITHIN = 120  # seconds
TIMEOUT = 5  # seconds
TOGETHER = 150  # principals in one call
LONGEST = 86400
WINDOWS = (
    Limit("requests/60", 600, 60),
    Limit("rows/iris/3600", 10_000, 3600, unit="rows", model="iris"),
    Limit("rows/iris/86400", 50_000, LONGEST, unit="rows", model="iris"),
)
CHARGED = tuple(Line("p", window, 3 if window.model else 1) for window in WINDOWS)


@dataclass(frozen=True)
class Server:
    """A Redis of the benchmark's own.

    Attributes:
        url: Where it is.
        pid: Its process.
    """

    url: str
    pid: int

    def client(self) -> Any:
        """Return a client that decodes answers; close it."""
        import redis

        return redis.Redis.from_url(self.url, decode_responses=True)


@dataclass(frozen=True)
class Grown:
    """What the ledger in memory took.

    Attributes:
        size: Bytes by which the process grew while it was filled.
        seconds: For that.
        peak: Bytes by which it had ever grown, with those beyond the bound.
        beyond: Seconds for one debit of those.
        kept: Accounts, each time when two of the longest windows had passed.
        left: Bytes above the beginning when all had left.
    """

    size: int
    seconds: float
    peak: int
    beyond: float
    kept: list[int]
    left: int


def resident(pid: int | str = "self") -> int:
    """Return the resident bytes of a process.

    Raises:
        Unfit: The platform does not tell.
    """
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError as error:
        raise Unfit("without /proc nobody tells how much memory a process takes") from error
    return pages * os.sysconf("SC_PAGE_SIZE")


def order(number: int) -> Order:
    """Return what one request with three rows costs a principal, named as long as real ones."""
    return Order(f"{number:022d}", CHARGED)


def fill(results: Any) -> None:
    """Fill the ledger in memory, let all leave, and tell what that took."""
    now = 1_000_000.0
    ledger = MemoryLedger(lambda: now, most=PRINCIPALS)
    empty, began = resident(), time.perf_counter()
    for number in range(PRINCIPALS):
        ledger.debit(order(number))
        if (number + 1) % STEP == 0:
            size = (resident() - empty) / MIB
            say(f"  {number + 1:,} principals: {size:.0f} MiB, {time.perf_counter() - began:.0f} s")
    size, seconds = resident() - empty, time.perf_counter() - began
    kept = [len(ledger)]
    now += 2 * LONGEST + 1
    # Of these each takes the place of one whom nobody has asked for since.
    began = time.perf_counter()
    for number in range(BEYOND):
        ledger.debit(order(PRINCIPALS + number))
    beyond, peak = (time.perf_counter() - began) / BEYOND, resident() - empty
    kept.append(len(ledger))
    for _ in range(2):
        now += 2 * LONGEST + 1
        ledger.debit(order(0))
        kept.append(len(ledger))
    results.put(Grown(size, seconds, max(size, peak), beyond, kept, resident() - empty))


def told(store: Store, what: str) -> None:
    """Have a store count what fewer principals are charged."""
    began = time.perf_counter()
    for first in range(0, FEWER, TOGETHER):
        orders = map(order, range(first, min(first + TOGETHER, FEWER)))
        store.apply([Change(o.tag, *line, 0.0) for o in orders for line in o.lines])
        if first % (FEWER // 2) < TOGETHER and first:
            say(f"  {what}: {first:,} principals, {time.perf_counter() - began:.0f} s")


def host_growth() -> int:
    """Return the bytes that a host's file has."""
    with TemporaryDirectory(prefix="mg") as folder:
        database = Database(Path(folder) / "host.db", wait=TIMEOUT)
        store = HostLedger(database, is_lasting=False)
        store.start()
        told(store, "the host's file")
        database.look_after()
        database.close()
        return (Path(folder) / "host.db").stat().st_size


def redis_growth(server: Server) -> int:
    """Return the bytes by which a Redis grows."""
    store = RedisStore(server.url, prefix="callers", timeout=TIMEOUT, holder="callers")
    with server.client() as client:
        client.flushall()
    try:
        empty = resident(server.pid)
        told(store, "Redis")
        return resident(server.pid) - empty
    finally:
        store.close()


def row(name: str, principals: int, size: int) -> str:
    """Write how much somebody grew."""
    return f"{name:28}{principals:>12,}{size / MIB:>10.0f}{size / principals:>20.0f}"


def main(server: Server | None) -> None:
    """Print what principals take, and make sure that a million fit.

    Args:
        server: A Redis that may be emptied; None where there is none.

    Raises:
        Unfit: They do not, or do not leave.
    """
    resident()
    say(f"filling the ledgers with {PRINCIPALS:,} principals, and with {FEWER:,}")
    spawn = multiprocessing.get_context("spawn")
    results = spawn.Queue()
    filler = spawn.Process(target=fill, args=(results,), daemon=True)
    filler.start()
    shared = {"the host's file": host_growth()}
    if server is not None:
        shared["Redis"] = redis_growth(server)
    grown: Grown = results.get(timeout=WITHIN)
    filler.join(WITHIN)
    print(
        "\nMemory, or size of the file, of principals with a window of requests and two of rows\n"
    )
    print(f"{'':28}{'principals':>12}{'MiB':>10}{'bytes a principal':>20}")
    print(row("the ledger in memory", PRINCIPALS, grown.size))
    for name, size in shared.items():
        print(row(name, FEWER, size))
    print(
        f"\nThe ledger in memory was filled in {grown.seconds:.0f} s, one debit each;\n"
        f"then {BEYOND:,} others took the places of idle ones in {grown.beyond * 1e6:.0f} µs each: "
        f"at most {grown.peak / MIB:.0f} MiB, of {MOST / MIB:.0f}."
    )
    print("After a time without a call of theirs, it keeps these principals and takes this memory:")
    for windows, kept in zip(("none", "2", "4", "6"), grown.kept, strict=True):
        print(f"{windows:>6} of the longest windows {kept:>12,}")
    print(f"and {grown.left / MIB:.0f} MiB are left of its memory.", flush=True)
    prove(grown)


def prove(grown: Grown) -> None:
    """Make sure that a million principals fit, and leave.

    Raises:
        Unfit: They do not.
    """
    if grown.peak > MOST:
        raise Unfit(f"a million principals take {grown.peak / MIB:.0f} MiB")
    full, displaced, left, empty = grown.kept
    if full != PRINCIPALS or displaced > PRINCIPALS or left > BEYOND + 1 or empty != 1:
        raise Unfit(f"idle principals do not leave: {grown.kept}")
