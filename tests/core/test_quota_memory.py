"""Does the ledger in memory take little of it, and give it back?"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlguard.ledger import Limit, Line, MemoryLedger, Order

STATM = Path("/proc/self/statm")
PRINCIPALS = 50_000
BYTES = 512 * 2**20 // 1_000_000  # so that a million principals take half a GiB at most
LONGEST = 86400
CHARGED = (
    Line("p", Limit("requests/60", 600, 60), 1),
    Line("p", Limit("rows/iris/3600", 10_000, 3600, unit="rows", model="iris"), 3),
    Line("p", Limit("rows/iris/86400", 50_000, LONGEST, unit="rows", model="iris"), 3),
)


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def resident() -> int:
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def order(number: int) -> Order:
    """A principal's request of three rows; real names are as long."""
    return Order(f"{number:022d}", CHARGED)


def grown() -> None:
    """Print by how many bytes this process grows for each principal."""
    ledger, empty = MemoryLedger(), resident()
    for number in range(PRINCIPALS):
        ledger.debit(order(number))
    assert len(ledger) == PRINCIPALS
    print((resident() - empty) / PRINCIPALS)


@pytest.mark.skipif(not STATM.exists(), reason="reads in /proc how large a process is")
def test_a_million_principals_fit() -> None:
    """A principal with three windows takes so little that a million take half a GiB at most."""
    # In a process that has no free memory of others' to use.
    here = Path(__file__).resolve()
    command = [sys.executable, "-c", f"from {here.stem} import grown; grown()"]

    said = subprocess.run(command, cwd=here.parent, stdout=subprocess.PIPE, timeout=300, check=True)

    assert float(said.stdout) < BYTES


def test_idle_principals_leave() -> None:
    """Who asks for nothing is kept for two of the longest windows, not for much more than four."""
    clock = Clock()
    ledger, began = MemoryLedger(clock), clock.now
    for number in range(1000):
        ledger.debit(order(number))

    kept = {}
    for tenths in range(1, 46):
        clock.now = began + tenths * LONGEST / 10
        ledger.debit(order(0))
        kept[tenths] = len(ledger)

    assert kept[20] == 1000
    assert kept[45] == 1


def test_the_oldest_leave_as_fast_as_they_came() -> None:
    """Where there are too many principals, a new one costs about what the first ones cost."""
    clock, most = Clock(), 60_000
    ledger = MemoryLedger(clock, most=most)

    def seconds(first: int, count: int) -> float:
        began = time.thread_time()
        for number in range(first, first + count):
            ledger.debit(Order(f"{number:022d}", CHARGED[2:]))
        return (time.thread_time() - began) / count

    filling = seconds(0, most)
    clock.now += 2 * LONGEST + 1  # now all of them are the old ones
    seconds(most, most - 2000)

    assert seconds(2 * most, 1000) < 3 * filling
    assert len(ledger) <= most
