"""What is done again and again, beside the rest?"""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread

from mlguard.logs import Seldom


class Errand:
    """Something done every so many seconds, when woken, and once more at the end."""

    def __init__(self, name: str, seconds: float, do: Callable[[], object]) -> None:
        self._seconds = seconds
        self._do = do
        self._is_woken = Event()
        self._is_over = False
        self._log = Seldom()
        self._thread = Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """Do it now."""
        self._is_woken.set()

    def end(self) -> None:
        """Do it once more, and then no more."""
        self._is_over = True
        self.wake()

    def join(self, seconds: float) -> None:
        """Wait for the end."""
        self._thread.join(seconds)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            self._is_woken.wait(self._seconds)
            self._is_woken.clear()
            is_last = self._is_over
            try:
                self._do()
            except Exception as error:  # noqa: BLE001 - the next time may be better
                self._log.warning(self._thread.name, "%s: %r", self._thread.name, error)
