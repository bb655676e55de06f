"""What is done beside the requests, again and again?"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from mlguard.app.background import Background

LONG = 3600.0


class Chore:
    """Something to do, which says when it is done, and fails where it is told to."""

    def __init__(self, *, following: float | None = None) -> None:
        self.done = threading.Semaphore(0)
        self.times = 0
        self.error: Exception | None = None
        self._following = following

    def __call__(self) -> float | None:
        self.times += 1
        self.done.release()
        if self.error:
            raise self.error
        return self._following

    def is_done(self, times: int = 1) -> bool:
        return all(self.done.acquire(timeout=5) for _ in range(times))


@pytest.fixture
def background() -> Iterator[Background]:
    made = Background("mlguard-test")
    yield made
    made.close()


def test_again_and_again(background: Background) -> None:
    """Each is done at once, in its turn, and then every so often."""
    often, seldom = Chore(), Chore()
    background.add("often", 0.001, often)
    background.add("seldom", LONG, seldom)
    background.start()

    assert often.is_done(5)
    assert seldom.is_done()
    assert seldom.times == 1


def test_what_is_done_may_say_when(background: Background) -> None:
    """Something may be due earlier than it usually is."""
    chore = Chore(following=0.001)
    background.add("chore", LONG, chore)
    background.start()

    assert chore.is_done(5)


def test_woken(background: Background) -> None:
    """What is woken is done now, and nothing else."""
    chore, other = Chore(), Chore()
    background.add("chore", LONG, chore)
    background.add("other", LONG, other)
    background.start()
    assert chore.is_done()
    assert other.is_done()

    background.wake("chore")

    assert chore.is_done()
    assert other.times == 1


def test_what_fails(background: Background, caplog: pytest.LogCaptureFixture) -> None:
    """What fails keeps nothing else from being done, is tried again, and said once."""
    broken, other = Chore(), Chore()
    broken.error = OSError("of a disk")
    background.add("broken", 0.001, broken)
    background.add("other", 0.001, other)
    background.start()

    assert broken.is_done(5)
    assert other.is_done(5)
    assert caplog.messages == ["broken: OSError('of a disk')"]


def test_once_more_at_the_end(background: Background) -> None:
    """All is done once more before the end, and the thread is gone."""
    chore = Chore()
    background.add("chore", LONG, chore)
    background.start()
    assert chore.is_done()

    background.close()

    assert chore.times == 2
    assert not [t for t in threading.enumerate() if t.name == "mlguard-test"]


def test_without_a_start(background: Background) -> None:
    """Who never starts a thread, as he is there for one request, has all done at the end."""
    chore = Chore()
    background.add("chore", LONG, chore)

    background.close()

    assert chore.times == 1


def test_a_second_start(background: Background) -> None:
    """What was closed may start again, as in a test's second run of an app."""
    chore = Chore()
    background.add("chore", LONG, chore)
    for times in (2, 4):
        background.start()
        assert chore.is_done()
        background.close()
        assert chore.times == times


def test_nothing_to_do(background: Background) -> None:
    """Where there is nothing to do there is no thread."""
    background.start()

    assert not [t for t in threading.enumerate() if t.name == "mlguard-test"]


class Waiting(Chore):
    """Waits until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def __call__(self) -> float | None:
        super().__call__()
        self.go.wait(60)
        return None


def threads() -> set[str]:
    return {t.name for t in threading.enumerate() if t.name.startswith("mlguard-test")}


def test_two_threads(background: Background) -> None:
    """However much is to be done, two threads do it: what is quick, and what waits."""
    chores = [Chore() for _ in range(6)]
    for number, chore in enumerate(chores):
        background.add(f"chore {number}", 0.001, chore, may_wait=number > 2)
    background.start()

    assert all(chore.is_done(5) for chore in chores)
    assert threads() == {"mlguard-test", "mlguard-test-waits"}


def test_who_waits_keeps_nobody(background: Background) -> None:
    """What is quick and what waits for others goes on where one hangs, which is not begun twice."""
    hanging, other, quick, job = Waiting(), Chore(), Chore(), threading.Event()
    background.add("hanging", 0.001, hanging, may_wait=True)
    background.add("other", 0.001, other, may_wait=True)
    background.add("quick", 0.001, quick)
    background.start()

    assert hanging.is_done()
    background.hand_over(job.set)
    assert job.wait(5)
    assert other.is_done(5)
    assert quick.is_done(5)
    assert hanging.times == 1
    hanging.go.set()
    assert hanging.is_done(5)
    background.close()
    assert threads() == set()


def test_who_waits_at_the_end(background: Background) -> None:
    """All is done once more before the end, whoever hangs."""
    hanging, other = Waiting(), Chore()
    background.add("hanging", LONG, hanging, may_wait=True)
    background.add("other", LONG, other, may_wait=True)
    background.start()
    assert hanging.is_done()

    background.close()

    assert other.is_done()
    hanging.go.set()


def test_what_is_handed_over(background: Background) -> None:
    """Something is done once, by another thread, or here where none runs."""
    who: list[int] = []
    background.hand_over(lambda: who.append(threading.get_ident()))
    assert who == [threading.get_ident()]

    background.add("chore", LONG, Chore())
    background.start()
    job = threading.Event()
    background.hand_over(lambda: (who.append(threading.get_ident()), job.set()))

    assert job.wait(5)
    assert who[1] != who[0]


def test_woken_a_little_later(background: Background) -> None:
    """Who is woken often within a moment is woken once."""
    chore = Chore()
    background.add("chore", LONG, chore)
    background.start()
    assert chore.is_done()

    for _ in range(100):
        background.wake("chore", 0.5)

    assert chore.is_done()
    assert chore.times == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
def test_nothing_is_done_while_the_process_forks(background: Background) -> None:
    """Nothing is half done in a child, which may start anew."""
    doing, go = threading.Event(), threading.Event()

    def do() -> None:
        doing.set()
        go.wait(5)

    background.add("long", LONG, do)
    background.start()
    doing.wait(5)
    forking = threading.Thread(target=background.before_fork)
    forking.start()
    assert forking.is_alive()
    go.set()
    forking.join(5)

    background.after_fork(in_child=True)

    chore = Chore()
    background.add("chore", LONG, chore)
    background.start()
    assert chore.is_done()
