"""What must a store be able to do that several processes count in?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from mlguard.ledger import Change, Entry, Order, Receipt


class Store(Protocol):
    """Counts for several processes; safe to share between threads, and to use after a fork.

    Each method raises `StoreUnavailable`, in plain words and without a secret, where the store does
    not answer as it should within its timeout; what it raised for never happens later.
    """

    def start(self) -> None:
        """Get ready, once in each process; blocks for a moment."""

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether the store is there.

        Raises:
            ChangesUnmade: Where it can tell which of them were not made; else none counts as made.
        """

    def complaint(self, *, lifetime: bool) -> str | None:
        """Say what makes the store unfit; blocks.

        Args:
            lifetime: Whether something is counted that must never be forgotten.
        """

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used; blocks."""

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""

    def close(self) -> None:
        """Let the connections go."""


@runtime_checkable
class Sharded(Store, Protocol):
    """A store of several parts, of which one may be away while the others are not."""

    def shard(self, tag: str) -> str:
        """Name the part that a tag is counted in."""

    def probe(self, tag: str) -> None:
        """Do what a debit of a tag does, but charge nothing; blocks."""

    def give_back(self) -> None:
        """Give back what is paid for beforehand and not used; blocks, and fails silently."""
