"""Which routes does an app have, and what does each demand?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastapi import routing as fastapi_routing
from starlette.routing import BaseRoute, Host, Mount, Router, WebSocketRoute
from starlette.types import ASGIApp, Scope

from mlguard.guard import demanded
from mlguard.guard.limits import Declared, limited, method_of, missed, written
from mlguard.guard.routes import Route
from mlguard.runtime.front import Front


def routes_of(router: Router, prefix: str = "") -> Iterator[Route]:
    """List the routes of an app as the framework spells them, mounted apps included."""
    contexts = getattr(fastapi_routing, "iter_route_contexts", iter)
    for found in contexts(router.routes):
        path = getattr(found, "path", None)
        original = getattr(found, "original_route", found)
        inner, front = router_of(original), front_of(original)
        if inner is not None:
            yield from routes_of(inner, prefix + (path or ""))
        elif front is not None:
            yield from (r._replace(template=f"{prefix}{path}{r.template}") for r in front.routes())
        elif path is not None:
            yield _listed(found, prefix + path, is_websocket=_is_websocket(original))


def _listed(found: Any, template: str, *, is_websocket: bool) -> Route:
    methods = tuple(sorted(getattr(found, "methods", None) or ()))
    demands = Demands.of(found)
    return Route(
        methods,
        template,
        demands.scopes,
        written(demands.endpoint, methods, demands.limits),
        is_websocket=is_websocket,
        missed=missed(demands.endpoint),
    )


def leaves(routes: list[BaseRoute]) -> Iterator[BaseRoute]:
    """List the objects at which the router's dispatch ends."""
    contexts = getattr(fastapi_routing, "iter_route_contexts", None)
    if contexts is None:  # before FastAPI 0.137 include_router flattened
        yield from routes
        return
    for found in contexts(routes):
        effective = getattr(found, "_route_context", None)
        yield getattr(effective, "starlette_route", None) or found.original_route


class Demands(NamedTuple):
    """What a route demands beyond the settings.

    Attributes:
        effective: The route, as its inclusion made it.
        scopes: Of its callers.
        limits: What is declared for all methods.
        endpoint: The handler.
    """

    effective: Any
    scopes: frozenset[str]
    limits: tuple[Declared, ...]
    endpoint: Any

    @classmethod
    def of(cls, effective: Any) -> Demands:
        """Collect them from the handler and its dependencies."""
        endpoint = getattr(effective, "endpoint", None)
        functions = [endpoint, *_dependencies(getattr(effective, "dependant", None))]
        scopes = frozenset[str]().union(*map(demanded, functions))
        limits = dict.fromkeys(limit for f in functions for limit in limited(f))
        return cls(effective, scopes, tuple(limits), endpoint)

    def declared(self, scope: Scope) -> tuple[Declared, ...]:
        """List the limits of one request: a class declares some for its methods."""
        served = method_of(self.endpoint, scope.get("method", ""))
        return (*limited(served), *self.limits) if served else self.limits


def _dependencies(dependant: Any) -> Iterator[Any]:
    """List the dependencies of a handler."""
    for inner in getattr(dependant, "dependencies", ()):
        yield inner.call
        yield from _dependencies(inner)


def router_of(route: Any) -> Router | None:
    """Find the router of a mounted app, under its own middleware; None where it has none."""
    if not isinstance(route, Mount | Host):
        return None
    app: ASGIApp | None = getattr(route, "_base_app", route.app)
    inner = getattr(app, "router", app)
    return inner if isinstance(inner, Router) else None


def front_of(route: Any) -> Front[Any] | None:
    """Find the guard of a WSGI app that is mounted, under its middleware; None where none is.

    What dispatches beside the app is not passed: it would run before anybody decides.
    """
    layer: Any = route.app if isinstance(route, Mount) else None
    while layer is not None and not hasattr(layer, "mounts"):
        extensions = getattr(layer, "extensions", None)
        front = extensions.get("mlguard") if isinstance(extensions, Mapping) else None
        if isinstance(front, Front):
            return front
        layer = getattr(layer, "app", None)
    return None


def _is_websocket(route: Any) -> bool:
    return isinstance(route, WebSocketRoute | fastapi_routing.APIWebSocketRoute)
