"""What does it cost the workers of a host to count together?

In the kit's file, and, as one would do it by hand, in a process of its own behind a Unix socket: a
line of JSON to ask, one to answer, the kit's ledger in memory behind it. Each debit is of three
windows. "Held" is a worker in which another thread computes in Python without a pause, and so holds
the interpreter: then time is that of the interpreter's switches mostly.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.report import Found
from benchmarks.turns import say
from mlguard.host.database import Database
from mlguard.host.ledger import HostLedger
from mlguard.ledger import Limit, Line, MemoryLedger, Order

FORK = multiprocessing.get_context("fork")
WORKERS = 4
CALLERS = 200
REST = 0.002  # seconds between two debits of a worker that is not flat out
LIMITS = (
    Limit("requests/60", 600_000, 60),
    Limit("rows/3600", 10**7, 3600),
    Limit("rows/86400", 10**8, 86_400),
)
Debit = Callable[[Order], Any]


class Case(NamedTuple):
    """How many workers ask, and how.

    Attributes:
        name: In the table.
        workers: How many.
        debits: Of each.
        rest: Seconds between two.
        is_held: Whether another thread holds the interpreter of each.
    """

    name: str
    workers: int
    debits: int
    rest: float = REST
    is_held: bool = False


CASES = (
    Case("1 worker", 1, 400),
    Case(f"{WORKERS} workers", WORKERS, 400),
    Case("1 worker, held", 1, 100, is_held=True),
    Case(f"{WORKERS} workers, each held", WORKERS, 100, is_held=True),
    Case(f"{WORKERS} workers, flat out", WORKERS, 1500, rest=0.0),
)


class Taken(NamedTuple):
    """What a case took.

    Attributes:
        seconds: Of each debit, sorted.
        rate: Debits a second.
    """

    seconds: list[float]
    rate: float

    @property
    def median(self) -> float:
        """The median, in microseconds."""
        return 1e6 * statistics.median(self.seconds)

    @property
    def p99(self) -> float:
        """The 99th percentile, in microseconds."""
        return 1e6 * self.seconds[int(0.99 * len(self.seconds))]


@contextlib.contextmanager
def in_a_file() -> Iterator[Callable[[], Debit]]:
    """Count in the kit's file; yield what makes a worker's way to it."""
    folder = Path(tempfile.mkdtemp(prefix="mg"))

    def make() -> Debit:
        ledger = HostLedger(Database(folder / "host.db", wait=5.0), is_lasting=False)
        ledger.start()
        return ledger.debit

    try:
        yield make
    finally:
        shutil.rmtree(folder)


@contextlib.contextmanager
def behind_a_socket() -> Iterator[Callable[[], Debit]]:
    """Count in a process of its own; yield what makes a worker's way to it."""
    folder = Path(tempfile.mkdtemp(prefix="mg"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "ledger"))
        listener.listen()
        server = FORK.Process(target=_serve, args=(listener,), daemon=True)
        server.start()

        def make() -> Debit:
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(folder / "ledger"))
            lines = connection.makefile("rwb", buffering=0)

            def debit(order: Order) -> object:
                asked = [(a, x.field, x.amount, x.seconds, cost) for a, x, cost in order.lines]
                lines.write(json.dumps([order.tag, asked]).encode() + b"\n")
                return json.loads(lines.readline())

            return debit

        try:
            yield make
        finally:
            server.kill()
            server.join()
            shutil.rmtree(folder)


def _serve(listener: socket.socket) -> None:
    import asyncio

    ledger = MemoryLedger()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            tag, asked = json.loads(line)
            lines = [Line(account, Limit(*limit), cost) for account, *limit, cost in asked]
            receipt = ledger.debit(Order(tag, tuple(lines)))
            writer.write(json.dumps([receipt.readings, receipt.at]).encode() + b"\n")

    async def serve() -> None:
        server = await asyncio.start_unix_server(answer, sock=listener)
        await server.serve_forever()

    asyncio.run(serve())


def measure(case: Case, place: Callable[[], Any]) -> Taken:
    """Have a case's workers ask, and return what each debit took."""
    with place() as make:
        ready, go = FORK.Barrier(case.workers + 1), FORK.Event()
        answers = FORK.SimpleQueue()
        workers = [
            FORK.Process(target=_work, args=(case, make, n, ready, go, answers), daemon=True)
            for n in range(case.workers)
        ]
        for worker in workers:
            worker.start()
        ready.wait(60)
        go.set()
        found = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
    seconds = sorted(each for taken, _ in found for each in taken)
    return Taken(seconds, len(seconds) / max(whole for _, whole in found))


def _work(
    case: Case, make: Callable[[], Debit], number: int, ready: Any, go: Any, answers: Any
) -> None:
    debit = make()
    for _ in range(20):
        debit(_order(f"warm-{number}"))
    ready.wait(60)
    go.wait()
    if case.is_held:
        threading.Thread(target=_hold, daemon=True).start()
    taken = []
    began = time.perf_counter()
    for n in range(case.debits):
        order = _order(f"caller-{(number * 13 + n) % CALLERS}")
        asked = time.perf_counter()
        debit(order)
        taken.append(time.perf_counter() - asked)
        if case.rest and not case.is_held:
            time.sleep(case.rest)
    answers.put((taken, time.perf_counter() - began))
    os._exit(0)  # not after the thread that never ends


def _hold() -> None:
    number = 0
    while True:
        number += 1


def _order(caller: str) -> Order:
    return Order(caller, tuple(Line(caller, limit, 1) for limit in LIMITS))


def main() -> Found:
    """Print the table, and return the figures."""
    say("a debit of three windows, microseconds: median (99th percentile), debits a second")
    say(f"{'':<28}{'the file':>24}{'behind a socket':>24}{'ratio':>8}")
    figures: dict[str, float] = {}
    for case in CASES:
        file, peer = measure(case, in_a_file), measure(case, behind_a_socket)
        ratio = peer.rate / file.rate if not case.rest else file.median / peer.median
        cells = [f"{x.median:.0f} ({x.p99:.0f}) {x.rate:.0f}/s" for x in (file, peer)]
        say(f"{case.name:<28}{cells[0]:>24}{cells[1]:>24}{ratio:>8.2f}")
        figures[case.name] = ratio
        if case.is_held:
            figures[f"{case.name}, p99"] = file.p99 / peer.p99
    return Found(figures)
