"""What stands between the world and each route of an app?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from mlguard.ledger import FLIGHT, LIFETIME, Limit
from mlguard.quotas import Rules
from mlguard.routes.oversights import unasked_models, unguarded_models
from mlguard.routes.placement import Places
from mlguard.routes.route import Route
from mlguard.routes.surroundings import Around, exporter
from mlguard.settings import REST, Quotas, Settings

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
        models: The models that the settings place there.
        told_by: Where a request says which of them it asks, None where it need not.
        scopes: What a token must grant, by the settings and the handler.
        is_public: Whether no token is needed.
        quotas: What may be asked: by everybody, by plans where they differ, and by a tenant's
            callers together.
        credential: What else a caller brings.
        gap: Why nothing stands before it, and what to do; None where a token or a quota does.
    """

    route: Route
    models: tuple[str, ...]
    told_by: str | None
    scopes: frozenset[str]
    is_public: bool
    quotas: tuple[Quoted, ...]
    gap: str | None
    credential: str = "token"

    @property
    def asked(self) -> str:
        """How it is asked: its methods, without the HEAD that comes with each GET."""
        if self.route.is_websocket:
            return "WEBSOCKET"
        methods = [m for m in self.route.methods if m != "HEAD" or "GET" not in self.route.methods]
        return ",".join(methods) or "any"

    @property
    def asks(self) -> str:
        """Which models it asks, "" for none: a GET without a body is no inference."""
        if not self.models:
            return ""
        between = " or " if self.told_by else " and "
        asked = between.join(self.models) + (f" by {self.told_by}" if self.told_by else "")
        only_bodies = {"GET", "HEAD"} & {*self.route.methods}
        return f"{asked}, with a body" if only_bodies else asked

    @property
    def access(self) -> str:
        """Who may ask it."""
        if not self.route.is_guarded:
            return "unguarded"
        if self.scopes:
            return f"scopes {' '.join(sorted(self.scopes))}"
        return "public" if self.is_public else self.credential

    @property
    def sentences(self) -> list[str]:
        """What each of its quotas says."""
        return [f"{whose}: {', '.join(t)}" if whose else ", ".join(t) for whose, t in self.quotas]


class Coverage:
    """What covers the routes of an app, and what goes around them.

    Args:
        settings: What the operator decided.
        routes: Those of the app.
        around: What stands around the guard.
    """

    def __init__(
        self, settings: Settings, routes: Iterable[Route], around: Iterable[Around] = ()
    ) -> None:
        self._settings = settings
        self._quotas = settings.quotas or Quotas.model_construct()
        self._rules = Rules(self._quotas)
        self._places = Places(settings)
        self._routes = tuple(routes)
        self._around = tuple(around)

    def covered(self) -> list[Covered]:
        """Tell what covers each route."""
        return [self._covered(route) for route in self._routes]

    def lines(self) -> list[str]:
        """Tell what covers each route, one line for each: for the log."""
        return [_line(covered) for covered in self.covered()]

    def remarks(self) -> list[str]:
        """Tell what the start should warn of: ways around the guard, and other metrics' pages."""
        unguarded = [r for r in self._routes if not r.is_guarded]
        mounted = [f"what is mounted at {route.shown} {_UNGUARDED}" for route in unguarded]
        return [*mounted, *self.ways_around(), *self.other_pages()]

    def ways_around(self) -> list[str]:
        """Tell what leads around the guard, or a model's quotas; routes are not told again."""
        unguarded = {route.template for route in self._routes if not route.is_guarded}
        others = dict.fromkeys(
            layer for layer in self._around if not layer.is_inside and layer.prefix not in unguarded
        )
        return [*map(str, others), *self.unmodelled_twins()]

    def unmodelled_twins(self) -> list[str]:
        """Tell the routes without a model whose handler answers one with a model as well."""
        twins: dict[int, list[Route]] = {}
        for route in self._routes:
            if route.is_guarded and route.handler is not None:
                twins.setdefault(id(route.function), []).append(route)
        return list(dict.fromkeys(said for alike in twins.values() for said in self._unlike(alike)))

    def _unlike(self, alike: Iterable[Route]) -> Iterator[str]:
        placed = [(route, self._places.of(route.host, route.template).models) for route in alike]
        known = next(((route, models[0]) for route, models in placed if models), None)
        if known is None:
            return
        other, name = known
        for route, models in placed:
            if not models:
                yield (
                    f"{route.shown} has the handler of {other.shown}, but no model, so nobody "
                    f"reads its rows: name it in `models[{name}].routes` too"
                )

    def other_pages(self) -> list[str]:
        """Tell the routes where something else is read as metrics are."""
        path = self._settings.metrics.path
        return [
            f"{route.shown} shows the metrics of {maker}; those of mlguard are at {path}: "
            "scrape both"
            for route in self._routes
            if (maker := exporter(route.handler)) and route.template != path
        ] + [
            f"{layer.name} names {path}, where the metrics of mlguard are read: if it answers "
            "there, nobody sees what it says; choose another `metrics.path`, or take it away"
            for layer in self._around
            if layer.is_likely
        ]

    def oversights(self) -> list[str]:
        """Tell what was probably forgotten: models nobody asks, routes that seem to ask one."""
        unasked = unasked_models(self._settings, self._routes)
        return [*unasked, *unguarded_models(self._settings, self._routes)]

    def _covered(self, route: Route) -> Covered:
        if not route.is_guarded:
            return Covered(route, (), None, frozenset(), is_public=True, quotas=(), gap=_UNGUARDED)
        auth, place = self._settings.auth, self._places.of(route.host, route.template)
        models = [model for model in self._settings.models if model.name in place.models]
        told_by = models[0].model_from if models else None
        names = tuple(dict.fromkeys((*place.models, REST))) if told_by else place.models
        scopes = route.scopes.union(*(model.scopes for model in models))
        is_public = not scopes and (auth is None or place.is_public)
        if auth and not is_public:
            scopes |= frozenset(auth.scopes)
        counted = _together(
            [self._counted(route, name, is_public=is_public) for name in names or (None,)]
        )
        quotas = () if place.is_exempt else tuple(counted)
        is_bare = is_public and not quotas
        gap = _gap(self._settings, is_exempt=place.is_exempt) if is_bare else None
        credential = auth.credential if auth else "token"
        return Covered(route, names, told_by, scopes, is_public, quotas, gap, credential)

    def _counted(self, route: Route, model: str | None, *, is_public: bool) -> Iterator[Quoted]:
        """Say what is charged for a request of a route that is not exempt."""
        terms = self._rules.terms(None, model)
        declared = tuple(f"{text} declared" for text in route.limits)
        own = terms.own
        if is_public and self._settings.auth and model is None:  # which is not counted itself
            own = tuple(limit for limit in terms.own if limit.kind == FLIGHT) if declared else ()
        if own or declared:
            yield "", (*map(said, own), *declared)
        if is_public:
            return
        for plan in self._quotas.plans:
            differing = self._rules.terms(plan, model).own
            if differing != own:
                yield f"plan {plan}", (*map(said, differing), *declared)
        if terms.tenant:
            yield "tenant", tuple(map(said, terms.tenant))


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
    model = [f"model {covered.asks}"] if covered.models else []
    gap = [f"nothing covers it: it {covered.gap}"] if covered.gap else []
    told = "; ".join([covered.access, *covered.sentences, *model, *gap])
    return f"{covered.asked} {covered.route.shown}: {told}"


def _together(counted: Iterable[Iterable[Quoted]]) -> Iterator[Quoted]:
    """Say of each who is meant what they may ask of any of several models, once."""
    found: dict[str, dict[str, None]] = {}
    for each in counted:
        for whose, texts in each:
            found.setdefault(whose, {}).update(dict.fromkeys(texts))
    yield from ((whose, tuple(texts)) for whose, texts in found.items())


def _gap(settings: Settings, *, is_exempt: bool) -> str:
    if is_exempt:
        return "needs no token, and `quotas.exempt.routes` names it"
    if settings.auth is None and settings.quotas is None:
        return "needs no token and has no quota: add the table [auth] or [quotas]"
    if settings.auth is None:
        return "needs no token, and no quota counts it: set `quotas.requests`"
    return (
        "needs no token and has no quota: take it out of `auth.public`, "
        'or declare one with @guard.limit("60/minute")'
    )
