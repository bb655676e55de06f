"""What is done beside the requests, again and again? One thread does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from mlguard.logs import RateLimitedLog

_FORKING = 1.0  # seconds to wait, before a fork, for what is being done
_LAST = 2.0

Do = Callable[[], float | None]
"""Does something, and may tell in how many seconds it is due again."""


class Background:
    """A thread that does some things every so many seconds, or when woken, and once at the end.

    Observers fail open: what fails keeps nothing else from being done, and is said once a minute.

    Args:
        name: The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._chores: dict[str, tuple[float, Do]] = {}
        self._log = RateLimitedLog()
        self._begin()

    def _begin(self) -> None:
        self._due: dict[str, float] = {}
        self._doing = threading.RLock()
        self._is_held = False
        self._wake = threading.Event()
        self._is_closing = False
        self._thread: threading.Thread | None = None

    def add(self, name: str, seconds: float, do: Do) -> None:
        """Have something done every so many seconds, after what was added before."""
        self._chores[name] = (seconds, do)

    def start(self) -> None:
        """Begin, in this process; does nothing where there is nothing to do."""
        if self._thread is None and self._chores:
            self._begin()
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def wake(self, name: str) -> None:
        """Have something done now; returns at once."""
        self._due[name] = 0.0
        self._wake.set()

    def close(self) -> None:
        """Do everything once more, and stop; takes some seconds at most."""
        thread, self._thread = self._thread, None
        self._is_closing = True
        self._wake.set()
        if thread is not None:
            thread.join(_LAST)
        elif self._chores:
            self._do_all()

    def before_fork(self) -> None:
        """Do nothing while the process forks: a child would inherit the locks."""
        self._is_held = self._doing.acquire(timeout=_FORKING)

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; in a child, not before `start`."""
        if in_child:
            self._begin()
        elif self._is_held:
            self._doing.release()

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(max(0.0, min(self._due.values(), default=0.0) - time.monotonic()))
            self._wake.clear()
            for name in self._chores:
                if self._due.get(name, 0.0) <= time.monotonic():
                    self._do(name)
        self._do_all()

    def _do_all(self) -> None:
        for name in self._chores:
            self._do(name)

    def _do(self, name: str) -> None:
        period, do = self._chores[name]
        due = self._due[name] = time.monotonic() + period
        with self._doing:
            try:
                following = do()
            except Exception as error:  # noqa: BLE001 - the next time may be better
                following = None
                self._log.warning(name, "%s: %r", name, error)
        if following is not None and self._due[name] == due:  # not woken meanwhile
            self._due[name] = time.monotonic() + following
