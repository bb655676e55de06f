"""What was one request charged, and what does it hold while it lasts?"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

from mlguard import refusals
from mlguard.messages import Deny, Headers
from mlguard.quotas import Admission, AdmissionOfAll, Caller, Cost, Reservation, headers_of

if TYPE_CHECKING:
    from mlguard.guard.parts import Parts


class Charges:
    """The debits of one request, and its place among those in flight.

    Attributes:
        is_counted: Whether it pays at all: an exempt route does not.
        has_paid: Whether the request itself was charged already: it is dispatched once more.
        limited: Which declared limits were charged.
        observes: Whether nothing is refused, only told.
    """

    __slots__ = (
        "_charged",
        "_has_place",
        "_is_released",
        "_parts",
        "_places",
        "has_paid",
        "is_counted",
        "limited",
        "observes",
    )

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._charged: list[Reservation] = []
        self._places: list[Hashable] = []
        self._has_place = self._is_released = self.has_paid = False
        self.is_counted = True
        self.observes = False
        self.limited: set[object] = set()

    def acquire(self, payer: Caller, model: str | None, *, is_public: bool) -> Deny | None:
        """Take a place among the requests in flight in this process, once: all, and the payer's.

        Anybody can send to a public route, and so fill what the others need: it takes none of all.
        """
        in_flight = self._parts.in_flight
        if not self.is_counted or self._is_released:
            return None
        if not is_public and not self._has_place:
            if not in_flight.acquire():
                return self.refused(model or "", refusals.overloaded())
            self._has_place = True
        for whose, limit in self._parts.quota.flight_limits(payer, model):
            if whose in self._places:
                continue
            if not in_flight.acquire_of(whose, limit.amount):
                return self.refused(model or "", refusals.too_many_in_flight())
            self._places.append(whose)
        return None

    def charge_here(self, payer: Caller, demand: Cost) -> Reservation | Deny | None:
        """Debit what a call costs, all or nothing; None where somebody waits for the ledger."""
        quota = self._parts.quota
        if not self.is_counted:
            return quota.nothing()
        return self._keep(demand, quota.admit_here(payer, demand)) if quota.is_here else None

    def charge(self, payer: Caller, demand: Cost) -> Admission:
        """Debit it wherever the ledger is."""
        here = self.charge_here(payer, demand)
        if here is not None:
            return here
        charged = yield from self._parts.quota.admit(payer, demand)
        return self._keep(demand, charged)

    def charge_all(self, payer: Caller, demands: Sequence[Cost]) -> AdmissionOfAll:
        """Debit what one request asks of several models, all or nothing."""
        quota = self._parts.quota
        if not self.is_counted:
            return [quota.nothing() for _ in demands]
        charged = yield from quota.admit_all(payer, demands)
        if isinstance(charged, Deny):
            return charged
        for demand, each in zip(demands, charged, strict=True):
            self._keep(demand, each)
        return charged

    def extend(self, payer: Caller, model: str, amounts: dict[str, int]) -> Admission:
        """Debit what an answer holds beyond what was reserved, all or nothing."""
        if not self.is_counted:
            return self._parts.quota.nothing()
        charged = yield from self._parts.quota.extend(payer, model, amounts)
        return self._keep(Cost(model), charged)

    def _keep(self, demand: Cost, charged: Reservation | Deny) -> Reservation | Deny:
        """Take note of what was charged."""
        if isinstance(charged, Deny):
            return charged
        if demand.limits:
            self.limited.update(limit.key for limit in demand.limits)
        self._charged.append(charged)
        if self._is_released:  # it has ended before it was decided
            charged.release()
        return charged

    def refused(self, model: str, deny: Deny) -> Deny:
        """Count a refusal."""
        if not self.observes:
            self._parts.metrics.refused(model, deny.code)
        return deny

    def release(self) -> None:
        """Be in flight no longer; more calls do nothing."""
        if self._is_released:
            return
        self._is_released = True
        if self._has_place:
            self._parts.in_flight.release()
        for whose in self._places:
            self._parts.in_flight.release_of(whose)
        for charged in self._charged:
            charged.release()

    @property
    def headers(self) -> Headers:
        """What an admitted answer says of the quota."""
        charged = self._charged
        return charged[0].headers if len(charged) == 1 else headers_of(charged)

    def policies(self, payer: Caller, model: str | None) -> Headers:
        """What a refusal says of it that no quota is about."""
        return self._parts.quota.policies(payer, model) if self.is_counted else ()
