"""How does every worker hear what is revoked?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from itertools import islice
from threading import Condition, Lock, Thread

from mlguard.revocations import Key, Revocation
from mlguard.runtime.companion.frames import MAX_REVOCATIONS, Message


class Teller:
    """Tells one worker what is revoked, in a thread of its own while there is something to tell.

    So neither a worker that does not read, nor one that reads only when it has sent, holds up
    anybody else.
    """

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._changed = Condition()
        self._untold: dict[Key, Revocation] = {}
        self._acknowledgement: Message | None = None
        self._is_busy = False
        self._is_over = False

    def tell(self, revocations: Iterable[Revocation]) -> None:
        """Have the worker told; returns at once."""
        with self._changed:
            for revocation in revocations:
                untold = self._untold.get(revocation.key)
                self._untold[revocation.key] = revocation.joined(untold)
            self._begin()

    def acknowledge(self, number: int, refused: int) -> None:
        """Have the worker told that all it sent up to `number` is safe; returns at once."""
        with self._changed:
            if self._acknowledgement is not None:
                refused += self._acknowledgement["refused"]
            self._acknowledgement = {"revoke_done": number, "refused": refused}
            self._begin()

    def has_told(self, deadline: float) -> bool:
        """Wait until everything is sent, or the worker is gone; False where it is not in time."""
        with self._changed:
            return self._changed.wait_for(
                lambda: self._is_over or not self._is_busy, max(0.0, deadline - time.monotonic())
            )

    def end(self) -> None:
        """Tell nothing more."""
        with self._changed:
            self._is_over = True
            self._untold.clear()
            self._changed.notify_all()

    def _begin(self) -> None:
        if self._is_busy or self._is_over or not (self._untold or self._acknowledgement):
            return
        Thread(target=self._run, name="mlguard-teller", daemon=True).start()
        self._is_busy = True

    def _run(self) -> None:
        try:
            while (message := self._next()) is not None:
                self._send(message)
        except (OSError, TypeError):  # it left; a TypeError where it was closed under our hands
            self.end()

    def _next(self) -> Message | None:
        with self._changed:
            if self._untold:
                keys = list(islice(self._untold, MAX_REVOCATIONS))
                return {"revoked": [self._untold.pop(key).as_dict() for key in keys]}
            message, self._acknowledgement = self._acknowledgement, None
            if message is None:
                self._is_busy = False
                self._changed.notify_all()
            return message


class Tellers:
    """The tellers of all workers that are connected. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._all: set[Teller] = set()

    def add(self, teller: Teller) -> None:
        """Have it told from now on."""
        with self._lock:
            self._all.add(teller)

    def remove(self, teller: Teller) -> None:
        """Tell it nothing more."""
        teller.end()
        with self._lock:
            self._all.discard(teller)

    def tell(self, revocations: list[Revocation]) -> None:
        """Have every worker told; returns at once."""
        for teller in self._now():
            teller.tell(revocations)

    def have_told(self, deadline: float) -> bool:
        """Wait until everything is sent to every worker; False where it is not in time."""
        return all(teller.has_told(deadline) for teller in self._now())

    def _now(self) -> list[Teller]:
        with self._lock:
            return list(self._all)
