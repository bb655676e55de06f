"""How much may be asked, of what, by whom?"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, StrictInt, field_serializer, model_validator

from mlguard.settings.values import (
    ModelName,
    Name,
    Network,
    QuotaStore,
    Rate,
    RateOrOff,
    RateText,
    RouteText,
    Scope,
    Table,
    Text,
    contradiction,
    spelt,
)
from mlguard.urls import redacted_url

Failure: TypeAlias = Literal["local", "open", "closed"]
Rates: TypeAlias = tuple[RateText, ...]
Unit = Annotated[
    str,
    spelt(
        "[a-z][a-z0-9_]{0,31}",
        'a name of at most 32 small letters, digits and "_", which begins with a letter',
    ),
]
Count = Annotated[StrictInt, Field(ge=1, le=2**53)]

COUNTED = ("requests", "rows", "lifetime", "concurrency", "limits")
"""What may be without the store in another way than the rest; units may be too."""

DEFAULT = "default"


def _failures(value: object) -> object:
    """Take one word for all quotas, or one for each."""
    return {DEFAULT: value} if isinstance(value, str) else value


Failures = Annotated[dict[str, Failure], BeforeValidator(_failures)]


class Limits(Table):
    """Windows and budgets; one that is not named is as without this table.

    Attributes:
        requests: Windows of requests.
        rows: Windows of predicted rows of each model; a batch of 1000 is 1000.
        units: Windows of other things that a function of the app counts, of each model.
        lifetime: Predicted rows of each model that are ever admitted.
        concurrency: Requests in flight.
    """

    requests: Rates | None = None
    rows: Rates | None = None
    units: dict[Unit, Rates] = Field(default={})
    lifetime: Count | None = None
    concurrency: Count | None = None

    @model_validator(mode="after")
    def _differ(self) -> Limits:
        """Two windows of one length are one counter."""
        windows = {"requests": self.requests, "rows": self.rows}
        windows |= {f"units.{unit}": rates for unit, rates in self.units.items()}
        for key, rates in windows.items():
            lengths = [rate.seconds for rate in rates or ()]
            if len(set(lengths)) < len(lengths):
                raise contradiction(f"has two windows of one length in `{key}`: keep the smaller")
        reserved = set(self.units) & {*COUNTED, DEFAULT}
        if reserved:
            raise contradiction(f"has a unit that means something else: {min(reserved)!r}")
        return self

    @property
    def limits_anything(self) -> bool:
        """Whether anything stands in it."""
        windows = self.requests or self.rows or any(self.units.values())
        return bool(windows or self.lifetime or self.concurrency)


class ModelLimits(Limits):
    """What holds for one model in place of what holds for every model.

    What a model's table names is counted for that model alone; requests and concurrency too.
    """


class Plan(Limits):
    """What holds for callers of a plan in place of what holds for everybody.

    Attributes:
        models: What holds for single models, by name: tables with the keys above.
    """

    models: dict[ModelName, ModelLimits] = Field(default={})


class Exempt(Table):
    """Who and what is not counted.

    Attributes:
        subjects: Callers, by the name that any issuer vouches for.
        scopes: What a caller was granted: one of them will do.
        networks: Clients' addresses, where nobody is authenticated.
        routes: Routes, as the framework spells them; "/ui/*" is all below /ui.
    """

    subjects: tuple[Text, ...] = ()
    scopes: tuple[Scope, ...] = ()
    networks: tuple[Network, ...] = ()
    routes: tuple[RouteText, ...] = ()


class Quotas(Plan):
    """How much a caller may ask.

    Attributes:
        store: Where counts are kept: memory:// is one process, host:// all workers of a host,
            redis:// and its kin all hosts. A folder behind host:// keeps lifetimes.
        prefix: Begins each key in Redis.
        store_timeout: Seconds for which a request waits for the store at most.
        lease: Units of a counter that a worker pays for beforehand at most, where somebody comes
            again and again, so that not each request asks the Redis; 0 never does.
        on_store_failure: Without the store: "local" counts in each worker, "open" does not count,
            "closed" answers 503; one word for all, or a table with one for each.
        local_share: Of each limit, what one worker may admit meanwhile where that is local.
        max_in_flight: Requests in flight in one worker, whoever sent them.
        unmatched_per_client: Requests of an address that match no route; "off" where any number
            may.
        plan_claim: The claim of a token that names its plan.
        plans: What holds for callers of a plan in place of what holds for everybody, by its name:
            tables with `requests`, `rows`, `units`, `lifetime`, `concurrency` and `models`.
        tenant: What all callers of a tenant may ask together: a table with the same keys.
        exempt: Who and what is not counted.
    """

    store: QuotaStore = Field(default="memory://", repr=False)
    prefix: Annotated[
        str, spelt("[A-Za-z0-9._:-]{1,64}", 'at most 64 letters, digits and ". _ : -"')
    ] = "mlguard"
    store_timeout: Annotated[float, Field(gt=0, le=5)] = 0.1
    lease: Annotated[StrictInt, Field(ge=0, le=1_000_000)] = 0
    on_store_failure: Failures = Field(default={DEFAULT: "local"})
    local_share: Annotated[float, Field(gt=0, le=1)] = 0.25
    max_in_flight: Count | None = None
    unmatched_per_client: RateOrOff = Rate(text="300/minute", limit=300, seconds=60)
    plan_claim: Text = "plan"
    plans: dict[Name, Plan] = Field(default={})
    tenant: Plan | None = None
    exempt: Exempt = Exempt()

    @model_validator(mode="after")
    def _agree(self) -> Quotas:
        tables = dict(self.tables())
        if not any(table.limits_anything for table in tables.values()) and not self.max_in_flight:
            raise contradiction("must limit something: `requests` or `rows`")
        lasting = next((place for place, table in tables.items() if table.lifetime), None)
        if lasting is not None and self.store in ("memory://", "host://"):
            place = f"{lasting}.lifetime" if lasting else "lifetime"
            raise contradiction(
                f"has `{place}`, which {self.store} would forget: set `store` to a Redis, or to "
                "host:///var/lib/… with a folder that outlives reboots",
            )
        if self.lease and not self.store.startswith("redis"):
            raise contradiction(
                "has `lease`, which is about a Redis: remove it, or set `store` to one",
            )
        known = {*COUNTED, *(unit for table in tables.values() for unit in table.units), DEFAULT}
        if strange := set(self.on_store_failure) - known:
            raise contradiction(
                f"has {min(strange)!r} in `on_store_failure`; valid: {', '.join(sorted(known))}",
            )
        return self

    @field_serializer("store")
    def _without_password(self, store: str) -> str:
        return redacted_url(store)

    def tables(self) -> Iterator[tuple[str, Limits]]:
        """List every table of limits, by its place below this one."""
        yield "", self
        yield from _models("", self)
        for name, plan in self.plans.items():
            yield f"plans.{name}", plan
            yield from _models(f"plans.{name}.", plan)
        if self.tenant:
            yield "tenant", self.tenant
            yield from _models("tenant.", self.tenant)

    @property
    def has_lifetime(self) -> bool:
        """Whether something is counted that must never be forgotten."""
        return any(table.lifetime for _, table in self.tables())

    @property
    def all_units(self) -> frozenset[str]:
        """What functions of the app count."""
        return frozenset(unit for _, table in self.tables() for unit in table.units)

    @property
    def folder(self) -> Path | None:
        """The folder behind host://, where there is one."""
        path = self.store.removeprefix("host://")
        return Path(path) if self.store.startswith("host:///") else None

    def failure(self, quota: str) -> str:
        """Say how one quota goes on without the store."""
        return self.on_store_failure.get(quota) or self.on_store_failure.get(DEFAULT, "local")


def _models(prefix: str, plan: Plan) -> Iterator[tuple[str, Limits]]:
    for name, table in plan.models.items():
        yield f"{prefix}models.{name}", table


def misnamed(quotas: Quotas, models: Collection[str]) -> str | None:
    """Find a model's table whose model there is not."""
    for place, _ in quotas.tables():
        head, _, name = place.rpartition("models.")
        if place and (head or place.startswith("models.")) and name not in models:
            return place
    return None
