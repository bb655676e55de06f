"""Where does the router hand over to a handler, and what is decided there?

FastAPI's own router matches; the decision stands at the end of its dispatch, inside all of the
app's middleware, so that no second matcher can disagree with it. What the router answers without a
handler (404, 405, redirects, files of a frontend) is decided at the first byte of that answer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from opentelemetry import trace
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard import bodies
from mlguard.errors import Refused
from mlguard.guard import Exchange, Guard, watched
from mlguard.guard.limits import due
from mlguard.runtime.drivers import adrive, aparse
from mlguard.tracing import reset
from mlguard_fastapi import telemetry
from mlguard_fastapi.limits import request_of
from mlguard_fastapi.listing import Demands, front_of, leaves, router_of
from mlguard_fastapi.translate import EXCHANGE, HANDLED, Replay, close, to_call, to_response

_PREFIX = "mlguard.prefix"


class RouterGate:
    """Keeps a gate at each route of a router, and decides what matched none.

    Args:
        router: Whose routes are guarded; mounted apps are followed.
        guard: Who decides where nobody has begun to watch the request.
    """

    def __init__(self, router: Router, guard: Guard) -> None:
        self._router = router
        self._guard = guard
        self._inner = router.middleware_stack
        self._stamp: object = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the router dispatch, and decide late where no route's gate has decided."""
        if scope["type"] == "lifespan":
            await self._inner(scope, receive, send)
            return
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None:  # a middleware made a scope of its own
            exchange = scope[EXCHANGE] = self._guard.open(to_call(scope))
            try:
                await self._dispatch(exchange, scope, receive, send)
            finally:
                exchange.close(exchange.deny.status if exchange.deny else 200)
        else:
            await self._dispatch(exchange, scope, receive, send)

    async def _dispatch(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        # Inside all middleware, so that whoever opens the server span has opened it.
        exchange.adopt(trace.get_current_span())
        exchange.reopen()
        self.arm()
        late = _Late(exchange, scope, send)
        try:
            await self._inner(scope, receive, late.send)
        except Exception:
            # The router says 404 and 405 by raising.
            if not await late.refused():
                raise

    def arm(self) -> None:
        """Put a gate at each route that came since the last time."""
        if not isinstance(self._router.default, _DefaultGate):
            self._router.default = _DefaultGate(self._router.default)
        stamp = _stamp(self._router)
        if stamp == self._stamp:
            return
        for route in leaves(self._router.routes):
            if isinstance(getattr(route, "handle", None), _RouteGate):
                continue
            inner = router_of(route)
            if inner is not None and not isinstance(inner.middleware_stack, RouterGate):
                inner.middleware_stack = RouterGate(inner, self._guard)
            route.handle = _RouteGate(  # type: ignore[method-assign]
                route, self._guard, passes=inner is not None, calls=front_of(route) is not None
            )
        self._stamp = stamp


class _Late:
    """Decides at the first byte of an answer that no handler gave."""

    def __init__(self, exchange: Exchange, scope: Scope, send: Send) -> None:
        self._exchange = exchange
        self._scope = scope
        self._send = send
        self._swallow = False

    async def send(self, message: Message) -> None:
        # A socket that is closed before it is accepted is refused already.
        if message["type"] != "websocket.close" and await self.refused():
            return
        await self._send(message)

    async def refused(self) -> bool:
        """Refuse what is undecided and may not go on; say whether that has happened."""
        if not self._exchange.decided:
            deny = await adrive(self._exchange.decide(None), _no_body)
            if deny is not None:
                self._swallow = True
                await to_response(self._exchange, self._scope, self._send)
        return self._swallow


class _DefaultGate:
    """Decides before what answers where no route matched: a 404, or an app of its own."""

    def __init__(self, default: ASGIApp) -> None:
        self._default = default

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None or exchange.decided:
            await self._default(scope, receive, send)
        elif await adrive(exchange.decide(None), _no_body):
            await to_response(exchange, scope, send)
        else:
            with exchange.handing_over():
                await self._default(scope, receive, send)


class _RouteGate:
    """Decides before a route's handler runs, and watches its answer."""

    def __init__(self, route: BaseRoute, guard: Guard, *, passes: bool, calls: bool) -> None:
        self._route = route
        self._guard = guard
        self._handle = route.handle
        self._passes = passes  # on to a router with gates of its own
        self._calls = calls  # a WSGI app with a gate of its own
        self._demands: dict[int, Demands] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange | None = scope.get(EXCHANGE)
        if exchange is None or exchange.decided:
            await self._handle(scope, receive, send)
        elif self._passes:
            scope[_PREFIX] = template(self._route, scope).removesuffix("/{path:path}")
            await self._handle(scope, receive, send)
        elif self._calls and scope["type"] == "http":
            await self._call(exchange, scope, receive, send)
        elif scope.get("method") == "OPTIONS" and not _serves(self._route, scope):
            exchange.skip(template(self._route, scope))  # a preflight without CORS: a plain 405
            await self._handle(scope, receive, send)
        else:
            body = Replay(receive)
            if await self._refuses(exchange, scope, body):
                await to_response(exchange, scope, send)
            else:
                await self._hand_over(exchange, scope, body.receive, send)

    async def _refuses(self, exchange: Exchange, scope: Scope, body: Replay) -> bool:
        """Decide by what the route demands; say whether the request may not go on."""
        serves = _serves(self._route, scope)
        matched = template(self._route, scope) if serves else None
        if matched and "fastapi.telemetry" not in scope:
            telemetry.name_span(exchange.span, scope, matched)
        demands = self._demanded(_effective(self._route, scope))
        limits = due(
            self._guard,
            exchange,
            demands.declared(scope) if serves else (),
            partial(request_of, scope),
            method=scope.get("method", "GET"),
            template=matched or "",
            handler=demands.endpoint,
        )
        decision = exchange.decide(matched, demands.scopes, limits)
        return await adrive(decision, body.read) is not None

    async def _hand_over(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the handler answer, and end the route's inference with its answer."""
        answer = _Answer(exchange, send)
        handled = HANDLED.set(scope)
        exchange.enter()
        try:
            with exchange.handing_over():
                await self._handle(scope, receive, answer.send)
        except Refused as refused:
            if not answer.begun:
                exchange.refuse(refused.deny)
                await to_response(exchange, scope, send)
            elif scope["type"] == "websocket":
                await close(refused.deny, send)
            else:
                raise
        except BaseException as error:
            exchange.answered(500, error=error, sent=answer.sent)
            raise
        finally:
            exchange.answered(answer.status)
            exchange.leave()
            reset(handled)

    async def _call(self, exchange: Exchange, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a guarded WSGI app decide by its own routes: its environ does not hold our scope."""
        exchange.route = template(self._route, scope)  # below which its routes are
        token = watched.set(exchange)
        try:
            await self._handle(scope, receive, send)
        finally:
            reset(token)
        if "fastapi.telemetry" not in scope and exchange.route:
            telemetry.name_span(exchange.span, scope, exchange.route)

    def _demanded(self, effective: Any) -> Demands:
        """Collect what the handler and its dependencies demand, once for each inclusion."""
        known = self._demands.get(id(effective))
        if known is None:
            known = self._demands[id(effective)] = Demands.of(effective)
        return known


class _Answer:
    """What a handler answers, on its way out."""

    def __init__(self, exchange: Exchange, send: Send) -> None:
        self._exchange = exchange
        self._send = send
        self.status = 200
        self._kept: list[bytes] | None = None
        self._room = exchange.answer_limit
        self.begun = False
        self.sent = False  # a byte of the body

    async def send(self, message: Message) -> None:
        """Pass a message on; the last one ends the route's inference."""
        kind = message["type"]
        if kind == "websocket.accept":
            self.begun = True
        elif kind == "http.response.start":
            self.begun = True
            self.status = message["status"]
            if self._exchange.reads_answer and _is_json(message.get("headers", ())):
                self._kept = []
        elif kind == "http.response.body":
            self.sent = self.sent or bool(message.get("body"))
            self._keep(message.get("body", b""))
            if not message.get("more_body", False):
                # Settled before the client can have the whole answer and ask again.
                answer = await aparse(b"".join(self._kept)) if self._kept else None
                self._exchange.answered(self.status, answer)
        await self._send(message)

    def _keep(self, chunk: bytes) -> None:
        if self._kept is None:
            return
        self._room -= len(chunk)
        if self._room < 0:
            self._kept = None
        else:
            self._kept.append(chunk)


def template(route: BaseRoute, scope: Scope) -> str:
    """Spell a matched route as the framework does, with the prefixes of routers and mounts."""
    path: str = getattr(_effective(route, scope), "path", None) or ""
    return str(scope.get(_PREFIX, "")) + path


def _serves(route: BaseRoute, scope: Scope) -> bool:
    """Tell a match from one that the route will answer with 405."""
    methods = getattr(_effective(route, scope), "methods", None)
    return scope["type"] != "http" or not methods or scope["method"] in methods


def _effective(route: BaseRoute, scope: Scope) -> Any:
    """Find what an included router made of its route: the prefix is known there only."""
    effective = scope.get("fastapi", {}).get("effective_route_context")
    return effective if getattr(effective, "original_route", None) is route else route


def _stamp(router: Router) -> object:
    version = getattr(router, "_get_routes_version", None)
    return len(router.routes), version() if version else None


def _is_json(headers: Any) -> bool:
    kind = next((v for n, v in headers if n.lower() == b"content-type"), b"")
    return bodies.is_json(bytes(kind).decode("latin-1"))


async def _no_body(limit: int) -> bytes | None:
    return b""
