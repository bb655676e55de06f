"""How is a FastAPI app guarded?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Annotated, Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp
from starlette.websockets import WebSocketDisconnect

from mlguard.guard import mark
from mlguard.guard.limits import Declared, limiting, mark_limits
from mlguard.guard.options import check_options
from mlguard.guard.routes import Route
from mlguard.messages import Principal
from mlguard.runtime.front import F, Front
from mlguard.runtime.service import Service
from mlguard_fastapi import telemetry
from mlguard_fastapi.dispatch import RouterGate
from mlguard_fastapi.limits import declare, request_of
from mlguard_fastapi.listing import routes_of
from mlguard_fastapi.outer import Outer
from mlguard_fastapi.translate import HANDLED

_BEARER = HTTPBearer(auto_error=False, description="A token of the configured issuer.")


class MLGuard(Front[FastAPI]):
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

    def limit(
        self,
        limit_value: str | Callable[..., str],
        *others: Any,
        cost: int | Callable[[Any], int] = 1,
        per_method: bool = False,
        methods: Iterable[str] | None = None,
        exempt_when: Callable[..., bool] | None = None,
        error_message: str | Callable[[], str] | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Limit how often each caller may ask one route, in slowapi's words.

        A decorator below the framework's own, or `Depends(guard.limit(...))` for a router. The
        handler needs no parameter named `request`. Each route counts for itself, for the caller,
        on a public route for the client's network; all windows are charged or none.

        Args:
            limit_value: Rates like "5/minute;100/hour", or a function that tells them, of nothing
                or of `key`, the caller's name.
            *others: Nothing.
            cost: What a request costs, or a function that tells it of the request.
            per_method: Whether each method counts for itself.
            methods: For which methods it holds; HEAD is a GET.
            exempt_when: A function, of nothing or of the request, that says when it does not hold.
            error_message: What a refused client is told, or a function, of nothing, that says it.
            **options: Nothing.

        Raises:
            TypeError: What slowapi has and this has not; the message says what to use instead.
            ValueError: Rates that cannot be parsed, or counted.
        """
        checked = check_options(
            limit_value,
            others,
            options,
            cost=cost,
            per_method=per_method,
            methods=methods,
            exempt_when=exempt_when,
            error_message=error_message,
        )
        return self._limitation(declare(checked))

    def _limitation(self, declared: Declared) -> Callable[[F], F]:
        """Make what is a decorator, and a dependency as well."""

        def limitation(handler: Any = None, /) -> Any:
            if handler is not None:
                return _typed(limiting(handler, declared, self._charge, self._acharge))
            scope = HANDLED.get()
            return self._charge(declared, scope.get("endpoint") if scope else None)

        # What FastAPI reads of a dependency: it takes nothing.
        limitation.__signature__ = inspect.Signature()  # type: ignore[attr-defined]
        mark_limits(limitation, declared)
        return limitation

    def _install(self, app: FastAPI) -> Service:
        service = Service(self._settings, tracer_provider=telemetry.configured(app))
        self._app = app
        service.guard.departures += (ClientDisconnect, WebSocketDisconnect)
        app.state.mlguard = self
        telemetry.instrument(app, service)
        app.router.middleware_stack = RouterGate(app.router, service.guard)
        build = app.build_middleware_stack

        def surrounded() -> ASGIApp:
            """Stand around all middleware, that which is added later too."""
            return Outer(build(), service, self.start)

        app.build_middleware_stack = surrounded  # type: ignore[method-assign]
        if app.middleware_stack is not None:
            app.middleware_stack = Outer(app.middleware_stack, service, self.start)
        return service

    def routes(self) -> Iterable[Route]:
        """List every route of the app, mounted apps included."""
        return routes_of(self._app.router)

    def _request(self) -> HTTPConnection:
        return request_of(HANDLED.get() or {"type": "http", "headers": []})

    def _method(self) -> str:
        return str((HANDLED.get() or {}).get("method", "GET"))


def _typed(handler: Any) -> Any:
    """Resolve annotations that are text: older FastAPI would look for them in our module."""
    with suppress(Exception):  # FastAPI says itself what is wrong with one
        handler.__signature__ = inspect.signature(handler.__wrapped__, eval_str=True)
    return handler
