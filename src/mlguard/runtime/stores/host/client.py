"""How do a process's threads and operators ask the host's ledger?"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from mlguard.ledger import Change, Entry, Order, Receipt, StoreUnavailable
from mlguard.runtime.stores.host.links import Link, Place, Unsent
from mlguard.runtime.stores.host.wire import (
    MAX_CHANGES,
    Junk,
    read_receipt,
    write_changes,
    write_order,
)

_MOST_IDLE = 64


class Client:
    """Connections of one process to one ledger, one for each thread that asks at once.

    Args:
        place: Where it is, and who asks.
        timeout: The longest that a call takes, in seconds.
        on_absence: Called where it cannot be connected to.
    """

    def __init__(
        self, place: Place, timeout: float, on_absence: Callable[[], None] = lambda: None
    ) -> None:
        self._place = place
        self._timeout = timeout
        self._on_absence = on_absence
        self._idle: deque[Link] = deque()

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit."""
        return read_receipt(self._ask("debit", *write_order(order), write_changes(changes)))

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags."""
        deadline = time.monotonic() + self._timeout
        for start in range(0, len(changes) or 1, MAX_CHANGES):
            some = changes[start : start + MAX_CHANGES]
            self._ask("apply", write_changes(some), deadline=deadline)

    def complaint(self) -> str:
        """Say why lifetimes cannot be kept; "" where they can."""
        return str(self._ask("complaint"))

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used."""
        return [Entry(*entry) for entry in self._ask("entries", tag, account)]

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too."""
        self._ask("reset", tag, account, lifetime)

    def greet(self) -> str:
        """Connect, in any case; return the name of the service whose ledger that is."""
        link = Link(self._place, time.monotonic() + self._timeout)
        self._keep(link)
        return link.service

    def leave(self) -> None:
        """Say that the service's only worker ends, where anybody is told."""
        with contextlib.suppress(OSError, Junk, IndexError):
            link = self._idle.pop()
            self._idle.append(link)
            link.tell("bye")

    def close(self) -> None:
        """Let the connections go."""
        with contextlib.suppress(IndexError):
            while True:
                self._idle.pop().close()

    def _ask(self, what: str, *arguments: object, deadline: float | None = None) -> Any:
        if deadline is None:
            deadline = time.monotonic() + self._timeout
        while True:
            link, is_fresh = self._link(deadline)
            try:
                return link.ask(deadline, what, *arguments)
            except Unsent as error:
                if is_fresh:
                    unavailable(error)
            except (OSError, Junk) as error:
                link.is_whole &= isinstance(error, TimeoutError)
                unavailable(error)
            finally:
                if link.is_whole:
                    self._keep(link)
                else:
                    link.close()

    def _link(self, deadline: float) -> tuple[Link, bool]:
        try:
            return self._idle.pop(), False
        except IndexError:
            pass
        try:
            return Link(self._place, deadline), True
        except (OSError, Junk) as error:
            self._on_absence()
            unavailable(error)

    def _keep(self, link: Link) -> None:
        if len(self._idle) < _MOST_IDLE:
            self._idle.append(link)
        else:
            link.close()


def unavailable(error: Exception) -> NoReturn:
    """Raise it in the words of a store."""
    why = error.strerror or str(error) if isinstance(error, OSError) else str(error)
    raise StoreUnavailable(f"the host's ledger: {why}") from error
