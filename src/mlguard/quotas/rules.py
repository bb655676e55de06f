"""Which limits hold for whom?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_network

from mlguard.ledger import FLIGHT, LIFETIME, Limit
from mlguard.messages import Principal, claim
from mlguard.settings import Limits, Plan, Quotas, Rate

_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for a caller of one plan who asks one model.

    Attributes:
        own: The caller's limits.
        tenant: Limits that the tenant's callers share.
        largest: Units that a single call may ask at most, where a window says so.
    """

    own: tuple[Limit, ...]
    tenant: tuple[Limit, ...]
    largest: Mapping[str, int]


class Rules:
    """Find the limits that hold for a call.

    What stands for less goes before what stands for more: the plan's model, the plan, the model,
    everybody.

    Attributes:
        terms: Finds the terms of a plan, or None, and a model, or None.
        declared: Makes a route's limit one of the ledger.
        looks_at_claims: Whether a token's claims change anything.
        looks_at_scopes: Whether a token's scopes do.

    Args:
        settings: What the operator decided.
    """

    def __init__(self, settings: Quotas) -> None:
        self._settings = settings
        self._exempt = settings.exempt
        self.looks_at_claims = bool(settings.plans)
        self.looks_at_scopes = bool(settings.exempt.scopes)
        self.terms = lru_cache(_REMEMBERED)(self._terms)
        self.declared = lru_cache(_REMEMBERED)(self._declared)
        self._is_exempt_address = lru_cache(_REMEMBERED)(self._exempts_address)

    def plan(self, principal: Principal) -> str | None:
        """Tell which plan a caller's token names; None where it names none that there is."""
        plans = self._settings.plans
        if not plans:
            return None
        named = claim(principal.claims, self._settings.plan_claim)
        names = named if isinstance(named, list | tuple) else (named,)
        return next((n for n in names if isinstance(n, str) and n in plans), None)

    def exempts(self, principal: Principal) -> bool:
        """Say whether a caller is not counted."""
        if not principal.issuer:
            return bool(self._exempt.networks) and self._is_exempt_address(principal.subject)
        is_named = principal.subject in self._exempt.subjects
        return is_named or not principal.scopes.isdisjoint(self._exempt.scopes)

    def _exempts_address(self, address: str) -> bool:
        try:
            network = ip_network(address)
        except ValueError:  # the server does not say who the client is
            return False
        return any(
            network.version == exempt.version and network.subnet_of(exempt)  # type: ignore[arg-type]
            for exempt in self._exempt.networks
        )

    def _terms(self, plan: str | None, model: str | None) -> Terms:
        settings, tenant = self._settings, self._settings.tenant
        tables = [settings.plans[plan], settings] if plan else [settings]
        own = tuple(self._limits(tables, model, ""))
        shared = tuple(self._limits([tenant], model, "tenant-")) if tenant else ()
        largest: dict[str, int] = {}
        for limit in (*own, *shared):
            if limit.seconds:
                largest[limit.unit] = min(limit.amount, largest.get(limit.unit, limit.amount))
        return Terms(own, shared, largest)

    def _limits(self, plans: Sequence[Plan], model: str | None, prefix: str) -> Iterator[Limit]:
        """Write down every limit of one account."""
        chain = list(_chain(plans, model))
        table, whose = _first(chain, "requests")
        yield from self._windows("requests", table.requests or (), whose, prefix)
        table, whose = _first(chain, "concurrency")
        if table.concurrency:
            yield self._flight(table.concurrency, whose, prefix)
        if model is None:
            return
        table, _ = _first(chain, "rows")
        yield from self._windows("rows", table.rows or (), model, prefix)
        for unit in sorted({unit for table, _ in chain for unit in table.units}):
            rates = next(table.units[unit] for table, _ in chain if unit in table.units)
            yield from self._windows(unit, rates, model, prefix)
        table, _ = _first(chain, "lifetime")
        if table.lifetime:
            yield self._lifetime(table.lifetime, model, prefix)

    def _flight(self, amount: int, model: str, prefix: str) -> Limit:
        return Limit(
            f"concurrency:{model}",
            amount,
            kind=FLIGHT,
            unit="concurrency",
            model=model,
            name=f"{prefix}concurrency",
            on_failure=self._settings.failure("concurrency"),
        )

    def _lifetime(self, amount: int, model: str, prefix: str) -> Limit:
        return Limit(
            f"rows:{model}:lifetime",
            amount,
            kind=LIFETIME,
            unit="rows",
            model=model,
            name=f"{prefix}rows-lifetime",
            on_failure=self._settings.failure("lifetime"),
        )

    def _windows(
        self, unit: str, rates: Sequence[Rate], model: str, prefix: str
    ) -> Iterator[Limit]:
        failure = self._settings.failure(unit)
        for rate in rates:
            yield Limit(
                f"{unit}:{model}:{rate.seconds}",
                rate.limit,
                rate.seconds,
                unit=unit,
                model=model,
                name=f"{prefix}{unit}-{rate.seconds}",
                on_failure=failure,
            )

    def _declared(self, rate: Rate, bucket: str) -> Limit:
        return Limit(
            f"route:{bucket}:{rate.seconds}",
            rate.limit,
            rate.seconds,
            name=f"route-{rate.seconds}",
            on_failure=self._settings.failure("limits"),
        )


def _chain(plans: Sequence[Plan], model: str | None) -> Iterator[tuple[Limits, str]]:
    """List the tables that may say something, the narrowest first, each with its model or ""."""
    for plan in plans:
        if model is not None and model in plan.models:
            yield plan.models[model], model
        yield plan, ""


def _first(chain: Sequence[tuple[Limits, str]], key: str) -> tuple[Limits, str]:
    """Find the first table that names a key, else the last one."""
    return next((found for found in chain if getattr(found[0], key) is not None), chain[-1])
