"""How is a FastAPI app guarded?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Scope
from starlette.websockets import WebSocketDisconnect

from mlguard.app.asgi import ASGIMiddleware
from mlguard.app.front import F, GuardedApp, check_app
from mlguard.app.own_routes import OwnRoute, answered
from mlguard.app.service import Service
from mlguard.guard.limits import Declared, limiting, mark_limits
from mlguard.messages import Principal
from mlguard.routes.coverage import Coverage, Covered
from mlguard.routes.limit_options import Options
from mlguard.routes.openapi import GuardedDocument
from mlguard.routes.route import Route
from mlguard.routes.scopes import mark
from mlguard.routes.surroundings import Around
from mlguard_fastapi import telemetry
from mlguard_fastapi.limits import declare, request_of
from mlguard_fastapi.router import RouterGate
from mlguard_fastapi.routes import around, documents_of, routes_of

_BEARER = HTTPBearer(auto_error=False, description="A token of the configured issuer.")


class MLGuard(GuardedApp[FastAPI]):
    """Guard a FastAPI app that already exists.

    Args:
        app: The app; None to name it later with `init_app`.
        settings: A path, a mapping or Settings.

    Raises:
        InvalidSettings: Names each mistake; a model route that the app lacks is told at its start.
    """

    def caller(
        self, _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None
    ) -> Principal | None:
        """Say who sent the request that is being handled; also as `Depends(guard.caller)`."""
        return self.service.guard.caller()

    def requires(self, *scopes: str) -> Callable[[F], F]:
        """Demand scopes of the callers of one route, beyond those of the settings.

        A decorator below the framework's own, or `Depends(guard.requires(...))` for a router.

        Raises:
            ValueError: No scope, or one that no token can hold.
        """
        decorate: Callable[[Any], Any] = super().requires(*scopes)

        def requirement(handler: Any = None, /, **_: Any) -> Any:
            return decorate(self.caller)() if handler is None else _typed(decorate(handler))

        # What FastAPI reads of a dependency: it takes what `caller` takes.
        requirement.__signature__ = inspect.signature(self.caller)  # type: ignore[attr-defined]
        mark(requirement, frozenset(scopes))
        return requirement

    def _declare(self, options: Options) -> Declared:
        return declare(options)

    def _limitation(self, declared: Declared) -> Callable[[F], F]:
        """Make what is a decorator, and a dependency as well."""

        def limitation(handler: Any = None, /) -> Any:
            if handler is not None:
                return _typed(limiting(handler, declared, self._charge, self._acharge))
            return self._charge(declared, self._scope().get("endpoint"))

        # What FastAPI reads of a dependency: it takes nothing.
        limitation.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
        mark_limits(limitation, declared)
        return limitation

    def _install(self, app: FastAPI) -> Service:
        check_app(app, ("router", "state", "build_middleware_stack"), "FastAPI")
        service = Service(
            self._settings,
            tracer_provider=telemetry.configured(app),
            departures=(ClientDisconnect, WebSocketDisconnect),
        )
        app.state.mlguard = self
        if service.settings.auth is not None:
            app.openapi = GuardedDocument(  # type: ignore[method-assign]
                app.openapi, self._covered, self._media_type, service.settings.auth
            )
        telemetry.instrument(app, service.tracing)
        app.router.middleware_stack = RouterGate(app.router, service.guard)
        build = app.build_middleware_stack

        def surrounded() -> ASGIApp:
            """Stand around all middleware, that which is added later too."""
            return ASGIMiddleware(build(), service, self.start)

        app.build_middleware_stack = surrounded  # type: ignore[method-assign]
        if app.middleware_stack is not None:
            app.middleware_stack = ASGIMiddleware(app.middleware_stack, service, self.start)
        return service

    def _add(self, app: FastAPI, route: OwnRoute) -> None:
        async def answer(request: Request) -> Response:
            made = await answered(route, request.stream(), request.url.query)
            return Response(made.body, made.status, dict(made.headers), made.media_type)

        demanding = self.requires(route.scope)(answer)
        app.add_route(route.path, demanding, [route.method], route.name, include_in_schema=False)

    def routes(self) -> Iterable[Route]:
        """List every route of the app, mounted apps included."""
        return routes_of(self._app.router)

    def documents(self) -> Iterable[tuple[str, Mapping[str, Any]]]:
        """Describe the app by OpenAPI documents, each with the prefix of its paths."""
        return documents_of(self._app)

    def around(self) -> Iterable[Around]:
        """List what answers by itself around the guard, or measures for itself inside it."""
        return around(self._app, ASGIMiddleware, self._metrics_path)

    def _covered(self) -> Iterable[Covered]:
        return Coverage(self.service.settings, self.routes()).covered()

    def _media_type(self) -> str | None:
        body = self.service.guard.parts.refusal_body
        return body.media_type if body else None

    def _scope(self) -> Scope:
        """Find the scope of the request that is being handled."""
        exchange = self.service.guard.parts.current.get()
        scope: Scope | None = exchange.request if exchange else None
        return scope or {"type": "http", "headers": [], "method": "GET"}

    def _request(self) -> HTTPConnection:
        return request_of(self._scope())

    def _method(self) -> str:
        return str(self._scope().get("method", "GET"))


def _typed(handler: Any) -> Any:
    """Resolve annotations that are text: older FastAPI would look for them in our module."""
    with suppress(Exception):  # FastAPI says itself what is wrong with one
        handler.__signature__ = inspect.signature(handler.__wrapped__, eval_str=True)
    return handler
