"""What has this worker paid for beforehand, and whom does it admit for that?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import NamedTuple, TypeAlias

from mlguard.ledger import WINDOW, Change, Limit, Order, Reading, Receipt

_HOT = 1.0  # seconds within which somebody comes again who is worth a lease
_IDLE = 2.0  # after which what nobody used is given back
_FIRST = 16  # the first lease is that part of the largest
_MOST_SEEN = 10_000

RedisURL: TypeAlias = tuple[str, str, Limit]
"""Tag, account and limit."""


@dataclass(slots=True)
class _Stock:
    """Units of one counter that are paid for.

    Attributes:
        units: How many.
        left: How many the store had beyond these.
        at: When they were paid, by the store's clock.
        told: The same moment, or one before it, by ours.
        ends: The end of the window's bucket, or a moment before it, by ours.
        used: When some of them were last used, by ours.
    """

    units: int
    left: int
    at: float
    told: float
    ends: float
    used: float


class Wish(NamedTuple):
    """What the store is asked beyond an order.

    Attributes:
        wanted: Units to lease of each line; none where there are none to be leased.
        returned: What is given back before, as it goes into the same bill.
        at: When, by our clock.
    """

    wanted: tuple[int, ...] = ()
    returned: tuple[Change, ...] = ()
    at: float = 0.0


class Leases:
    """Units that are charged in the store before anybody asks for them, so none is spent twice.

    Who comes again within a second is leased some, then twice as many each time, and the store
    gives no more than a tenth of what is left. They are spent in the bucket that they were charged
    in, or given back; where nobody knows whether they were, they end with it. Threads may share it.

    Args:
        most: Units of one counter; 0: nothing is ever leased.
        timer: A clock in seconds that runs forward.
    """

    def __init__(self, most: int, timer: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._timer = timer
        self._lock = Lock()
        self._stocks: dict[RedisURL, _Stock] = {}
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}
        self._asking: set[tuple[str, str]] = set()
        self._back: list[Change] = []

    def __len__(self) -> int:
        """Tell of how many counters something is leased, or still to be given back."""
        return len(self._stocks) + len(self._back)

    def take(self, order: Order) -> Receipt | None:
        """Charge an order to what is leased; None where that does not do."""
        if not self._stocks or not order.lines:
            return None
        tag, now = order.tag, self._timer()
        with self._lock:
            stocks = []
            for account, limit, cost in order.lines:
                stock = self._stocks.get((tag, account, limit))
                if stock is None or stock.units < cost or now >= stock.ends:
                    return None
                stocks.append((stock, cost))
            for stock, cost in stocks:
                stock.units -= cost
                stock.used = now
            readings = tuple(Reading(s.left + s.units, s.ends - now, 0.0) for s, _ in stocks)
            return Receipt(readings, min(s.at + now - s.told for s, _ in stocks))

    def wish(self, order: Order) -> Wish:
        """Say what the store is to be asked beyond an order; `learn` or `fail` must follow."""
        is_windows = all(line.limit.kind == WINDOW for line in order.lines)
        if not self._most or not order.lines or not is_windows:
            return Wish()
        who, now = (order.tag, order.lines[0].account), self._timer()
        with self._lock:
            if who in self._asking:  # the others are charged one by one meanwhile
                return Wish()
            returned = [self._returned((order.tag, x.account, x.limit)) for x in order.lines]
            seen, size = self._seen.get(who, (0.0, 0))
            if len(self._seen) >= _MOST_SEEN:
                self._seen.clear()
            is_hot = bool(seen) and now - seen < _HOT
            size = min(self._most, 2 * size or max(1, self._most // _FIRST)) if is_hot else 0
            self._seen[who] = (now, size)
            if size:
                self._asking.add(who)
            wanted = (size,) * len(order.lines) if size else ()
            return Wish(wanted, tuple(filter(None, returned)), now)

    def learn(self, order: Order, wish: Wish, receipt: Receipt, got: Sequence[int]) -> Receipt:
        """Keep what was leased.

        Args:
            order: The order.
            wish: What was wished.
            receipt: What became of the order, without what was leased.
            got: What was leased of each line.

        Returns:
            What became of the order.
        """
        if not wish.wanted:
            return receipt
        now, readings = self._timer(), []
        with self._lock:
            self._asking.discard((order.tag, order.lines[0].account))
            for line, reading, units in zip(order.lines, receipt.readings, got, strict=True):
                place = (order.tag, line.account, line.limit)
                if units and (old := self._returned(place)):
                    self._back.append(old)
                if units:
                    ends = wish.at + reading.reset
                    left = reading.remaining
                    self._stocks[place] = _Stock(units, left, receipt.at, wish.at, ends, now)
                readings.append(reading._replace(remaining=reading.remaining + units))
        return receipt._replace(readings=tuple(readings))

    def fail(self, order: Order, wish: Wish) -> None:
        """Take note that nobody knows what became of an order."""
        if wish.wanted:
            with self._lock:
                self._asking.discard((order.tag, order.lines[0].account))

    def settle(self, changes: Sequence[Change]) -> list[Change]:
        """Correct what is leased, and return what the store must be told."""
        if not self._stocks:
            return list(changes)
        with self._lock:
            return [change for change in changes if not self._absorbed(change)]

    def take_back(self, *, everything: bool = False) -> list[Change]:
        """Take what is to be given back: what nobody used for a while, or everything."""
        now = self._timer()
        with self._lock:
            for place, stock in list(self._stocks.items()):
                if everything or now - stock.used > _IDLE or now >= stock.ends:
                    self._back.extend(filter(None, [self._returned(place)]))
            back, self._back = self._back, []
            return back

    def _returned(self, place: RedisURL) -> Change | None:
        stock = self._stocks.pop(place, None)
        return Change(*place, -stock.units, stock.at) if stock and stock.units else None

    def _absorbed(self, change: Change) -> bool:
        stock = self._stocks.get(change[:3])
        if stock is None or change.is_grant or self._timer() >= stock.ends:
            return False
        seconds = change.limit.seconds
        left = stock.units - change.extra
        if change.since // seconds != stock.at // seconds or not 0 <= left <= self._most:
            return False
        stock.units = left
        return True
