"""How is a FastAPI app guarded?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Annotated, Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp

from mlguard.guard import mark
from mlguard.messages import Principal
from mlguard.runtime.front import F, Front
from mlguard.runtime.service import Service
from mlguard_fastapi import telemetry
from mlguard_fastapi.dispatch import RouterGate, templates
from mlguard_fastapi.outer import Outer

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
            return decorate(self.caller)() if handler is None else decorate(handler)

        # What FastAPI reads of a dependency: it takes what `caller` takes.
        requirement.__signature__ = inspect.signature(self.caller)  # type: ignore[attr-defined]
        mark(requirement, frozenset(scopes))
        return requirement

    def _install(self, app: FastAPI) -> Service:
        service = Service(self._settings, tracer_provider=telemetry.configured(app))
        self._app = app
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

    def _templates(self) -> Iterable[str]:
        return templates(self._app.router)
