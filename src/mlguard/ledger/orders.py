"""What is asked of a ledger, and what does it answer?

An account is somebody whose use is counted; a field of it is one counter. Accounts that one order
touches share a tag, so that a store of many machines can keep them on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

WINDOW = "window"
"""A sliding-window counter, as in `limits`: the bucket before weighs less and less."""

LIFETIME = "lifetime"
"""A sum that never comes back."""

FLIGHT = "flight"
"""What is held now, and given back."""


class StoreUnavailable(Exception):
    """A store did not answer as it should, or not in time.

    Attributes:
        may_be_done: Whether what was asked may be done even so: nobody will ever know.
    """

    may_be_done = False


class ChangesUnmade(StoreUnavailable):
    """Of several changes, some were not made.

    Attributes:
        unmade: Those that are to be made again; the others were made, or may have been.
    """

    def __init__(self, reason: str, unmade: Sequence[Change]) -> None:
        super().__init__(reason)
        self.unmade = unmade


@dataclass(frozen=True, slots=True)
class Limit:
    """How much of something one account may have.

    Attributes:
        field: The counter; no two limits of one account share one.
        amount: Units admitted: in one window, ever, or at once.
        seconds: Length of a window; 0 for the other kinds.
        kind: WINDOW, LIFETIME or FLIGHT.
        unit: What is counted: "requests", "rows", ….
        model: Whose rows, "" where all models' are meant.
        name: What clients are told it is called.
        on_failure: Without the store: "local", "open" or "closed".
    """

    field: str
    amount: int
    seconds: int = 0
    kind: str = WINDOW
    unit: str = "requests"
    model: str = ""
    name: str = ""
    on_failure: str = "local"


class Line(NamedTuple):
    """One counter that an order charges.

    Attributes:
        account: Whose.
        limit: What may not be exceeded.
        cost: Units, none below zero.
    """

    account: str
    limit: Limit
    cost: int


class Order(NamedTuple):
    """What one request costs: charged to every line, or to none.

    Attributes:
        tag: What all accounts of an order have in common.
        lines: Each of another counter.
    """

    tag: str
    lines: tuple[Line, ...]


class Reading(NamedTuple):
    """One counter after a debit was tried.

    Attributes:
        remaining: Units it would still admit.
        reset: Seconds until a window's current bucket ends; 0 for the other kinds.
        wait: Seconds until it admits the cost: 0 where it did, infinity where it never will.
    """

    remaining: int
    reset: float
    wait: float


class Receipt(NamedTuple):
    """What became of an order.

    Attributes:
        readings: One for each line.
        at: The ledger's clock, in seconds.
        ended: Lines whose last window in use has ended since they were last asked: their number in
            the order, and how much of the limit was used in it.
    """

    readings: tuple[Reading, ...]
    at: float
    ended: tuple[tuple[int, float], ...] = ()

    @property
    def is_admitted(self) -> bool:
        """Whether it was charged."""
        # A loop, as every request asks: a generator costs five times as much.
        for reading in self.readings:  # noqa: SIM110
            if reading[2] != 0:
                return False
        return True


class Change(NamedTuple):
    """What is to be corrected later, for which nobody waits.

    Attributes:
        tag: The order's.
        account: The line's.
        limit: The line's.
        extra: Units more than were charged; fewer are below zero.
        since: When they were charged, by the ledger's clock.
        is_grant: Whether units count in full, beyond what bounds debts and refunds; of what is in
            flight, whether they are what the holder holds in all.
    """

    tag: str
    account: str
    limit: Limit
    extra: int
    since: float
    is_grant: bool = False


def again(changes: Sequence[Change], error: BaseException | None) -> list[Change]:
    """Return which changes are to be made again, where making them failed.

    Where they may be made already, nobody is charged twice: only what gives back is made again.
    """
    if isinstance(error, ChangesUnmade):
        return list(error.unmade)
    is_open = isinstance(error, StoreUnavailable) and error.may_be_done
    return [change for change in changes if change.extra < 0 or not is_open]


class Entry(NamedTuple):
    """A counter as an operator sees it.

    Attributes:
        field: The limit's.
        used: Units used, a window's bucket before weighed in.
        amount: The limit: of a window when its bucket began, of a sum when it was last charged; 0
            of what is in flight, as no ledger keeps it.
        seconds: The limit's.
        kind: The limit's.
    """

    field: str
    used: float
    amount: int
    seconds: int
    kind: str


class Ledger(Protocol):
    """Counts what was asked; safe to share between threads."""

    def debit(self, order: Order) -> Receipt | None:
        """Charge every line, or none where one does not admit its cost; may block.

        Returns:
            None where nobody can tell, and a line's limit is closed then.
        """

    async def adebit(self, order: Order) -> Receipt | None:
        """Do what `debit` does, without blocking the event loop."""

    def settle(self, changes: Sequence[Change]) -> None:
        """Have admitted charges corrected; returns at once."""
