"""Which callers need not be listened to, as it is known that they would be refused?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import NamedTuple

from mlguard.ledger import FLIGHT, Ledger, Limit, Line, MemoryLedger, Order, Reading
from mlguard.quotas.callers import REMEMBERED, Caller
from mlguard.quotas.shapes import Part
from mlguard.recent import Recent

MOMENT = 1.0
"""Seconds for which a worker goes by what a store said last."""

_COUNTED = ("requests", "rows")  # what every call that asks a model has at least one of
_LEAST_COST = 0.005  # seconds
_PATIENCE = 20  # so many times what its refused body took, a caller waits
_LONGEST = 60.0  # seconds


class SpentCounter(NamedTuple):
    """A counter without room for one unit more.

    Attributes:
        limit: Whose counter.
        until: By our clock, until when that is taken for granted.
        opens: By our clock, when one unit more is admitted, as far as that is known.
    """

    limit: Limit
    until: float
    opens: float


class Spent:
    """Remembers which counters had no room left when somebody was refused.

    Of a ledger in this process nothing is believed: it is looked at. What another one said holds
    for a second, or for as long as it said to wait where that is less.

    Args:
        ledger: Where counts are kept.
        timer: A clock in seconds that runs forward.
    """

    def __init__(self, ledger: Ledger, timer: Callable[[], float]) -> None:
        self._ledger = ledger if isinstance(ledger, MemoryLedger) else None
        self._timer = timer
        self._known: Recent[str, Mapping[str, SpentCounter]] = Recent(2 * REMEMBERED)

    def learn(self, tag: str, lines: Sequence[Line], readings: Sequence[Reading]) -> None:
        """Take note of what a refusal says of counters."""
        now = self._timer()
        for (account, limit, cost), reading in zip(lines, readings, strict=True):
            if reading.remaining or not reading.wait or limit.kind == FLIGHT:
                continue
            if limit.unit in _COUNTED:
                until = now + min(MOMENT, reading.wait)
                opens = now + reading.wait if cost == 1 or math.isinf(reading.wait) else until
                self._keep(tag + account, SpentCounter(limit, until, opens), now)

    def _keep(self, account: str, known: SpentCounter, now: float) -> None:
        others = self._known.get(account) or {}
        left = {field: k for field, k in others.items() if self._ledger or k.until > now}
        self._known.put(account, {**left, known.limit.field: known})

    def has(self, caller: Caller) -> bool:
        """Say whether anything is known of what a caller is counted in."""
        known = self._known
        if known.get(caller.own) is not None:
            return True
        return bool(caller.tenant) and known.get(caller.tenant) is not None

    def find(self, caller: Caller, parts: Iterable[Part]) -> tuple[Limit, Reading] | None:
        """Find what would refuse one unit more of each of these; None where nothing is known to.

        What never will admit it goes first, else what takes longest.
        """
        own, shared = self._known.get(caller.own), self._known.get(caller.tenant)
        known = list(_among(own or {}, shared or {}, parts))
        if self._ledger is None:
            now = self._timer()
            found = [(k.limit, Reading(0, 0.0, k.opens - now)) for _, k in known if k.until > now]
        else:
            found = self._looked(self._ledger, caller, known)
        return max(found, key=lambda pair: pair[1].wait, default=None)

    def _looked(
        self, ledger: MemoryLedger, caller: Caller, known: Sequence[tuple[Part, SpentCounter]]
    ) -> list[tuple[Limit, Reading]]:
        """Look at counters; where all have room again, nothing is known any longer."""
        place = caller.accounts
        lines = tuple(
            Line(place.tenant if part.is_shared else place.own, k.limit, 1) for part, k in known
        )
        readings = ledger.peek(Order(place.tag, lines)).readings
        found = [(k.limit, r) for (_, k), r in zip(known, readings, strict=True) if r.wait]
        if known and not found:
            self._known.drop(caller.own)
            self._known.drop(caller.tenant)
        return found


def _among(
    own: Mapping[str, SpentCounter], shared: Mapping[str, SpentCounter], parts: Iterable[Part]
) -> Iterator[tuple[Part, SpentCounter]]:
    for part in parts:
        known = (shared if part.is_shared else own).get(part.limit.field)
        if known is not None and (known.limit is part.limit or known.limit == part.limit):
            yield part, known


class Delays:
    """Makes callers whose bodies were refused wait, so that those take a small share of a core.

    Args:
        timer: A clock in seconds that runs forward.
    """

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer = timer
        self._lock = Lock()
        self._until: Recent[str, float] = Recent(REMEMBERED)

    def add(self, account: str, seconds: float) -> None:
        """Take note that a body of a caller's was refused which took so many seconds."""
        if seconds < _LEAST_COST:
            return
        with self._lock:
            now = self._timer()
            begins = max(now, self._until.get(account) or now)
            self._until.put(account, min(begins + _PATIENCE * seconds, now + _LONGEST))

    def left(self, account: str) -> float:
        """Tell for how many seconds more no body of a caller's is read."""
        until = self._until.get(account)
        return 0.0 if until is None else max(0.0, until - self._timer())
