"""What stands between the world and each route of an app?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlguard.guard.routes import Route
from mlguard.ledger import FLIGHT, LIFETIME, Limit
from mlguard.quotas import Rules
from mlguard.settings import Quotas, Settings

Quoted = tuple[str, tuple[str, ...]]
"""Who is meant, and what they may ask: "" are all, "plan gold" and "tenant" some."""

_UNITS = (
    ("year", 31_104_000),
    ("month", 2_592_000),
    ("day", 86_400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)
"""As `limits` counts them, in seconds: a month has 30 days, a year 12 months."""

_UNGUARDED = "is not guarded: mount it before MLGuard(app, ...), or give it an MLGuard of its own"


@dataclass(frozen=True, slots=True)
class Covered:
    """What covers one route.

    Attributes:
        route: The route.
        model: The model that the settings place there, None where they place none.
        scopes: What a token must grant, by the settings and the handler.
        is_public: Whether no token is needed.
        quotas: What may be asked: by everybody, by plans where they differ, and by a tenant's
            callers together.
        gap: Why nothing stands before it, and what to do; None where a token or a quota does.
    """

    route: Route
    model: str | None
    scopes: frozenset[str]
    is_public: bool
    quotas: tuple[Quoted, ...]
    gap: str | None

    @property
    def asked(self) -> str:
        """How it is asked: its methods, without the HEAD that comes with each GET."""
        if self.route.is_websocket:
            return "WEBSOCKET"
        methods = [m for m in self.route.methods if m != "HEAD" or "GET" not in self.route.methods]
        return ",".join(methods) or "any"

    @property
    def access(self) -> str:
        """Who may ask it."""
        if not self.route.is_guarded:
            return "unguarded"
        if self.scopes:
            return f"scopes {' '.join(sorted(self.scopes))}"
        return "public" if self.is_public else "token"

    @property
    def sentences(self) -> list[str]:
        """What each of its quotas says."""
        return [f"{whose}: {', '.join(t)}" if whose else ", ".join(t) for whose, t in self.quotas]


def coverage(settings: Settings, routes: Iterable[Route]) -> list[Covered]:
    """Tell what covers each route.

    Args:
        settings: What the operator decided.
        routes: Those of the app.
    """
    rules = Rules(settings.quotas or Quotas.model_construct())
    return [_covered(settings, rules, route) for route in routes]


def describe(settings: Settings, routes: Iterable[Route]) -> list[str]:
    """Tell what covers each route, one line for each: for the log.

    Args:
        settings: What the operator decided.
        routes: Those of the app.
    """
    return [_line(covered) for covered in coverage(settings, routes)]


def rate(amount: int, seconds: int) -> str:
    """Write a window as people do: 10000/hour."""
    unit, size = next((u, s) for u, s in _UNITS if seconds % s == 0)
    count = seconds // size
    return f"{amount}/{unit}" if count == 1 else f"{amount} per {count} {unit}s"


def said(limit: Limit) -> str:
    """Say what a limit is: 10000/hour rows of iris."""
    of_model = f" of {limit.model}" if limit.model else ""
    if limit.kind == FLIGHT:
        return f"{limit.amount} requests{of_model} in flight"
    if limit.kind == LIFETIME:
        return f"{limit.amount} {limit.unit}{of_model} ever"
    return f"{rate(limit.amount, limit.seconds)} {limit.unit}{of_model}"


def _line(covered: Covered) -> str:
    model = [f"model {covered.model}"] if covered.model else []
    gap = [f"nothing covers it: it {covered.gap}"] if covered.gap else []
    told = "; ".join([covered.access, *covered.sentences, *model, *gap])
    return f"{covered.asked} {covered.route.template}: {told}"


def _covered(settings: Settings, rules: Rules, route: Route) -> Covered:
    auth = settings.auth
    model = next((m for m in settings.models if m.route == route.template), None)
    scopes = route.scopes | frozenset(model.scopes if model else ())
    is_public = not scopes and (auth is None or route.template in auth.public)
    if not route.is_guarded:
        return Covered(route, None, frozenset(), is_public=True, quotas=(), gap=_UNGUARDED)
    if auth and not is_public:
        scopes |= frozenset(auth.scopes)
    name = model.name if model else None
    quotas = tuple(_quotas(settings, rules, route, name, is_public=is_public))
    gap = _gap(settings, route) if is_public and not quotas else None
    return Covered(route, name, scopes, is_public, quotas, gap)


def _quotas(
    settings: Settings, rules: Rules, route: Route, model: str | None, *, is_public: bool
) -> Iterator[Quoted]:
    """Say what is charged for a request of a route."""
    quotas = settings.quotas or Quotas.model_construct()
    if route.template in quotas.exempt.routes:
        return
    terms = rules.terms(None, model)
    declared = tuple(f"{text} declared" for text in route.limits)
    own = terms.own
    if is_public and settings.auth and model is None:  # such a request is not counted itself
        own = tuple(limit for limit in terms.own if limit.kind == FLIGHT) if declared else ()
    if own or declared:
        yield "", (*map(said, own), *declared)
    if is_public:
        return
    for plan in quotas.plans:
        differing = rules.terms(plan, model).own
        if differing != own:
            yield f"plan {plan}", (*map(said, differing), *declared)
    if terms.tenant:
        yield "tenant", tuple(map(said, terms.tenant))


def _gap(settings: Settings, route: Route) -> str:
    if settings.quotas and route.template in settings.quotas.exempt.routes:
        return "needs no token, and `quotas.exempt.routes` names it"
    if settings.auth is None and settings.quotas is None:
        return "needs no token and has no quota: add the table [auth] or [quotas]"
    if settings.auth is None:
        return "needs no token, and no quota counts it: set `quotas.requests`"
    return (
        "needs no token and has no quota: take it out of `auth.public`, "
        'or declare one with @guard.limit("60/minute")'
    )
