"""What has a store not been told yet?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from threading import Lock

from mlguard.ledger import FLIGHT, LIFETIME, Change, Limit, Line, Order, Receipt
from mlguard.logs import RateLimitedLog
from mlguard.recent import Recent

MOST = 100_000
_TOGETHER = 500  # changes carried at once
NOW = 1e15  # seconds: a moment that no bucket lies behind

Place = tuple[str, str, Limit]
"""Tag, account and limit."""


class Pending:
    """Changes on their way to a store. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._of: dict[str, list[Change]] = {}
        self._number = 0
        self._sums: dict[tuple[Place, bool], int] = {}
        self._log = RateLimitedLog()

    def __len__(self) -> int:
        return self._number + len(self._sums)

    def put(self, changes: Iterable[Change]) -> None:
        """Keep changes; where there are too many, the newest are lost, but what lifetimes owe."""
        lost = 0
        with self._lock:
            for change in changes:
                if self._number < MOST:
                    self._of.setdefault(change.tag, []).append(change)
                    self._number += 1
                elif change.limit.kind == LIFETIME and change.extra > 0:
                    place = (change[:3], change.is_grant)
                    self._sums[place] = self._sums.get(place, 0) + change.extra
                else:
                    lost += 1
        if lost:
            self._log.warning("full", "%d settlements of quotas are lost: too many wait", lost)

    def take(self, tag: str) -> list[Change]:
        """Take what is to be changed under a tag, as much as is carried at once."""
        if not self._of:
            return []
        with self._lock:
            return self._cut(tag, _TOGETHER)

    def take_some(self) -> list[Change]:
        """Take as much as is carried at once."""
        with self._lock:
            taken: list[Change] = []
            while self._of and len(taken) < _TOGETHER:
                taken += self._cut(next(iter(self._of)), _TOGETHER - len(taken))
            while self._sums and len(taken) < _TOGETHER:
                (place, is_grant), units = self._sums.popitem()
                taken.append(Change(*place, units, NOW, is_grant))
            return taken

    def _cut(self, tag: str, most: int) -> list[Change]:
        changes = self._of.pop(tag, [])
        if left := changes[most:]:
            self._of[tag] = left
        self._number -= min(most, len(changes))
        return changes[:most]


class Owed:
    """What was charged here while a store was away, and so is owed to it. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._units: dict[Place, int] = {}

    def takes(self, order: Order) -> bool:
        """Say whether there is room for an order; without it, no lifetime may be charged anew."""
        if len(self._units) < MOST:
            return True
        return all(
            limit.kind != LIFETIME or (order.tag, account, limit) in self._units
            for account, limit, _ in order.lines
        )

    def add(self, order: Order) -> None:
        """Owe an order; where too much is owed already, a window's is forgiven."""
        with self._lock:
            has_room = len(self._units) < MOST
            for account, limit, cost in order.lines:
                place = (order.tag, account, limit)
                is_kept = has_room or limit.kind == LIFETIME or place in self._units
                if limit.kind != FLIGHT and is_kept:
                    self._units[place] = self._units.get(place, 0) + cost

    def correct(self, change: Change) -> bool:
        """Owe more or less; False where that is not owed any longer."""
        place = change[:3]
        with self._lock:
            if place not in self._units:
                return False
            self._units[place] = max(0, self._units[place] + change.extra)
            return True

    def take(self) -> list[Change]:
        """Take all that is owed, as changes: no debt of a caller's, and so in full."""
        with self._lock:
            units, self._units = self._units, {}
        return [Change(*place, n, NOW, is_grant=True) for place, n in units.items() if n]


class Held:
    """What is in flight here, as a store must be told again and again. Threads may share it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._units: dict[Place, int] = {}
        self._said_last: set[Place] = set()
        self._doubted: set[Place] = set()

    def change(self, place: Place, units: int) -> None:
        """Hold more or fewer units."""
        with self._lock:
            left = self._units.pop(place, 0) + units
            if left > 0:
                self._units[place] = left

    def doubt(self, place: Place) -> None:
        """Take note that the store may count otherwise: nobody knows what became of a call."""
        with self._lock:
            self._doubted.add(place)

    def doubted(self) -> list[Change]:
        """Return, once, what sets right where the store may count otherwise."""
        with self._lock:
            doubted, self._doubted = self._doubted, set()
            return [self._said(place) for place in doubted]

    def renewals(self) -> list[Change]:
        """Return what says again all that is held, or was when it was last said.

        What was said may come to the store behind what has ended since.
        """
        with self._lock:
            places = {*self._units, *self._said_last}
            self._said_last = set(self._units)
            return [self._said(place) for place in places]

    def _said(self, place: Place) -> Change:
        return Change(*place, self._units.get(place, 0), NOW, is_grant=True)


class LastRead:
    """What was left of each window and sum when the store last said so. Threads may share it."""

    def __init__(self, timer: Callable[[], float] = time.monotonic) -> None:
        self._timer = timer
        self._left: Recent[str, dict[tuple[str, str], tuple[int, float]]] = Recent(MOST // 10)

    def put(self, order: Order, receipt: Receipt) -> None:
        """Take note of an answer."""
        now = self._timer()
        left = self._left.get(order.tag)
        if left is None:
            left = {}
            self._left.put(order.tag, left)
        for (account, limit, _), (remaining, reset, _) in zip(
            order.lines, receipt.readings, strict=True
        ):
            if limit.kind != FLIGHT:
                left[account, limit.field] = (remaining, now + reset if reset else math.inf)

    def take(self, tag: str, line: Line) -> int | None:
        """Return, once, how many units were left of a counter; None where that is past."""
        found = (self._left.get(tag) or {}).pop((line.account, line.limit.field), None)
        return found[0] if found and self._timer() < found[1] else None
