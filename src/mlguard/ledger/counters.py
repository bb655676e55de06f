"""How is one counter kept?"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from typing import NamedTuple, Protocol, TypeAlias

from mlguard.ledger.orders import LIFETIME, WINDOW, Entry, Limit, Reading

Cells: TypeAlias = "array[int]"
"""The windows of one account, one after another, as arrays need little memory. Of each: the number
of its field, its bucket, what is used of that and of the bucket before, and its limit."""

Spent: TypeAlias = dict[str, dict[str, tuple[int, int]]]
"""Sums and limits by account and field."""

Held: TypeAlias = dict[str, dict[str, dict[str, int]]]
"""What is in flight, by account, field and holder: nothing that holds nothing."""

STRIDE = 5
_BUCKET, _CURRENT, _PREVIOUS, _AMOUNT = range(1, STRIDE)
MOST = 2**53
_MOMENT = 1.0  # seconds after which it is worth trying again where something is held


class Note(NamedTuple):
    """Where one counter stands, written down: the last note of it is what counts.

    Attributes:
        kind: Its limit's.
        key: The tag and the account.
        field: Its limit's.
        numbers: What its kind keeps. None where the account's windows are all forgotten, its sums
            are, or the holder is gone.
        holder: Who holds it, of what is in flight.
    """

    kind: str
    key: str
    field: str
    numbers: Sequence[int]
    holder: str = ""


class Slot(Protocol):
    """Where a counter stands at one moment, while the ledger is locked.

    Attributes:
        used: Units.
        ended: Share of its limit used in the last window, where another one has just begun.
    """

    used: float
    ended: float

    def add(self, cost: int) -> None:
        """Charge."""

    def settle(self, extra: int, since: float) -> None:
        """Correct what was charged at `since`: see `corrected` for how far."""

    def grant(self, units: int) -> None:
        """Give units beyond the limit."""

    def read(self, wanted: int) -> Reading:
        """Tell what is left, and when the units wanted beyond what is used would be admitted."""


class Window:
    """A sliding-window counter: the bucket before weighs less the more of this one has passed.

    Time never runs backwards here: a bucket that has begun stays the current one.

    Args:
        cells: The account's.
        at: Where the window's begin.
        limit: What it may not exceed.
        now: The ledger's clock.
        begins: Whether a new bucket begins where it is time. A refund needs none, as it goes to
            the bucket that was charged; so the end of that is told to the next debit.
    """

    __slots__ = ("_at", "_cells", "_limit", "_passed", "ended", "used")

    def __init__(
        self, cells: Cells, at: int, limit: Limit, now: float, *, begins: bool = True
    ) -> None:
        self._cells = cells
        self._at = at
        self._limit = limit
        self.ended = 0.0
        seconds = limit.seconds
        bucket = int(now // seconds)
        self._passed = now - bucket * seconds
        before, current = cells[at + _BUCKET], cells[at + _CURRENT]
        if bucket > before and begins:
            self.ended = max(0, current) / cells[at + _AMOUNT]
            cells[at + _PREVIOUS] = current if bucket == before + 1 else 0
            cells[at + _CURRENT] = current = 0
            cells[at + _BUCKET] = bucket
            cells[at + _AMOUNT] = limit.amount
        elif bucket < before:
            self._passed = 0.0
        self.used = cells[at + _PREVIOUS] * (1 - self._passed / seconds) + current

    def add(self, cost: int) -> None:
        """Charge."""
        place = self._at + _CURRENT
        self._cells[place] = min(self._cells[place] + cost, MOST)
        self.used += cost

    def settle(self, extra: int, since: float) -> None:
        """Correct what was charged at `since`."""
        age = self._cells[self._at + _BUCKET] - int(since // self._limit.seconds)
        if extra > 0 or age <= 0:
            self._correct(_CURRENT, extra)
        elif age == 1:
            self._correct(_PREVIOUS, extra)

    def _correct(self, which: int, extra: int) -> None:
        place = self._at + which
        most = 2 * self._limit.amount
        self._cells[place] = corrected(self._cells[place], extra, most)

    def grant(self, units: int) -> None:
        """Give units beyond the limit."""
        place = self._at + _CURRENT
        self._cells[place] = max(self._cells[place] - units, -MOST)

    def read(self, wanted: int) -> Reading:
        """Tell what is left, and when the units wanted would be admitted."""
        current, previous = self._cells[self._at + _CURRENT], self._cells[self._at + _PREVIOUS]
        return reading(self._limit, self._passed, current, previous, wanted)


class Lifetime:
    """A sum that never comes back."""

    __slots__ = ("_key", "_limit", "_spent", "ended", "used")

    def __init__(self, spent: Spent, key: str, limit: Limit) -> None:
        self._spent = spent
        self._key = key
        self._limit = limit
        self.used: float = spent.get(key, {}).get(limit.field, (0, 0))[0]
        self.ended = 0.0

    def _set(self, units: int) -> None:
        within = max(-MOST, min(units, MOST))
        self._spent.setdefault(self._key, {})[self._limit.field] = (within, self._limit.amount)
        self.used = within

    def add(self, cost: int) -> None:
        """Charge."""
        self._set(int(self.used) + cost)

    def settle(self, extra: int, since: float) -> None:
        """Correct what was charged at `since`, in full: it forgives nothing."""
        self._set(corrected(int(self.used), extra, MOST))

    def grant(self, units: int) -> None:
        """Give units beyond the limit."""
        self._set(int(self.used) - units)

    def read(self, wanted: int) -> Reading:
        """Tell what is left, and when the units wanted would be admitted."""
        return left(self._limit, int(self.used), wanted)


class Flight:
    """What is held at this moment, by whom."""

    __slots__ = ("_held", "_holder", "_key", "_limit", "ended", "used")

    def __init__(self, held: Held, key: str, holder: str, limit: Limit) -> None:
        self._held = held
        self._key = key
        self._holder = holder
        self._limit = limit
        self.used: float = sum(held.get(key, {}).get(limit.field, {}).values())
        self.ended = 0.0

    def _change(self, units: int) -> None:
        key, field, holder = self._key, self._limit.field, self._holder
        before = holds(self._held, key, field, holder)
        left = max(0, before + units)
        hold(self._held, key, field, holder, left)
        self.used += left - before

    def add(self, cost: int) -> None:
        """Charge."""
        self._change(cost)

    def settle(self, extra: int, since: float) -> None:
        """Correct what was charged at `since`."""
        self._change(extra)

    def grant(self, units: int) -> None:
        """Hold so many below zero in all, whatever was held."""
        self._change(-units - holds(self._held, self._key, self._limit.field, self._holder))

    def read(self, wanted: int) -> Reading:
        """Tell what is left, and when the units wanted would be admitted."""
        return left(self._limit, int(self.used), wanted)


def looked(
    limit: Limit, bucket: int, current: int, previous: int, now: float, wanted: int
) -> Reading:
    """Tell what is left of a window that is kept elsewhere.

    Args:
        limit: What it may not exceed.
        bucket: The one that began last.
        current: Used of that.
        previous: Used of the bucket before.
        now: The ledger's clock.
        wanted: Units beyond what is used.
    """
    seconds = limit.seconds
    this = int(now // seconds)
    passed = now - this * seconds if this >= bucket else 0.0
    if this > bucket:
        current, previous = 0, current if this == bucket + 1 else 0
    return reading(limit, passed, current, previous, wanted)


def reading(limit: Limit, passed: float, current: int, previous: int, wanted: int) -> Reading:
    """Tell what is left of a window, and when the units wanted would be admitted.

    Args:
        limit: What it may not exceed.
        passed: Seconds of its bucket.
        current: Used of that.
        previous: Used of the bucket before.
        wanted: Units beyond what is used.
    """
    seconds, amount = limit.seconds, limit.amount
    left = amount - (previous * (1 - passed / seconds) + current)
    wait = 0.0
    if wanted > left:
        # When old buckets weigh little enough.
        room = amount - wanted
        if current <= room and previous > 0:
            wait = seconds * (1 - (room - current) / previous) - passed
        else:
            wait = seconds - passed
            wait += seconds * (max(0.0, 1 - room / current) if current > 0 else 0)
    return Reading(int(left) if left > 0 else 0, seconds - passed, wait)


def left(limit: Limit, used: int, wanted: int) -> Reading:
    """Tell what is left of a sum, or of what may be in flight.

    Args:
        limit: What it may not exceed.
        used: Units.
        wanted: Units beyond what is used.
    """
    units = limit.amount - used
    wait = math.inf if limit.kind == LIFETIME else _MOMENT
    return Reading(max(0, units), 0.0, 0.0 if wanted <= units else wait)


def holds(held: Held, key: str, field: str, holder: str) -> int:
    """Tell how many units of a field somebody holds."""
    return held.get(key, {}).get(field, {}).get(holder, 0)


def hold(held: Held, key: str, field: str, holder: str, units: int) -> None:
    """Write down how many units of a field somebody holds, and no trace of none."""
    fields = held.setdefault(key, {})
    holders = fields.setdefault(field, {})
    if units:
        holders[holder] = units
        return
    holders.pop(holder, None)
    if not holders:
        del fields[field]
    if not fields:
        del held[key]


def corrected(units: int, extra: int, most: int) -> int:
    """Add debt up to a bound, or give back down to zero, or to where a grant has led.

    Args:
        units: What is used.
        extra: Units more, or fewer.
        most: What debt leads to at most: twice the limit of a window, which the caller works off.
    """
    if extra > 0:
        return max(units, min(units + extra, most))
    return max(min(0, units), units + extra)


def entries(cells: Cells, names: dict[int, tuple[str, int]], now: float) -> list[Entry]:
    """Write an account's windows down for an operator.

    Args:
        cells: The account's.
        names: The field and the seconds of a window, by its field's number.
        now: The ledger's clock.
    """
    found = []
    for at in range(0, len(cells), STRIDE):
        field, seconds = names[cells[at]]
        amount = cells[at + _AMOUNT]
        window = Window(cells, at, Limit(field, amount, seconds), now)
        found.append(Entry(field, window.used, amount, seconds, WINDOW))
    return found
