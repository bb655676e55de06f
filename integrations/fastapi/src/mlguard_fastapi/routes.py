"""Which routes does an app have, and what does each demand?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi import routing as fastapi_routing
from fastapi.openapi.utils import get_openapi
from starlette.routing import BaseRoute, Host, Mount, Router, WebSocketRoute
from starlette.types import ASGIApp

from mlguard.app.front import guarded_app_of
from mlguard.guard.limits import Declared, limited, missed, written
from mlguard.routes.route import Route
from mlguard.routes.scopes import demanded
from mlguard.routes.surroundings import Around, around_of, naming, will_export


def routes_of(router: Router, prefix: str = "", host: str = "") -> Iterator[Route]:
    """List the routes of an app as the framework spells them, mounted apps included.

    What is mounted at the root of an app or a host is spelt "/".

    Args:
        router: The app's.
        prefix: Where it is mounted.
        host: The host that it answers on; "" for any.
    """
    contexts = getattr(fastapi_routing, "iter_route_contexts", iter)
    for found in contexts(router.routes):
        path = getattr(found, "path", None)
        original = getattr(found, "original_route", found)
        inner, front = (
            router_of(original),
            guarded_app_of(original.app) if isinstance(original, Mount) else None,
        )
        here = original.host if isinstance(original, Host) else host
        below = prefix + (path or "")
        if inner is not None:
            yield from routes_of(inner, below, here)
        elif front is not None:
            yield from (r.below(below, here) for r in front.routes())
        elif path is not None or isinstance(original, Host):
            yield _listed(found, original, below or "/", here)


def _listed(found: Any, original: Any, template: str, host: str) -> Route:
    methods = tuple(sorted(getattr(found, "methods", None) or ()))
    demands = Demands.of(found)
    is_mount = isinstance(original, Mount | Host)
    return Route(
        methods,
        template,
        demands.scopes,
        written(demands.endpoint, methods, demands.limits),
        is_websocket=_is_websocket(original),
        missed=missed(demands.endpoint),
        host=host,
        handler=getattr(original, "_base_app", original.app) if is_mount else demands.endpoint,
    )


def documents_of(app: FastAPI, prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Describe an app, and those mounted in it, without what it keeps of its own description."""
    yield prefix, get_openapi(title=app.title, version=app.version, routes=app.routes)
    for route in app.routes:
        if isinstance(route, Mount):
            mounted = getattr(route, "_base_app", route.app)
            if isinstance(mounted, FastAPI):
                yield from documents_of(mounted, prefix + route.path)


def around(app: FastAPI, ours: type, path: str) -> Iterator[Around]:
    """List what answers by itself around the guard, or measures for itself inside it.

    Args:
        app: The app; what was put around it is known once its middleware is built.
        ours: The class of the guard's outermost layer.
        path: Where metrics are read.
    """
    outermost = app.middleware_stack
    if outermost is not None:
        yield from around_of(outermost, lambda layer: isinstance(layer, ours))
    for added in app.user_middleware:
        yield from will_export(added.cls, added.kwargs)
        yield from naming([added.kwargs.get("dispatch") or added.cls], path)


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


def _is_websocket(route: Any) -> bool:
    return isinstance(route, WebSocketRoute | fastapi_routing.APIWebSocketRoute)
