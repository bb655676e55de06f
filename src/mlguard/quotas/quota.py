"""May this call go on, and what is left then?"""

from __future__ import annotations

import hashlib
import json
import math
from base64 import urlsafe_b64encode
from collections.abc import Callable, Generator, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from mlguard import refusals
from mlguard.ledger import FLIGHT, LIFETIME, Ledger, Limit, Line, Order, Reading, Receipt
from mlguard.messages import Debit, Deny, Headers, Principal
from mlguard.quotas.charged import Charged, Left, policy
from mlguard.quotas.demand import Demand, RouteLimit
from mlguard.quotas.rules import Rules, Terms
from mlguard.settings import Quotas

Admission = Generator[Debit, Receipt | None, Charged | Deny]
"""Yields the debit, is sent what became of it, returns what was charged or the refusal."""

OWN = "p"
TENANT = "t"
_REMEMBERED = 10_000  # callers


class Accounts(NamedTuple):
    """Where a caller's use is counted.

    Attributes:
        tag: What the accounts have in common: the tenant where there is one, else the caller.
        own: The caller's account.
        tenant: The tenant's account, "" where there is none.
    """

    tag: str
    own: str
    tenant: str


class Quota:
    """Decide whether a principal may go on, and say in headers what is left.

    Args:
        settings: What the operator decided.
        ledger: Where counts are kept.
        is_shared: Whether several processes count in the ledger, so that it must know what is in
            flight too.
        on_ended: Told of each window that ended how much of it was used.
    """

    def __init__(
        self,
        settings: Quotas,
        ledger: Ledger,
        *,
        is_shared: bool = False,
        on_ended: Callable[[Limit, float], None] = lambda *_: None,
    ) -> None:
        self.rules = Rules(settings)
        self.ledger = ledger
        self._is_shared = is_shared
        self._on_ended = on_ended
        self._accounts = lru_cache(_REMEMBERED)(accounts)

    def terms(self, principal: Principal, model: str | None) -> Terms | None:
        """Find what holds for a caller who asks a model; None where the caller is not counted."""
        if self.rules.exempts(principal):
            return None
        return self.rules.terms(self.rules.plan(principal), model)

    def admit(self, principal: Principal, demand: Demand) -> Admission:
        """Charge everything that a call touches, or refuse it and charge nothing.

        Args:
            principal: Who pays.
            demand: What is asked.

        Raises:
            ValueError: An amount below zero.
        """
        terms = self.terms(principal, demand.model)
        if terms is None:
            return self.nothing()
        place = self._accounts(principal.key)
        lines = tuple(self._lines(terms, place, demand))
        for number, (_, limit, cost) in enumerate(lines):
            if limit.seconds and cost > limit.amount:
                deny = _too_large(limit, terms)
                return _in_its_words(deny, demand.limits, number - len(lines))
        if not lines:
            return self.nothing()
        order = Order(place.tag, lines)
        receipt = yield Debit(self.ledger, order)
        if receipt is None:
            return refusals.store_unavailable()
        for number, share in receipt.ended:
            self._on_ended(lines[number].limit, share)
        left = _left(lines, receipt.readings)
        if receipt.is_admitted:
            return Charged(self.ledger, order, receipt.at, left)
        deny, worst = _refusal(lines, receipt.readings, headers(left))
        return _in_its_words(deny, demand.limits, worst - len(lines))

    def berths(self, principal: Principal, model: str | None) -> Iterator[tuple[Hashable, Limit]]:
        """List the limits of requests in flight that a call meets, each with whose it is."""
        terms = self.terms(principal, model)
        issuer, tenant, _ = principal.key
        for limit in terms.own if terms else ():
            if limit.kind == FLIGHT:
                yield (*principal.key, limit.field), limit
        for limit in terms.tenant if terms and tenant else ():
            if limit.kind == FLIGHT:
                yield (issuer, tenant, limit.field), limit

    def policies(self, principal: Principal, model: str | None) -> Headers:
        """Say which windows hold for a caller, without asking what is left of them."""
        terms = self.terms(principal, model)
        limits = (*terms.own, *(terms.tenant if principal.tenant else ())) if terms else ()
        return headers({x.name: (policy(x), "") for x in limits if x.kind != FLIGHT})

    def nothing(self) -> Charged:
        """Charge nothing."""
        return Charged(self.ledger, Order("", ()), 0.0, {})

    def _lines(self, terms: Terms, place: Accounts, demand: Demand) -> Iterator[Line]:
        for limit in terms.own:
            if (cost := self._cost(limit, demand)) is not None:
                yield Line(place.own, limit, cost)
        if place.tenant:
            for limit in terms.tenant:
                if (cost := self._cost(limit, demand)) is not None:
                    yield Line(place.tenant, limit, cost)
        for declared in demand.limits:
            limit = self.rules.declared(declared.rate, declared.bucket)
            yield Line(place.own, limit, declared.cost)

    def _cost(self, limit: Limit, demand: Demand) -> int | None:
        """Tell what a call costs, None where the limit is not about it."""
        if limit.kind == FLIGHT:
            return 1 if demand.is_request and demand.flies and self._is_shared else None
        if limit.unit == "requests":
            return 1 if demand.is_request else None
        amount = demand.amounts.get(limit.unit)
        if amount is not None and amount < 0:
            raise ValueError(f"{amount} {limit.unit}: must not be below zero")
        return amount


@lru_cache(_REMEMBERED)
def _digest(*key: str) -> str:
    """Name somebody in 22 characters of base64url, however long and odd the real name is."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return urlsafe_b64encode(digest)[:22].decode()


def accounts(key: tuple[str, str, str]) -> Accounts:
    """Tell where a principal is counted.

    Args:
        key: The principal's: issuer, tenant or "", and subject.
    """
    issuer, tenant, _ = key
    if not tenant:
        return Accounts(_digest(*key), OWN, "")
    return Accounts(_digest(issuer, tenant), OWN + _digest(*key), TENANT)


def headers(left: Left) -> Headers:
    """Write draft-ietf-httpapi-ratelimit-headers: what the policy is and what is left of it."""
    if not left:
        return ()
    policies = ", ".join(written for written, _ in left.values())
    rests = ", ".join(f'"{name}";{rest}' for name, (_, rest) in left.items() if rest)
    found = (("RateLimit-Policy", policies),)
    return (*found, ("RateLimit", rests)) if rests else found


def _left(lines: tuple[Line, ...], readings: tuple[Reading, ...]) -> Left:
    left: dict[str, tuple[str, str]] = {}
    for (_, limit, _), reading in zip(lines, readings, strict=True):
        if limit.kind == LIFETIME:
            left[limit.name] = policy(limit), f"r={reading.remaining}"
        elif limit.kind != FLIGHT:
            rest = f"r={reading.remaining};t={math.ceil(reading.reset)}"
            left[limit.name] = policy(limit), rest
    return left


def _too_large(limit: Limit, terms: Terms) -> Deny:
    largest = min(limit.amount, terms.largest.get(limit.unit, limit.amount))
    policies = {limit.name: (policy(limit), "")}
    return refusals.batch_exceeds_quota(limit.unit, largest, headers(policies))


def _refusal(
    lines: tuple[Line, ...], readings: tuple[Reading, ...], headers: Headers
) -> tuple[Deny, int]:
    """Say what does not fit, and which line: what never will first, else what takes longest."""
    worst = max(range(len(lines)), key=lambda n: readings[n].wait)
    limit, wait = lines[worst].limit, readings[worst].wait
    if math.isinf(wait):
        return refusals.quota_lifetime_spent(readings[worst].remaining, headers), worst
    retry_after = max(1, math.ceil(wait))
    if limit.kind == FLIGHT:
        return refusals.too_many_in_flight(retry_after, headers), worst
    if limit.unit == "requests":
        return refusals.rate_exceeded(retry_after, headers), worst
    return refusals.quota_exceeded(limit.unit, retry_after, headers), worst


def _in_its_words(deny: Deny, limits: Sequence[RouteLimit], number: int) -> Deny:
    """Say it as the route that declares the limit wants it said.

    Args:
        deny: The refusal.
        limits: What the route declares; their lines are the last.
        number: The line that did not fit, counted from the end, below zero.
    """
    message = limits[number].message if -number <= len(limits) else None
    if message is None:
        return deny
    return replace(deny, title=str(message() if callable(message) else message))
