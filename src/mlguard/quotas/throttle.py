"""Does this address do something too often?"""

from __future__ import annotations

import time
from collections.abc import Callable

from mlguard.ledger import Limit, Line, MemoryLedger, Order, Receipt
from mlguard.settings import Rate


class Throttle:
    """What clients do, counted by address in this process.

    Fails open where the server does not say who the client is.

    Args:
        rate: How often they may in which time; None switches it off.
        timer: A clock in seconds that runs forward.
    """

    def __init__(self, rate: Rate | None, timer: Callable[[], float] = time.monotonic) -> None:
        self._limit = Limit("count", rate.limit, rate.seconds) if rate else None
        self._ledger = MemoryLedger(timer)

    def wait(self, client: str) -> float:
        """Tell how many seconds it takes until once more would be admitted; counts nothing.

        Args:
            client: The address, or its network.
        """
        return _longest(self._ledger.peek(order)) if (order := self._order(client)) else 0.0

    def count(self, client: str) -> float:
        """Count once more; return how many seconds it takes until that is admitted, 0 if it is."""
        return _longest(self._ledger.debit(order)) if (order := self._order(client)) else 0.0

    def _order(self, client: str) -> Order | None:
        if self._limit is None or not client:
            return None
        return Order(client, (Line("c", self._limit, 1),))


def _longest(receipt: Receipt) -> float:
    return max(reading.wait for reading in receipt.readings)
