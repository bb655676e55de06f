"""What must be done when this process forks? One check for all who hold what a child must not."""

from __future__ import annotations

import os
import socketserver
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")


class Forks(Protocol):
    """Somebody with threads, locks or descriptors of this process."""

    def before_fork(self) -> None:
        """Get ready, in the parent; it may wait for a moment."""

    def after_fork(self, *, in_child: bool) -> None:
        """Go on, in the parent, or begin anew in the child."""


_ALL: weakref.WeakValueDictionary[int, Forks] = weakref.WeakValueDictionary()
_IN_CHILD: weakref.WeakKeyDictionary[object, Callable[[Any], None]] = weakref.WeakKeyDictionary()


def watch(someone: Forks) -> None:
    """Tell somebody of each fork from now on, for as long as he lives.

    Who comes later may use who was there before: before a fork, the last is told first.
    """
    _ALL[id(someone)] = someone


def in_child(someone: _T, begin: Callable[[_T], None]) -> None:
    """Have a method of somebody called in each child from now on, for as long as he lives."""
    _IN_CHILD[someone] = begin


def is_for_one_request() -> bool:
    """Say, in `after_fork` of a child, whether its server forks for each request."""
    forking = getattr(socketserver, "ForkingMixIn", None)
    frame: FrameType | None = sys._getframe()
    while frame is not None and forking is not None:
        if frame.f_code is forking.process_request.__code__:
            return True
        frame = frame.f_back
    return False


def _before() -> None:
    for someone in reversed(list(_ALL.values())):
        someone.before_fork()


def _after(*, in_child: bool) -> None:
    for someone in list(_ALL.values()):
        someone.after_fork(in_child=in_child)
    for beginner, begin in list(_IN_CHILD.items()) if in_child else ():
        begin(beginner)


if hasattr(os, "register_at_fork"):  # not on Windows, which has no forks
    os.register_at_fork(
        before=_before,
        after_in_parent=lambda: _after(in_child=False),
        after_in_child=lambda: _after(in_child=True),
    )
