"""What is done beside the requests, again and again? Two threads do it."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Queue
from typing import NamedTuple

from mlguard.logs import RateLimitedLog

_FORKING = 1.0  # seconds to wait, before a fork, for what is being done
_LAST = 2.0
_PATIENCE = 0.25
_LONGEST = 60.0  # that nothing is looked for

Do = Callable[[], float | None]
"""Does something, and may tell in how many seconds it is due again."""


class _Chore(NamedTuple):
    """Something that is done again and again.

    Attributes:
        seconds: How often.
        do: Does it.
        may_wait: Whether it waits for somebody outside.
    """

    seconds: float
    do: Do
    may_wait: bool


class Background:
    """Does some things every so many seconds, or when woken, and once at the end.

    One thread does what is quick, a second one what waits for somebody outside. Who keeps that one
    waiting for long keeps nobody else: another takes its place, and it ends when it is let go.

    Observers fail open: what fails keeps nothing else from being done, and is said once a minute.

    Args:
        name: The threads'.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._chores: dict[str, _Chore] = {}
        self._log = RateLimitedLog()
        self._begin()

    def _begin(self) -> None:
        self._due: dict[str, float] = {}
        self._handed: set[str] = set()
        self._jobs: Queue[Callable[[], object] | None] = Queue()
        self._doing = threading.RLock()
        self._is_held = False
        self._wake = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._helper = _Helper(self._name, self._jobs)

    def add(self, name: str, seconds: float, do: Do, *, may_wait: bool = False) -> None:
        """Have something done every so many seconds, after what was added before.

        Args:
            name: What it is called.
            seconds: How often.
            do: Does it.
            may_wait: Whether it waits for somebody outside.
        """
        self._chores[name] = _Chore(seconds, do, may_wait)

    def start(self) -> None:
        """Begin, in this process; does nothing where there is nothing to do."""
        if self._thread is None and self._chores:
            self._begin()
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()
            self._helper.start()

    def wake(self, name: str, within: float = 0.0) -> None:
        """Have something done now, or within so many seconds; returns at once."""
        at = time.monotonic() + within
        if at < self._due.get(name, math.inf):
            self._due[name] = at
            self._wake.set()

    def hand_over(self, job: Callable[[], object]) -> None:
        """Have something done once that may wait, and raises nothing: here where no thread runs."""
        if self._thread is None:
            job()
        else:
            self._jobs.put(job)
            self._wake.set()

    def close(self) -> None:
        """Do everything once more, and stop; takes some seconds at most."""
        thread, self._thread = self._thread, None
        self._is_closing = True
        self._wake.set()
        if thread is not None:
            thread.join(_LAST)
            self._helper.join(_PATIENCE)
            self._relieve()
            self._helper.join(_LAST)
        else:
            for name in self._chores:
                self._do(name)

    def before_fork(self) -> None:
        """Do nothing quick while the process forks: a child would inherit the locks."""
        self._is_held = self._doing.acquire(timeout=_FORKING)

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; in a child, not before `start`."""
        if in_child:
            self._begin()
        elif self._is_held:
            self._doing.release()

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(max(0.0, self._next() - time.monotonic()))
            self._wake.clear()
            for name in self._chores:
                if name not in self._handed and self._due.get(name, 0.0) <= time.monotonic():
                    self._have_done(name)
            if not self._jobs.empty():
                self._relieve()
        for name in self._chores:
            self._have_done(name)
        self._jobs.put(None)

    def _next(self) -> float:
        """Tell when something is due, or the helper is kept for too long while others wait."""
        due = [self._due.get(name, 0.0) for name in self._chores if name not in self._handed]
        late = math.inf if self._jobs.empty() else self._helper.since + _PATIENCE
        return min(*due, late, time.monotonic() + _LONGEST)

    def _have_done(self, name: str) -> None:
        if not self._chores[name].may_wait:
            with self._doing:
                self._do(name)
        else:
            self._handed.add(name)
            self._jobs.put(partial(self._do_handed, name))

    def _relieve(self) -> None:
        """Have another thread take the helper's place where that is kept for too long."""
        kept = self._helper
        if time.monotonic() - kept.since < _PATIENCE:
            return
        helper = _Helper(self._name, self._jobs)
        try:
            helper.start()
        except RuntimeError:  # no thread can be started now
            kept.since = time.monotonic()
        else:
            self._helper, kept.is_relieved = helper, True

    def _do_handed(self, name: str) -> None:
        try:
            self._do(name)
        finally:
            self._handed.discard(name)
            self._wake.set()

    def _do(self, name: str) -> None:
        chore = self._chores[name]
        due = self._due[name] = time.monotonic() + chore.seconds
        try:
            following = chore.do()
        except Exception as error:  # noqa: BLE001 - the next time may be better
            following = None
            self._log.warning(name, "%s: %r", name, error)
        if following is not None and self._due[name] == due:  # not woken meanwhile
            self._due[name] = time.monotonic() + following


class _Helper(threading.Thread):
    """Does what may wait, one after another, until another takes its place.

    Args:
        name: Of the thread.
        jobs: What is to be done; None at the end.

    Attributes:
        since: Since when it has been doing something, by time.monotonic; infinite where it is not.
        is_relieved: Whether another has taken its place.
    """

    def __init__(self, name: str, jobs: Queue[Callable[[], object] | None]) -> None:
        super().__init__(name=f"{name}-waits", daemon=True)
        self._jobs = jobs
        self.since = math.inf
        self.is_relieved = False

    def run(self) -> None:
        """Do what is to be done."""
        while not self.is_relieved and (job := self._jobs.get()) is not None:
            self.since = time.monotonic()
            job()
            self.since = math.inf
