"""Which revocations has the companion not acknowledged yet?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Any

from mlguard.revocations import MAX_ENTRIES, Revocation, RevocationsFull
from mlguard.runtime.companion.frames import Message, write_revocations


class Outbox:
    """Messages with revocations, kept until they are acknowledged. Threads may share it."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._lock = Lock()
        self._since: dict[int, float] = {}
        self._kept: dict[int, list[dict[str, Any]]] = {}
        self._unsent: list[int] = []
        self._last = 0

    def put(self, revocations: Sequence[Revocation]) -> None:
        """Keep them, and have them sent; RevocationsFull where too many wait already."""
        with self._lock:
            if len(revocations) + sum(map(len, self._kept.values())) > MAX_ENTRIES:
                raise RevocationsFull(len(revocations))
            for part in write_revocations(revocations):
                self._last += 1
                self._kept[self._last] = part
                self._since[self._last] = self._timer()
                self._unsent.append(self._last)

    def take(self) -> list[Message]:
        """Return what is not under way yet, oldest first."""
        with self._lock:
            unsent, self._unsent = self._unsent, []
            return [{"revoke": self._kept[n], "number": n} for n in unsent if n in self._kept]

    def again(self) -> None:
        """Have everything sent again, as another companion may listen."""
        with self._lock:
            self._unsent = list(self._kept)

    def overdue(self, seconds: float) -> list[Revocation]:
        """Return, once, what was not acknowledged for so long."""
        with self._lock:
            limit = self._timer() - seconds
            late = [n for n, since in self._since.items() if since <= limit]
            for number in late:
                del self._since[number]
            return [Revocation.from_dict(entry) for n in late for entry in self._kept[n]]

    @property
    def is_empty(self) -> bool:
        """Whether everything is acknowledged."""
        return not self._kept

    def done(self, number: int) -> None:
        """Forget what was sent up to this number: it is safe."""
        with self._lock:
            for known in [n for n in self._kept if n <= number]:
                del self._kept[known]
                self._since.pop(known, None)
