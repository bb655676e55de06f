"""What does one request pay, and what does it hold while it lasts?"""

from __future__ import annotations

from collections.abc import Hashable

from mlguard import refusals
from mlguard.guard.parts import Parts
from mlguard.messages import Deny, Headers, Principal
from mlguard.quotas import Admission, Charged, Demand, headers


class Fare:
    """The debits of one request, and its place among those in flight.

    Attributes:
        is_counted: Whether it pays at all: an exempt route does not.
        limited: Which declared limits were charged.
    """

    __slots__ = (
        "_berths",
        "_has_landed",
        "_is_aboard",
        "_left",
        "_parts",
        "_tickets",
        "is_counted",
        "limited",
    )

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._tickets: list[Charged] = []
        self._left: dict[str, tuple[str, str]] = {}
        self._berths: list[Hashable] = []
        self._is_aboard = False
        self._has_landed = False
        self.is_counted = True
        self.limited: set[object] = set()

    def board(self, payer: Principal, model: str | None, *, is_public: bool) -> Deny | None:
        """Take a place among the requests in flight in this process, once: all, and the payer's.

        Anybody can send to a public route, and so fill what the others need: it takes none of all.
        """
        flights = self._parts.flights
        if not self.is_counted or self._has_landed:
            return None
        if not is_public and not self._is_aboard:
            if not flights.begin():
                return self.refused(model or "", refusals.overloaded())
            self._is_aboard = True
        for whose, limit in self._parts.quota.berths(payer, model):
            if whose in self._berths:
                continue
            if not flights.take(whose, limit.amount):
                return self.refused(model or "", refusals.too_many_in_flight())
            self._berths.append(whose)
        return None

    def charge(self, payer: Principal, demand: Demand) -> Admission:
        """Debit what a call costs, all or nothing; keeps the headers for the answer."""
        quota = self._parts.quota
        if not self.is_counted:
            return quota.nothing()
        charged = yield from quota.admit(payer, demand)
        if isinstance(charged, Deny):
            return self.refused(demand.model or "", charged)
        self.limited.update(limit.key for limit in demand.limits)
        self._left.update(charged.left)
        return charged

    def keep(self, ticket: Charged) -> None:
        """Take note of what holds until the request ends."""
        self._tickets.append(ticket)

    @property
    def has_paid(self) -> bool:
        """Whether the request itself was charged already: it is dispatched once more."""
        return bool(self._tickets)

    def refused(self, model: str, deny: Deny) -> Deny:
        """Count a refusal."""
        self._parts.metrics.refused(model, deny.code)
        return deny

    def land(self) -> None:
        """Be in flight no longer; more calls do nothing."""
        if self._has_landed:
            return
        self._has_landed = True
        if self._is_aboard:
            self._parts.flights.end()
        for whose in self._berths:
            self._parts.flights.give(whose)
        for ticket in self._tickets:
            ticket.land()

    @property
    def headers(self) -> Headers:
        """What an admitted answer says of the quota."""
        return headers(self._left)

    def policies(self, payer: Principal, model: str | None) -> Headers:
        """What a refusal says of it that no quota is about."""
        return self._parts.quota.policies(payer, model) if self.is_counted else ()
