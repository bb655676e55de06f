"""How does one process count?"""

from __future__ import annotations

import math
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from itertools import islice

from mlguard.ledger.counters import (
    MOST,
    STRIDE,
    Cells,
    Flight,
    Held,
    Lifetime,
    Note,
    Slot,
    Spent,
    Window,
    entries,
    hold,
    holds,
)
from mlguard.ledger.orders import (
    FLIGHT,
    LIFETIME,
    WINDOW,
    Change,
    Entry,
    Limit,
    Line,
    Order,
    Reading,
    Receipt,
)

MOST_ACCOUNTS = 1_000_000
_new = tuple.__new__  # what a named tuple's own constructor calls, without that call
_PARTS = 1000  # of the accounts, of which the oldest leaves at once


class MemoryLedger:
    """Counts in this process; a debit is all or nothing, and never blocks for long.

    An account whose windows nobody touches is kept for two of the longest, not much longer than
    four; where there are too many the oldest leave, some at once. What never comes back stays.

    Args:
        timer: A clock in seconds that runs forward.
        most: Accounts whose windows are kept.
    """

    def __init__(
        self, timer: Callable[[], float] = time.monotonic, *, most: int = MOST_ACCOUNTS
    ) -> None:
        self._timer = timer
        self._most = most
        self._lock = threading.Lock()
        self._numbers: dict[tuple[str, int], int] = {}
        self._names: dict[int, tuple[str, int]] = {}
        self._young: dict[str, Cells] = {}
        self._old: dict[str, Cells] = {}
        self._longest = 1
        self._born = self._ages_at = -math.inf
        self._spent: Spent = {}
        self._held: Held = {}

    def __len__(self) -> int:
        """Tell how many accounts have windows."""
        return len(self._young) + len(self._old)

    def debit(self, order: Order, holder: str = "") -> Receipt:
        """Charge every line, or none where one does not admit its cost.

        Args:
            order: What to charge.
            holder: Who holds what is in flight, until `drop`.
        """
        with self._lock:
            now = self._timer()
            return self._usual(order, now) or self._any(order, holder, now)

    def _usual(self, order: Order, now: float) -> Receipt | None:
        """Do in one pass what `_any` does, where all lines are windows under way that have room.

        Nearly every order is such a one. None for the others: nothing was done then.
        """
        if now > self._ages_at:
            return None
        numbers, longest = self._numbers, self._longest
        tag, lines = order
        whose: str | None = None
        cells: Cells | None = None
        readings: list[Reading] = []
        places: list[tuple[Cells, int, int]] = []
        for account, limit, cost in lines:
            if account != whose:
                whose, cells = account, self._young.get(tag + account)
            seconds = limit.seconds
            if cells is None or not 0 < seconds <= longest:
                return None
            number, at, end = numbers.get((limit.field, seconds)), 0, len(cells)
            while at < end and cells[at] != number:
                at += STRIDE
            if at == end:
                return None
            current = cells[at + 2]
            passed = now - cells[at + 1] * seconds
            # In the order in which `Window` computes it, as the last bit may decide.
            used = cells[at + 3] * (1 - passed / seconds) + current + cost
            amount = limit.amount
            if not 0 <= passed < seconds or used > amount or current + cost > MOST:
                return None
            readings.append(_new(Reading, (int(amount - used), seconds - passed, 0.0)))
            places.append((cells, at + 2, cost))
        for cells, at, cost in places:
            cells[at] += cost
        return _new(Receipt, (tuple(readings), now, ()))

    def _any(self, order: Order, holder: str, now: float) -> Receipt:
        slots: list[tuple[Slot, int]] = []
        ended: list[tuple[int, float]] = []
        fits = True
        for account, limit, cost in order.lines:
            slot = self._slot(order.tag, account, limit, holder, now)
            if slot.ended:
                ended.append((len(slots), slot.ended))
            if slot.used + cost > limit.amount:
                fits = False
            slots.append((slot, cost))
        if fits:
            for slot, cost in slots:
                slot.add(cost)
        readings = [slot.read(0 if fits else cost) for slot, cost in slots]
        return Receipt(tuple(readings), now, tuple(ended))

    def peek(self, order: Order) -> Receipt:
        """Tell what `debit` would; charges nothing, and ends no window."""
        with self._lock:
            now = self._timer()
            return Receipt(tuple(self._looked(order.tag, line, now) for line in order.lines), now)

    def _looked(self, tag: str, line: Line, now: float) -> Reading:
        account, limit, cost = line
        if limit.kind != WINDOW:
            return self._slot(tag, account, limit, "", now).read(cost)
        key = tag + account
        cells = array("q", self._young.get(key) or self._old.get(key) or ())
        return Window(cells, self._place(cells, limit), limit, now).read(cost)

    async def adebit(self, order: Order) -> Receipt:
        """Do what `debit` does."""
        return self.debit(order)

    def settle(self, changes: Sequence[Change], holder: str = "") -> None:
        """Correct what was charged."""
        with self._lock:
            now = self._timer()
            for change in changes:
                begins = change.extra > 0 or change.is_grant
                slot = self._slot(*change[:3], holder, now, begins=begins)
                if change.is_grant:
                    slot.grant(-change.extra)
                else:
                    slot.settle(change.extra, change.since)

    def drop(self, holder: str) -> None:
        """Give back all that somebody holds who is gone."""
        with self._lock:
            for key, fields in list(self._held.items()):
                for field in list(fields):
                    hold(self._held, key, field, holder, 0)

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used."""
        key = tag + account
        with self._lock:
            now = self._timer()
            # A copy, as a look must not end a window.
            cells = array("q", self._young.get(key) or self._old.get(key) or ())
            found = entries(cells, self._names, now)
            spent = self._spent.get(key, {})
            found += [Entry(field, *numbers, 0, LIFETIME) for field, numbers in spent.items()]
            held = self._held.get(key, {})
            found += [Entry(f, sum(units.values()), 0, 0, FLIGHT) for f, units in held.items()]
            return found

    def reset(self, tag: str, account: str, *, lifetime: bool = False) -> None:
        """Forget what an account has used in windows, and ever where that is meant too."""
        with self._lock:
            for accounts in (self._young, self._old):
                accounts.pop(tag + account, None)
            if lifetime:
                self._spent.pop(tag + account, None)

    def note(self, tag: str, account: str, limit: Limit, holder: str = "") -> Note:
        """Write one counter down."""
        key = tag + account
        with self._lock:
            if limit.kind == LIFETIME:
                sums = self._spent.get(key, {}).get(limit.field, (0, limit.amount))
                return Note(LIFETIME, key, limit.field, sums)
            if limit.kind == FLIGHT:
                units = holds(self._held, key, limit.field, holder)
                return Note(FLIGHT, key, limit.field, (units,), holder)
            cells = self._cells(key)
            return self._window_note(key, cells, self._place(cells, limit))

    def notes(self, key: str) -> list[Note]:
        """Write all counters of an account down."""
        with self._lock:
            cells = self._young.get(key) or self._old.get(key) or array("q")
            found = [self._window_note(key, cells, at) for at in range(0, len(cells), STRIDE)]
            found += [Note(LIFETIME, key, f, sums) for f, sums in self._spent.get(key, {}).items()]
            held = self._held.get(key, {})
            found += [Note(FLIGHT, key, f, (n,), h) for f in held for h, n in held[f].items()]
            return found

    def keys(self, *, lifetime: bool) -> list[str]:
        """List the accounts that have sums that never come back, or those that have others."""
        with self._lock:
            return [*self._spent] if lifetime else [*self._young, *self._old, *self._held]

    def restore(self, note: Note) -> None:
        """Let a counter stand where it was written down."""
        kind, key, field, numbers, holder = note
        if kind == WINDOW:
            self._restore_window(key, field, numbers)
        elif kind == LIFETIME:
            self._restore_sum(key, field, numbers)
        elif numbers:
            (units,) = numbers
            with self._lock:
                hold(self._held, key, field, holder, int(units))
        else:
            self.drop(holder)

    def _window_note(self, key: str, cells: Cells, at: int) -> Note:
        field, seconds = self._names[cells[at]]
        return Note(WINDOW, key, field, (seconds, *cells[at + 1 : at + STRIDE]))

    def _restore_window(self, key: str, field: str, numbers: Sequence[int]) -> None:
        if not numbers:
            self.reset("", key)
            return
        seconds, bucket, current, previous, amount = numbers
        restored = array("q", (bucket, current, previous, amount))
        limit = Limit(field, amount, seconds)
        with self._lock:
            self._age(limit, self._timer())
            cells = self._cells(key)
            at = self._place(cells, limit)
            cells[at + 1 : at + STRIDE] = restored

    def _restore_sum(self, key: str, field: str, numbers: Sequence[int]) -> None:
        with self._lock:
            if numbers:
                units, amount = numbers
                self._spent.setdefault(key, {})[field] = (int(units), int(amount))
            else:
                self._spent.pop(key, None)

    def _slot(
        self,
        tag: str,
        account: str,
        limit: Limit,
        holder: str,
        now: float,
        *,
        begins: bool = True,
    ) -> Slot:
        key = tag + account
        if limit.kind == WINDOW:
            if now > self._ages_at or limit.seconds > self._longest:
                self._age(limit, now)
            cells = self._young.get(key) or self._cells(key)
            return Window(cells, self._place(cells, limit), limit, now, begins=begins)
        if limit.kind == LIFETIME:
            return Lifetime(self._spent, key, limit)
        return Flight(self._held, key, holder, limit)

    def _cells(self, key: str) -> Cells:
        cells = self._young.get(key)
        if cells is None:
            cells = self._old.pop(key, None) or array("q")
            if len(self) >= self._most:
                self._forget_oldest()
            self._young[key] = cells
        return cells

    def _forget_oldest(self) -> None:
        """Make room for some: whoever looks for a dict's first meets all that were deleted."""
        oldest = self._old or self._young
        for key in list(islice(oldest, max(1, self._most // _PARTS))):
            del oldest[key]

    def _place(self, cells: Cells, limit: Limit) -> int:
        """Find a window among an account's, or make it."""
        name = (limit.field, limit.seconds)
        number = self._numbers.get(name)
        if number is None:
            number = self._numbers[name] = len(self._numbers)
            self._names[number] = name
        for at in range(0, len(cells), STRIDE):
            if cells[at] == number:
                return at
        cells.extend((number, 0, 0, 0, limit.amount))
        return len(cells) - STRIDE

    def _age(self, limit: Limit, now: float) -> None:
        """Let a generation go that nobody has touched for two of the longest windows."""
        self._longest = max(self._longest, limit.seconds)
        if now - self._born > 2 * self._longest:
            self._old = self._young if now - self._born <= 4 * self._longest else {}
            self._young = {}
            self._born = now
        self._ages_at = self._born + 2 * self._longest
