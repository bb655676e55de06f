"""Who is told of a fork, and in which order?"""

from __future__ import annotations

import os
import socketserver
from collections.abc import Callable

import pytest

from mlguard import forks

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")


class Someone:
    """Writes down what he is told."""

    def __init__(self, name: str, told: list[str]) -> None:
        self._name, self._told = name, told
        forks.watch(self)

    def before_fork(self) -> None:
        self._told.append(f"{self._name} before")

    def after_fork(self, *, in_child: bool) -> None:
        self._told.append(f"{self._name} in {'the child' if in_child else 'the parent'}")


def in_child(act: Callable[[], bytes]) -> bytes:
    """Return what comes of something in a forked process."""
    here, there = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(there, act())
        os._exit(0)
    os.close(there)
    os.waitpid(pid, 0)
    with os.fdopen(here, "rb") as read:
        return read.read()


def test_the_order() -> None:
    """Who came later is told first before a fork, and last after it; who is gone is not told."""
    told: list[str] = []
    first, last, gone = (Someone(name, told) for name in ("first", "last", "gone"))
    del gone
    before = ["last before", "first before"]

    child = in_child(lambda: "; ".join(told).encode()).decode()

    assert told == [*before, "first in the parent", "last in the parent"]
    assert child.split("; ") == [*before, "first in the child", "last in the child"]
    assert first is not last


def test_a_method_in_each_child() -> None:
    """A method is called in each child, as long as its object lives, and not in the parent."""
    told: list[str] = []

    class Beginner:
        def begin(self) -> None:
            told.append("begun")

    beginners = [Beginner(), Beginner()]
    for beginner in beginners:
        forks.in_child(beginner, Beginner.begin)
    del beginner
    beginners.pop()

    assert in_child(lambda: "; ".join(told).encode()) == b"begun"
    assert told == []


def test_a_server_that_forks_for_each_request() -> None:
    """A process that such a server forks is known as that, and no other is."""

    class Forking(socketserver.ForkingMixIn, socketserver.BaseServer):
        def finish_request(self, request: object, client: object) -> None:
            os.write(there, b"%d" % forks.is_for_one_request())

        def shutdown_request(self, request: object) -> None:
            pass

    here, there = os.pipe()
    server = Forking(("", 0), socketserver.BaseRequestHandler)
    server.process_request(None, None)
    server.collect_children(blocking=True)

    assert os.read(here, 1) == b"1"
    assert in_child(lambda: b"%d" % forks.is_for_one_request()) == b"0"
    os.close(here)
    os.close(there)
