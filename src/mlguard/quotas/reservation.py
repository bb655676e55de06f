"""What was charged, and what does it turn out to cost?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlguard.ledger import FLIGHT, Change, Ledger, Line, Order, Receipt
from mlguard.messages import Headers
from mlguard.quotas.shapes import Left, Shape, headers


class Reservation:
    """What an admitted call was charged, until the answer tells what it costs.

    Args:
        ledger: Where it was charged.
        order: What was.
        shape: What such calls touch.
        receipt: What became of it.
    """

    __slots__ = ("_flies", "_ledger", "_lines", "_receipt", "_shape", "_tag")

    def __init__(self, ledger: Ledger, order: Order, shape: Shape, receipt: Receipt) -> None:
        self._ledger = ledger
        self._tag, self._lines = order
        self._shape = shape
        self._receipt = receipt
        self._flies = shape.flies

    @property
    def amounts(self) -> Mapping[str, int]:
        """Units of the model that it was charged, by what they count."""
        return {
            limit.unit: cost
            for _, limit, cost in self._lines
            if limit.unit != "requests" and limit.kind != FLIGHT
        }

    @property
    def left(self) -> Left:
        """What was left of each window."""
        return self._shape.left(self._receipt.readings)

    @property
    def headers(self) -> Headers:
        """What an answer says of that."""
        return self._shape.headers(self._receipt.readings)

    def settle(self, amounts: Mapping[str, int]) -> None:
        """Make units cost what they turned out to be; 0 refunds them."""
        changes: list[Change] = []
        lines: list[Line] = []
        for line in self._lines:
            account, limit, cost = line
            units = amounts.get(limit.unit, cost)
            if units != cost:
                change = Change(self._tag, account, limit, units - cost, self._receipt.at)
                changes.append(change)
                line = Line(account, limit, units)
            lines.append(line)
        if changes:
            self._lines = tuple(lines)
            self._ledger.settle(changes)

    def release(self) -> None:
        """Give back what is held while a request is in flight; once."""
        if not self._flies:
            return
        self._flies = False
        held = [line for line in self._lines if line.limit.kind == FLIGHT]
        self._lines = tuple(line for line in self._lines if line.limit.kind != FLIGHT)
        at = self._receipt.at
        self._ledger.settle([Change(self._tag, a, limit, -n, at) for a, limit, n in held if n])


def headers_of(charges: Sequence[Reservation]) -> Headers:
    """Write what is left after several charges of one request: what the last one read counts."""
    if len(charges) == 1:
        return charges[0].headers
    left: dict[str, tuple[str, str]] = {}
    for charged in charges:
        left.update(charged.left)
    return headers(left)
