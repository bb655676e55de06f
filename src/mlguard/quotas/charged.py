"""What was charged, and what does it turn out to cost?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlguard.ledger import FLIGHT, Change, Ledger, Limit, Line, Order

Left = Mapping[str, tuple[str, str]]
"""Of each window by its name: the policy, and what is left of it, as headers say it."""


class Charged:
    """What an admitted call was charged, until the answer tells what it costs.

    Attributes:
        left: What is left of each window.

    Args:
        ledger: Where it was charged.
        order: What was.
        at: When, by the ledger's clock.
    """

    __slots__ = ("_at", "_ledger", "_lines", "_tag", "left")

    def __init__(self, ledger: Ledger, order: Order, at: float, left: Left) -> None:
        self._ledger = ledger
        self._tag = order.tag
        self._lines: tuple[Line, ...] = order.lines
        self._at = at
        self.left = left

    @property
    def amounts(self) -> Mapping[str, int]:
        """Units of the model that it was charged, by what they count."""
        return {
            line.limit.unit: line.cost
            for line in self._lines
            if line.limit.kind != FLIGHT and line.limit.unit != "requests"
        }

    def settle(self, amounts: Mapping[str, int]) -> None:
        """Make units cost what they turned out to be; 0 refunds them."""
        self._change(lambda line: amounts.get(line.limit.unit, line.cost) - line.cost)
        self._lines = tuple(
            line._replace(cost=amounts.get(line.limit.unit, line.cost)) for line in self._lines
        )

    def land(self) -> None:
        """Give back what is held while a request is in flight."""
        self._change(lambda line: -line.cost if line.limit.kind == FLIGHT else 0)
        self._lines = tuple(line for line in self._lines if line.limit.kind != FLIGHT)

    def _change(self, extra: Callable[[Line], int]) -> None:
        changes = [
            Change(self._tag, line.account, line.limit, units, self._at)
            for line in self._lines
            if (units := extra(line))
        ]
        if changes:
            self._ledger.settle(changes)


def policy(limit: Limit) -> str:
    """Write a limit as draft-ietf-httpapi-ratelimit-headers does."""
    window = f";w={limit.seconds}" if limit.seconds else ""
    return f'"{limit.name}";q={limit.amount}{window}'
