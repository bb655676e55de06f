"""Where does the router hand over to a handler, and what is decided there?

FastAPI's own router matches; the decision stands at the end of its dispatch, inside all of the
app's middleware, so that no second matcher can disagree with it. What the router answers without a
handler (404, 405, redirects, files of a frontend) is decided at the first byte of that answer.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Host, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from mlguard.app.asgi_handler import Handler
from mlguard.app.asgi_messages import EXCHANGE, to_call, to_response
from mlguard.app.drivers import adrive
from mlguard.app.front import guarded_app_of
from mlguard.guard import Exchange, Guard, reset, watched
from mlguard.guard.limits import declared_for, due
from mlguard.guard.timed import timed
from mlguard.tracing import attached
from mlguard_fastapi.limits import request_of
from mlguard_fastapi.routes import Demands, leaves, router_of

_HANDLER = Handler(HTTPException)
_PREFIX = "mlguard.prefix"
_HOST = "mlguard.host"


class RouterGate:
    """Keeps a gate at each route of a router.

    Args:
        router: Whose routes are guarded; mounted apps are followed.
        guard: Who decides where nobody has begun to watch the request.
    """

    def __init__(self, router: Router, guard: Guard) -> None:
        self._router = router
        self._guard = guard
        self._inner = router.middleware_stack
        self._armed: Sequence[tuple[Router, int, int]] = ()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the router dispatch what is not decided yet."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:
            exchange = self._adopt(scope)
        exchange.dispatching()
        self.arm()
        scope.setdefault("fastapi.telemetry", None)  # no further span by an app that is mounted
        # Inside all middleware, so that whoever opens the server span has opened it.
        if exchange.has_span:
            await self._inner(scope, receive, send)
            return
        with attached(exchange.open_span()):
            await self._inner(scope, receive, send)

    def _adopt(self, scope: Scope) -> Exchange:
        """Find the exchange of a request to which a middleware gave a scope of its own."""
        known: Exchange | None = self._guard.parts.current.get()
        header = self._guard.parts.key_header.encode()
        exchange = known or self._guard.open(to_call(scope, frozenset(), header))
        scope[EXCHANGE] = exchange
        return exchange

    def arm(self) -> None:
        """Put a gate at each route that came since the last time."""
        for router, count, version in self._armed:
            if len(router.routes) != count or _version(router) != version:
                break
        else:
            if self._armed:
                return
        armed = [(r, len(r.routes), _version(r)) for r in _included(self._router, set())]
        if not isinstance(self._router.default, _DefaultGate):
            self._router.default = _DefaultGate(self._router.default, self._guard)
        for route in leaves(self._router.routes):
            if isinstance(getattr(route, "handle", None), _RouteGate):
                continue
            inner, calls = router_of(route), isinstance(route, Mount) and guarded_app_of(route.app)
            if inner is not None and not isinstance(inner.middleware_stack, RouterGate):
                inner.middleware_stack = RouterGate(inner, self._guard)
            route.handle = _RouteGate(  # type: ignore[method-assign]
                route, self._guard, passes=inner is not None, calls=bool(calls)
            )
        self._armed = armed


class _DefaultGate:
    """Decides before what answers where no route matched: a 404, or an app of its own."""

    def __init__(self, default: ASGIApp, guard: Guard) -> None:
        self._default = default
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None or exchange.decided:
            await self._default(scope, receive, send)
        elif await adrive(exchange.matched(exchange.unmatched)):
            await to_response(exchange, scope, send)
        else:
            exchange.depth += 1
            try:
                await self._default(scope, receive, send)
            finally:
                exchange.depth -= 1


class _Matched(NamedTuple):
    """What is known of a route as one inclusion, below one mount, makes it.

    Attributes:
        effective: The route as its inclusion made it.
        demands: What its handler says of it.
        route: Its host, its template and the scopes that its handler demands.
        declares: Whether its handler may declare limits.
    """

    effective: Any
    demands: Demands
    route: tuple[str, str, frozenset[str]]
    declares: bool


class _RouteGate:
    """Decides before a route's handler runs, and catches what stops it."""

    def __init__(self, route: BaseRoute, guard: Guard, *, passes: bool, calls: bool) -> None:
        self._route = route
        self._guard = guard
        self._handle = route.handle
        self._passes = passes  # on to a router with gates of its own
        self._calls = calls  # a WSGI app with a gate of its own
        self._known: dict[tuple[int, str, str], _Matched] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None or exchange.decided:
            await self._handle(scope, receive, send)
        elif self._passes:
            self._pass(scope)
            await self._handle(scope, receive, send)
        elif self._calls and scope["type"] == "http":
            await self._call(exchange, scope, receive, send)
        else:
            await self._decide(exchange, scope, receive, send)

    def _pass(self, scope: Scope) -> None:
        """Note where an app is mounted, for the routes below it."""
        if isinstance(self._route, Host):
            scope[_HOST] = self._route.host
        else:
            scope[_PREFIX] = self._matched(scope).route[1].removesuffix("/{path:path}")

    async def _decide(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        matched = self._matched(scope)
        bound, limits = exchange.bind(*matched.route), ()
        methods = getattr(matched.effective, "methods", None)
        if methods and scope["type"] == "http" and scope["method"] not in methods:
            if scope["method"] == "OPTIONS":
                exchange.skipped(bound)  # a preflight without CORS: a plain 405
                await self._handle(scope, receive, send)
                return
            bound = exchange.unmatched  # a plain 405
        elif matched.declares:
            limits = self._due(exchange, scope, matched)
        if bound.model is not None:
            _watch_start(matched.effective, self._guard)
            exchange.parameters = scope.get("path_params") or {}
        await _HANDLER.decide(exchange, bound, limits, self._handle, scope, receive, send)

    def _due(self, exchange: Exchange, scope: Scope, matched: _Matched) -> Any:
        method, demands = scope.get("method", "GET"), matched.demands
        return due(
            self._guard,
            exchange,
            declared_for(demands.endpoint, method, demands.limits),
            partial(request_of, scope),
            method=method,
            template=matched.route[1],
            handler=demands.endpoint,
        )

    async def _call(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a guarded WSGI app decide by its own routes: its environ does not hold our scope."""
        exchange.bound = exchange.bind(*self._matched(scope).route)  # below which its routes are
        token = watched.set(exchange)
        try:
            await self._handle(scope, receive, send)
        finally:
            reset(watched, token)

    def _matched(self, scope: Scope) -> _Matched:
        """Find what is known of the route, once for each inclusion and mount."""
        effective = _effective(self._route, scope)
        prefix, host = scope.get(_PREFIX, ""), scope.get(_HOST, "")
        key = (id(effective), prefix, host)
        known = self._known.get(key)
        if known is None:
            demands = Demands.of(effective)
            template = prefix + (getattr(effective, "path", None) or "")
            if not template and not self._passes:
                template = "/"  # what is mounted at the root
            route = (host, template, demands.scopes)
            declares = bool(demands.limits) or inspect.isclass(demands.endpoint)
            known = _Matched(effective, demands, route, declares)
            self._known[key] = known
        return known


def _watch_start(effective: Any, guard: Guard) -> None:
    """Have the model's handler say when it begins: before, it waits for a thread."""
    dependant: Any = getattr(effective, "dependant", None)
    if dependant is not None and not hasattr(dependant.call, "__mlguard_timed__"):
        dependant.call = timed(dependant.call, guard.parts.current)


def _effective(route: BaseRoute, scope: Scope) -> Any:
    """Find what an included router made of its route: the prefix is known there only."""
    effective = scope.get("fastapi")
    if effective:
        effective = effective.get("effective_route_context")
        if getattr(effective, "original_route", None) is route:
            return effective
    return route


def _version(router: Any) -> int:
    """Count how often a router of FastAPI's was changed, however many routes it has."""
    return getattr(router, "_routes_version", 0)


def _included(router: Any, seen: set[int]) -> Iterator[Router]:
    """List a router and those of which it includes the routes themselves, and no copies."""
    if id(router) in seen:
        return
    seen.add(id(router))
    yield router
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from _included(inner, seen)
