"""May this call go on, and what is left then?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from mlguard import refusals
from mlguard.ledger import FLIGHT, Change, Ledger, Limit, Line, MemoryLedger, Order, Receipt
from mlguard.messages import Debit, Deny, Headers, Principal
from mlguard.quotas.callers import Accounts, Caller, Callers, PreparedDebit, accounts
from mlguard.quotas.cost import Cost, RouteLimit
from mlguard.quotas.refusing import in_its_words, refusal, too_large, withheld, worst
from mlguard.quotas.reservation import Reservation
from mlguard.quotas.rules import Rules
from mlguard.quotas.shapes import Part, Shape, headers, nothing_left, policy
from mlguard.quotas.spent import Delays, Spent
from mlguard.settings import Quotas

__all__ = ["Accounts", "Admission", "Quota", "accounts", "headers"]

Admission = Generator[Debit, Receipt | None, Reservation | Deny]
"""Yields the debit, is sent what became of it, returns what was charged or the refusal."""

AdmissionOfAll = Generator[Debit, Receipt | None, list[Reservation] | Deny]
"""The same, of several models: what each was charged."""

_ROWS = ("rows",)
_SHAPES = 4096
_NOTHING = Shape(())


class Quota:
    """Decide whether a principal may go on, and say in headers what is left.

    Attributes:
        rules: Which limits hold for whom.
        ledger: Where counts are kept.
        is_here: Whether that is in this process, so that nobody ever waits for it.

    Args:
        settings: What the operator decided.
        ledger: Where counts are kept.
        is_shared: Whether several processes count in the ledger, so that it must know what is in
            flight too.
        on_ended: Told of each window that ended how much of it was used.
        timer: A clock in seconds that runs forward.
    """

    def __init__(
        self,
        settings: Quotas,
        ledger: Ledger,
        *,
        is_shared: bool = False,
        on_ended: Callable[[Limit, float], None] = lambda *_: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rules = Rules(settings)
        self._is_shared = is_shared
        self._timer = timer
        self._on_ended = on_ended
        self._callers = Callers(self.rules)
        self._delays = Delays(timer)
        self._shape = lru_cache(_SHAPES)(self._make_shape)
        self._declaring = lru_cache(_SHAPES)(_declaring)
        self._flights = lru_cache(_SHAPES)(self._find_flights)
        self._policies = lru_cache(_SHAPES)(self._make_policies)
        self.count_in(ledger)

    def count_in(self, ledger: Ledger) -> None:
        """Keep the counts elsewhere: for tests, before the first call."""
        self.ledger = ledger
        self.is_here = isinstance(ledger, MemoryLedger)
        self._spent = Spent(ledger, self._timer)
        self._nothing = Reservation(ledger, Order("", ()), _NOTHING, Receipt((), 0.0))

    def caller(self, principal: Principal) -> Caller:
        """Find who is charged for what a principal asks, once for each request."""
        return self._callers.of(principal)

    def admit(self, caller: Caller, demand: Cost) -> Admission:
        """Charge everything that a call touches, or refuse it and charge nothing.

        Args:
            caller: Who pays.
            demand: What is asked.

        Raises:
            ValueError: An amount below zero.
        """
        asked = self._asked(caller, demand)
        if not isinstance(asked, PreparedDebit):
            return asked
        receipt = yield asked.debit
        return self._answer(asked, receipt, demand.limits)

    def admit_here(self, caller: Caller, demand: Cost) -> Reservation | Deny:
        """Do what `admit` does, at once: where the ledger is in this process, nobody waits."""
        asked = self._asked(caller, demand)
        if not isinstance(asked, PreparedDebit):
            return asked
        return self._answer(asked, self.ledger.debit(asked.debit.order), demand.limits)

    def admit_all(self, caller: Caller, demands: Sequence[Cost]) -> AdmissionOfAll:
        """Do what `admit` does for several models that one request asks: all of them, or none.

        What counts for all models, requests and those in flight, counts once.

        Args:
            caller: Who pays.
            demands: One for each model; what the route declares is asked by the last.
        """
        asked = [self._asked(caller, demand) for demand in demands]
        for each in asked:
            if isinstance(each, Deny):
                return each
        there = [each for each in asked if isinstance(each, PreparedDebit)]
        if not there:
            return [self._nothing for _ in demands]
        shares = _shares(there)
        whole = PreparedDebit(
            there[0].demand,
            Shape(part for parts, _ in shares for part in parts),
            Debit(
                self.ledger,
                Order(there[0].debit.order.tag, tuple(x for _, lines in shares for x in lines)),
            ),
        )
        receipt = yield whole.debit
        charged = self._answer(whole, receipt, demands[-1].limits)
        if isinstance(charged, Deny) or receipt is None:
            return charged if isinstance(charged, Deny) else refusals.store_unavailable()
        parts = iter(self._split(whole.debit.order.tag, shares, receipt))
        return [next(parts) if isinstance(e, PreparedDebit) else self._nothing for e in asked]

    def _split(
        self, tag: str, shares: Iterable[tuple[list[Part], list[Line]]], receipt: Receipt
    ) -> Iterator[Reservation]:
        """Make of what was charged together what each model was charged, to be settled alone."""
        readings = iter(receipt.readings)
        for parts, lines in shares:
            own = Receipt(tuple(next(readings) for _ in lines), receipt.at)
            yield Reservation(self.ledger, Order(tag, tuple(lines)), Shape(parts), own)

    def extend(self, caller: Caller, model: str | None, amounts: Mapping[str, int]) -> Admission:
        """Charge what an answer holds beyond what was reserved, all of it, or have it withheld.

        Args:
            caller: Who pays.
            model: The model that answered.
            amounts: Units beyond what was charged before; those that are not above zero count
                as none.
        """
        more = {unit: units for unit, units in amounts.items() if units > 0}
        if caller.is_exempt or not more:
            return self._nothing
        shape = self._shape(caller.plan, model, bool(caller.tenant), tuple(more), False, False)
        order = _order(caller, shape, more, ())
        if not order.lines:
            return self._nothing
        receipt = yield Debit(self.ledger, order)
        found = self._charged(shape, order, receipt)
        if not isinstance(found, Receipt):
            return found
        self._spent.learn(order.tag, order.lines, found.readings)
        return withheld(order.lines, found.readings, shape.headers(found.readings))

    def count_request(self, caller: Caller, model: str | None) -> None:
        """Count a request whose body was read and refused; waits for nobody."""
        if caller.is_exempt:
            return
        shape = self._shape(caller.plan, model, bool(caller.tenant), (), True, False)
        tag, lines = _order(caller, shape, {}, ())
        if lines:
            self.ledger.settle([Change(tag, a, limit, cost, 0.0) for a, limit, cost in lines])

    def spent(
        self, caller: Caller, model: str | None, *, reads_body: bool | None = None
    ) -> Deny | None:
        """Refuse a call of which it is known beforehand that one row of it would be refused.

        Looks into this process only: what another ledger said is believed for a second at most. Of
        what functions of the app count, and of what a route declares, nothing is known beforehand.

        Args:
            caller: Who would pay.
            model: The model; None where none is asked, or nobody can tell yet which.
            reads_body: Whether a body is to be read; None where it is if a model is named.
        """
        if reads_body is None:
            reads_body = model is not None
        if caller.is_exempt:
            return None
        if self._spent.has(caller):
            units = () if model is None else _ROWS
            shape = self._shape(caller.plan, model, bool(caller.tenant), units, True, False)
            found = self._spent.find(caller, shape.parts)
            if found is not None:
                return refusal(*found, (*self.policies(caller, model), nothing_left(*found)))
        wait = self._delays.left(caller.own) if reads_body else 0.0
        if not wait:
            return None
        return refusals.rate_exceeded(math.ceil(wait), self.policies(caller, model))

    def refused_after(self, caller: Caller, model: str | None, deny: Deny, seconds: float) -> None:
        """Take note that a body was read and then refused, so that `spent` refuses the next ones.

        They wait 20 times as long as it took, a minute at most: refusing a caller takes a
        twentieth of a core. Who cannot be told apart from others never waits, nor who is exempt,
        nor who was refused for what is not the caller's fault.

        Args:
            caller: Who sent it.
            model: The model that was asked.
            deny: The refusal.
            seconds: What it took to read and parse the body; below 5 ms nothing is noted.
        """
        is_somebody = any(caller.key)
        if model is not None and is_somebody and not caller.is_exempt and deny.status < 500:
            self._delays.add(caller.own, seconds)

    def flight_limits(self, caller: Caller, model: str | None) -> Iterator[tuple[Hashable, Limit]]:
        """List the limits of requests in flight that a call meets, each with whose it is."""
        if caller.is_exempt:
            return
        own, shared = self._flights(caller.plan, model)
        for limit in own:
            yield (*caller.key, limit.field), limit
        for limit in shared if caller.tenant else ():
            yield (*caller.key[:2], limit.field), limit

    def policies(self, caller: Caller, model: str | None) -> Headers:
        """Say which windows hold for a caller, without asking what is left of them."""
        if caller.is_exempt:
            return ()
        return self._policies(caller.plan, model, bool(caller.tenant))

    def nothing(self) -> Reservation:
        """Charge nothing."""
        return self._nothing

    def _asked(self, caller: Caller, demand: Cost) -> PreparedDebit | Reservation | Deny:
        """Tell what a call asks of the ledger; where it asks nothing, how that ends."""
        if caller.is_exempt:
            return self._nothing
        asked = caller.asked
        if asked is None or demand.limits or asked.demand != demand[:4]:
            found = self._ask(caller, demand)
            if isinstance(found, Deny):
                return found
            asked = found
        return asked if asked.shape.parts else self._nothing

    def _answer(
        self, asked: PreparedDebit, receipt: Receipt | None, limits: Sequence[RouteLimit]
    ) -> Reservation | Deny:
        """Tell what became of a call."""
        _, shape, debit = asked
        order = debit.order
        found = self._charged(shape, order, receipt)
        if not isinstance(found, Receipt):
            return found
        readings, own = found.readings, len(order.lines) - len(limits)
        self._spent.learn(order.tag, order.lines[:own], readings[:own])
        number = worst(readings)
        deny = refusal(shape.limits[number], readings[number], shape.headers(readings))
        return in_its_words(deny, limits, number - len(order.lines))

    def _charged(
        self, shape: Shape, order: Order, receipt: Receipt | None
    ) -> Reservation | Deny | Receipt:
        """Tell what was charged; the receipt itself, where that refuses."""
        if receipt is None:
            return refusals.store_unavailable()
        for number, share in receipt.ended:
            self._on_ended(shape.limits[number], share)
        return Reservation(self.ledger, order, shape, receipt) if receipt.is_admitted else receipt

    def _ask(self, caller: Caller, demand: Cost) -> PreparedDebit | Deny:
        """Write down what a call asks of the ledger, or refuse what no window would admit."""
        model, amounts, is_request, flies, limits = demand
        asked = (model, dict(amounts), is_request, flies)
        shape = self._shape(
            caller.plan, model, bool(caller.tenant), tuple(amounts), is_request, flies
        )
        declared = [self.rules.declared(limit.rate, limit.bucket) for limit in limits]
        if declared:
            shape = self._declaring(shape, tuple(declared))
        order = _order(caller, shape, amounts, limits)
        for number, (_, limit, cost) in enumerate(order.lines):
            if limit.seconds and cost > limit.amount:
                deny = too_large(limit, self.rules.terms(caller.plan, model))
                return in_its_words(deny, limits, number - len(order.lines))
        found = PreparedDebit(asked, shape, Debit(self.ledger, order))
        if not limits:
            caller.asked = found
        return found

    def _make_shape(
        self,
        plan: str | None,
        model: str | None,
        has_tenant: bool,
        units: tuple[str, ...],
        is_request: bool,
        flies: bool,
    ) -> Shape:
        def part(limit: Limit, is_shared: bool) -> Part | None:
            """Tell how a limit is about such calls, None where it is not."""
            if limit.kind == FLIGHT:
                is_met = is_request and flies and self._is_shared
                return Part(limit, is_shared, "") if is_met else None
            if limit.unit == "requests":
                return Part(limit, is_shared, "") if is_request else None
            return Part(limit, is_shared, limit.unit) if limit.unit in units else None

        terms = self.rules.terms(plan, model)
        own = [part(limit, False) for limit in terms.own]
        shared = [part(limit, True) for limit in terms.tenant] if has_tenant else []
        return Shape(found for found in (*own, *shared) if found)

    def _find_flights(
        self, plan: str | None, model: str | None
    ) -> tuple[tuple[Limit, ...], tuple[Limit, ...]]:
        terms = self.rules.terms(plan, model)
        own, shared = (
            tuple(x for x in limits if x.kind == FLIGHT) for limits in (terms.own, terms.tenant)
        )
        return own, shared

    def _make_policies(self, plan: str | None, model: str | None, has_tenant: bool) -> Headers:
        terms = self.rules.terms(plan, model)
        limits = (*terms.own, *(terms.tenant if has_tenant else ()))
        return headers({x.name: (policy(x), "") for x in limits if x.kind != FLIGHT})


def _shares(asked: Iterable[PreparedDebit]) -> list[tuple[list[Part], list[Line]]]:
    """Tell what each of several debits touches that none before it does."""
    seen: set[tuple[str, str]] = set()
    found = []
    for _, shape, debit in asked:
        pairs = [
            (part, line)
            for part, line in zip(shape.parts, debit.order.lines, strict=True)
            if (line.account, line.limit.field) not in seen
        ]
        seen.update((line.account, line.limit.field) for _, line in pairs)
        found.append(([part for part, _ in pairs], [line for _, line in pairs]))
    return found


def _declaring(shape: Shape, limits: tuple[Limit, ...]) -> Shape:
    """Add what a route declares, for which a call says itself what it costs."""
    return Shape((*shape.parts, *(Part(limit, False, "") for limit in limits)))


def _order(
    caller: Caller, shape: Shape, amounts: Mapping[str, int], limits: Sequence[RouteLimit]
) -> Order:
    """Write down what a call costs; what its route declares is last.

    Raises:
        ValueError: An amount below zero.
    """
    place = caller.accounts
    lines = [
        Line(place.tenant if is_shared else place.own, limit, amounts[unit] if unit else 1)
        for limit, is_shared, unit in shape.parts
    ]
    for number, declared in enumerate(limits, len(lines) - len(limits)):
        lines[number] = lines[number]._replace(cost=declared.cost)
    for _, limit, cost in lines:
        if cost < 0:
            raise ValueError(f"{cost} {limit.unit}: must not be below zero")
    return Order(place.tag, tuple(lines))
