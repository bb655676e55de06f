"""What if something takes too long in a thread that cannot be interrupted?"""

from __future__ import annotations

import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlguard.guard import Deadlines


class Clock:
    """A clock that is put forward."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def deadlines(clock: Clock) -> Deadlines:
    return Deadlines(clock)


@pytest.mark.parametrize(
    ("after", "is_late"), [(0.0, False), (29.9, False), (30.0, True), (1e6, True)]
)
def test_what_is_late_is_ended(
    deadlines: Deadlines, clock: Clock, *, after: float, is_late: bool
) -> None:
    """What takes as long as it may is ended, and knows that it was."""
    ended: list[str] = []
    with deadlines.within(30, lambda: ended.append("ended")) as deadline:
        clock.now += after
        deadlines.check()

    assert ended == ["ended"] * is_late
    assert deadline.has_passed is is_late


def test_once(deadlines: Deadlines, clock: Clock) -> None:
    """What is late is ended once, however long it goes on."""
    ended: list[str] = []
    with deadlines.within(30, lambda: ended.append("ended")):
        clock.now += 60
        for _ in range(3):
            deadlines.check()

    assert ended == ["ended"]


@pytest.mark.parametrize("raises", [False, True])
def test_what_is_done_is_left_alone(deadlines: Deadlines, clock: Clock, *, raises: bool) -> None:
    """What was done in time, or failed in time, is never ended."""
    try:
        with deadlines.within(30, lambda: pytest.fail("it was done")) as deadline:
            if raises:
                raise OSError
    except OSError:
        pass
    clock.now += 60
    deadlines.check()

    assert not deadline.has_passed


def test_each_has_its_own(deadlines: Deadlines, clock: Clock) -> None:
    """Of several, those that are late are ended, nested ones too."""
    ended: list[str] = []
    with (
        deadlines.within(30, lambda: ended.append("outer")),
        deadlines.within(10, lambda: ended.append("inner")),
    ):
        clock.now += 20
        deadlines.check()
        first = list(ended)
        clock.now += 20
        deadlines.check()

    assert (first, ended) == (["inner"], ["inner", "outer"])


def test_what_cannot_be_ended(deadlines: Deadlines, clock: Clock) -> None:
    """A connection that is gone already keeps nobody from the next one."""
    ended: list[str] = []

    def gone() -> None:
        raise OSError("not connected")

    with deadlines.within(1, gone) as first, deadlines.within(1, lambda: ended.append("next")):
        clock.now += 2
        deadlines.check()

    assert first.has_passed
    assert ended == ["next"]


def test_a_thread_that_reads() -> None:
    """A thread that waits for a client's bytes goes on when its connection is shut."""
    clock = Clock()
    deadlines = Deadlines(clock)
    here, there = socket.socketpair()
    waits = threading.Event()

    def read() -> tuple[bytes, bool]:
        with deadlines.within(30, lambda: here.shutdown(socket.SHUT_RD)) as deadline:
            waits.set()
            return here.recv(1), deadline.has_passed

    with here, there, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert waits.wait(5)
        clock.now += 30
        deadlines.check()

        assert reading.result(timeout=60) == (b"", True)


def test_threads(clock: Clock) -> None:
    """Threads may come and go while it is looked who is late."""
    deadlines = Deadlines(clock)
    still = threading.Event()
    still.set()

    def come_and_go() -> None:
        for _ in range(2000):
            with deadlines.within(30, lambda: pytest.fail("nobody is late")):
                pass

    def check() -> None:
        while still.is_set():
            deadlines.check()

    with ThreadPoolExecutor(5) as pool:
        checking = pool.submit(check)
        for done in [pool.submit(come_and_go) for _ in range(4)]:
            done.result()
        still.clear()
        checking.result()
