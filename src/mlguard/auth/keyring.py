"""Which keys of an issuer hold at this moment?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from threading import Semaphore

from mlguard.auth.keys import KeySet

_PATIENT = 2


class Keyring:
    """The keys of one issuer: given for good, or fetched and good for a while.

    Args:
        keys: The keys, where they never change.
        timer: A monotonic clock in seconds.

    Attributes:
        fetch: Begins to fetch the keys anew, or joins a fetch that is under way, and returns at
            once what can be waited for; None where keys are not fetched, or not again so soon.
        is_failing: Whether the last fetch failed.
        patient: How many threads may be blocked for as long as a fetch takes.
    """

    def __init__(
        self, keys: KeySet | None = None, *, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._held = (keys, math.inf, 0.0)
        self._timer = timer
        self.fetch: Callable[[], Future[None] | None] = lambda: None
        self.is_failing = False
        self.patient = Semaphore(_PATIENT)

    def put(self, keys: KeySet, seconds: float) -> None:
        """Hold other keys from now on, for so many seconds."""
        now = self._timer()
        self._held = (keys, now + seconds, now)

    def keys(self) -> KeySet | None:
        """Return the keys that hold now, None where there are none."""
        keys, until, _ = self._held
        return keys if until == math.inf or self._timer() < until else None

    def age(self) -> float | None:
        """Tell how many seconds ago the keys were put here, None where none were."""
        keys, until, put = self._held
        return None if keys is None or until == math.inf else self._timer() - put
