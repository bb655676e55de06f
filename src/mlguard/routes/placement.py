"""What do the settings say of a route?

Wherever they name one, its template alone will do as long as one route has it; the host stands
before it where several have: `admin.example.org/status`, `*/status` for the one that asks for none.
Public or exempt may be all that is below a path, `/ui/*`: by the template that the framework
matched, apps that are mounted there included, but no route with a model, which has to be named.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from mlguard.errors import InvalidSettings
from mlguard.routes.route import Route
from mlguard.routes.surroundings import Around, exporter
from mlguard.settings import (
    ANY_HOST,
    Drift,
    FeedbackSettings,
    Model,
    Settings,
    nearest,
    split_route,
)

_REMEMBERED = 4096
_BELOW = "/*"
_PARAMETERS = re.compile(r"\{(\w+)(?::\w+)?\}|<(?:[^<>]*:)?(\w+)>")
"""As FastAPI spells them, {name} or {name:path}, and as Flask does, <name> or <path:name>."""


class Placement(NamedTuple):
    """What the settings say of one route.

    Attributes:
        models: The models whose rows its bodies hold; none where none is placed there.
        is_public: Whether it needs no token.
        is_exempt: Whether no quota counts it.
    """

    models: tuple[str, ...]
    is_public: bool
    is_exempt: bool


_NOWHERE = Placement((), is_public=False, is_exempt=False)


class Places:
    """Say what the settings say of each route; `check_routes` finds what is ambiguous in them.

    Attributes:
        of: Says it of one route, by its host and template.
    """

    def __init__(self, settings: Settings) -> None:
        auth, quotas = settings.auth, settings.quotas
        self._models: dict[str, tuple[str, ...]] = {}
        for model in settings.models:
            for name in model.all_routes:
                self._models[name] = (*self._models.get(name, ()), model.name)
        self._public = auth.public if auth else ()
        self._exempt = quotas.exempt.routes if quotas else ()
        self.of = lru_cache(_REMEMBERED)(self._place)

    def _place(self, host: str, template: str) -> Placement:
        """Say it of a route, its host "" where it asks for none; of what matched none, nothing."""
        if not template:
            return _NOWHERE
        names = f"{host or '*'}{template}", template
        models = next((self._models[name] for name in names if name in self._models), ())
        return Placement(
            models,
            is_public=_names_one(self._public, names, by_prefix=not models),
            is_exempt=_names_one(self._exempt, names, by_prefix=not models),
        )


def _names_one(listed: Iterable[str], names: Collection[str], *, by_prefix: bool) -> bool:
    """Tell whether a route is listed, by itself or with all that is below a path."""
    below = tuple(name for name in listed if name.endswith(_BELOW)) if by_prefix else ()
    return any(name in names for name in listed) or any(
        _is_below(prefix, name) for prefix in below for name in names
    )


def _is_below(prefix: str, name: str) -> bool:
    """Tell whether a template is what `/ui/*` means: /ui itself, or below it."""
    path = prefix.removesuffix(_BELOW)
    return name == path or name.startswith(path + "/")


def check_routes(
    settings: Settings,
    routes: Iterable[Route],
    counting: Collection[str] = (),
    around: Iterable[Around] = (),
) -> None:
    """Hold the settings against the app.

    Args:
        settings: What the operator decided.
        routes: Those of the app.
        counting: The units that functions of the app count.
        around: What stands around the guard, or measures inside it.

    Raises:
        InvalidSettings: A route that they name is not there, or on several hosts; two models have
            one route; the metrics' path, or that of labels, is taken; nothing counts a unit.
    """
    routes = list(routes)
    quotas = settings.quotas
    problems = [
        *_misplaced(settings, {r.name: r for r in routes if r.is_guarded}),
        *_taken(settings.metrics.path, routes, around),
        *_doubled("feedback", settings.feedback, "POST", routes),
        *_doubled("drift", settings.drift, "GET", routes),
        *(
            f"quotas.units.{unit}: no function counts it; name one with `@guard.counts({unit!r})`"
            for unit in sorted(quotas.all_units if quotas else ())
            if unit not in counting
        ),
    ]
    if problems:
        raise InvalidSettings(*problems, source=settings.source)


def _misplaced(settings: Settings, there: Mapping[str, Route]) -> Iterator[str]:
    """Find the names that no route answers, or several do, or one that has a model already."""
    models: dict[str, tuple[str, str]] = {}
    for where, name, model in _named(settings):
        found = [route for route in there.values() if _means(name, route)]
        if not found and model is None and name.endswith(_BELOW):
            yield from _misplaced_prefix(where, name, there.values())
        elif not found:
            yield f"{where}: the app has no such route; {_nearest(name, there.values())}"
        elif len(found) > 1:
            ways = " or ".join(repr(route.name) for route in found)
            yield f"{where}: the app has it on several hosts; write {ways}{_star(found)}"
        elif model:
            other, spelt = models.setdefault(found[0].name, (model.name, name))
            if other != model.name and spelt != name:
                yield f"{where}: is the route of models[{other}] too, which names it otherwise"
            yield from _unsaid(where, found[0].template, model)


def _misplaced_prefix(where: str, prefix: str, routes: Collection[Route]) -> Iterator[str]:
    """Find a path below which the app has nothing, or has something on several hosts."""
    host, template = split_route(prefix)
    below = [r for r in routes if _is_below(template, r.template) and host in (None, r.host)]
    if not below:
        near = {f"/{r.template.split('/')[1]}{_BELOW}" for r in routes}
        yield f"{where}: the app has no route below it; {nearest(prefix, near)}"
    elif len(hosts := sorted({r.host or "*" for r in below})) > 1:
        ways = " or ".join(repr(each + template) for each in hosts)
        yield f"{where}: the app has routes below it on several hosts; write {ways}{_star(below)}"


def _unsaid(where: str, template: str, model: Model) -> Iterator[str]:
    """Find parameters of the path that the settings read and the route does not have."""
    for key in ("model_from", "version_from"):
        kind, _, name = (getattr(model, key) or "").partition(":")
        known = [ours or theirs for ours, theirs in _PARAMETERS.findall(template)]
        if kind == "path" and name not in known:
            yield f"{where}: has no parameter {name!r}, where `{key}` looks; {nearest(name, known)}"


def _nearest(name: str, routes: Collection[Route]) -> str:
    """Say which name was probably meant: that of its template on another host, if there is one."""
    alike = {r.name for r in routes if r.template == split_route(name)[1]}
    return nearest(name, alike or _names(routes))


def _star(found: Iterable[Route]) -> str:
    return ", where * asks for no host" if any(r.host == ANY_HOST for r in found) else ""


def _named(settings: Settings) -> Iterator[tuple[str, str, Model | None]]:
    """List where the settings name routes, the names, and the models that they are named for."""
    for model in settings.models:
        key = "route" if model.route else "routes"
        for name in model.all_routes:
            yield f"models[{model.name}].{key} = {name!r}", name, model
    for name in settings.auth.public if settings.auth else ():
        yield f"auth.public = {name!r}", name, None
    for name in settings.quotas.exempt.routes if settings.quotas else ():
        yield f"quotas.exempt.routes = {name!r}", name, None


def _means(name: str, route: Route) -> bool:
    host, template = split_route(name)
    return template == route.template and host in (None, route.host)


def _names(routes: Collection[Route]) -> set[str]:
    """Spell routes as they may be named: without a host where one route alone has a template."""
    templates = [route.template for route in routes]
    return {r.shown if templates.count(r.template) == 1 else r.name for r in routes}


def check_metrics_path(
    settings: Settings, routes: Iterable[Route], around: Iterable[Around]
) -> None:
    """Hold against the app, as far as it is made, where metrics are read.

    Raises:
        InvalidSettings: Something else answers there.
    """
    problems = [*_taken(settings.metrics.path, routes, around)]
    if problems:
        raise InvalidSettings(*problems, source=settings.source)


def _taken(path: str, routes: Iterable[Route], around: Iterable[Around]) -> Iterator[str]:
    """Find what else answers where metrics are read: one of the two would never be seen."""
    where = f"metrics.path = {path!r}"
    taken = [route for route in routes if route.is_guarded and route.template == path]
    if taken:
        by = f", made by {maker}" if (maker := exporter(taken[0].handler)) else ""
        yield f"{where}: is already a route of the app{by}; choose another"
        return
    for layer in around:
        if layer.answers(path):
            yield f"{where}: {layer.name} answers there too; choose another"


def _doubled(
    key: str, table: Drift | FeedbackSettings | None, method: str, routes: Iterable[Route]
) -> Iterator[str]:
    """Find a route of the app where the guard has put one of its own."""
    path = table.route if table else None
    there = [r for r in routes if r.template == path and (not r.methods or method in r.methods)]
    if len(there) > 1:
        yield f"{key}.route = {path!r}: is already a route of the app; choose another"
