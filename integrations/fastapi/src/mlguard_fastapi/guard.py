"""How is a FastAPI app guarded?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import FastAPI, Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.types import ASGIApp

from mlguard.guard import Run
from mlguard.messages import Principal
from mlguard.runtime.service import Service
from mlguard.settings import Settings
from mlguard_fastapi import telemetry
from mlguard_fastapi.dispatch import RouterGate, templates
from mlguard_fastapi.outer import Outer

_BEARER = HTTPBearer(auto_error=False, description="A token of the configured issuer.")


class MLGuard:
    """Guard a FastAPI app that already exists.

    Args:
        app: The app; None to name it later with `init_app`.
        settings: A path, a mapping or Settings.

    Raises:
        InvalidSettings: Names each mistake; a model route that the app lacks is told at its start.
    """

    def __init__(
        self,
        app: FastAPI | None = None,
        settings: str | os.PathLike[str] | Mapping[str, Any] | Settings = "mlguard.toml",
    ) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: FastAPI) -> None:
        """Guard the app, whatever was added to it before and will be added later."""
        self.service = Service(self._settings, tracer_provider=telemetry.configured(app))
        self._app = app
        app.state.mlguard = self
        telemetry.instrument(app, self.service)
        app.router.middleware_stack = RouterGate(app.router)
        self._surround(app)

    def caller(
        self, _: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)] = None
    ) -> Principal | None:
        """Say who sent the request that is being handled; also as `Depends(guard.caller)`."""
        return self.service.guard.caller()

    def inference(self, model: str, rows: Any) -> Run:
        """Guard one run of a model: `async with` in async code, `with` in sync handlers.

        Args:
            model: A model of the settings.
            rows: The rows, or how many they are.

        Raises:
            UnknownModel: The settings have no such model.
            Refused: On entering, where the quota does not admit it; becomes the answer.
        """
        return self.service.guard.inference(model, rows)

    @property
    def started(self) -> bool:
        """Whether this process has started what runs beside the requests."""
        return self.service.started

    def start(self) -> None:
        """Check the settings against the app, and start what runs beside the requests.

        Raises:
            InvalidSettings: A model's route is not there.
        """
        self.check()
        self.service.start()

    def check(self) -> None:
        """Hold the settings against the app's routes.

        Raises:
            InvalidSettings: A model's route is not there.
        """
        self.service.guard.check_routes(templates(self._app.router))

    def _surround(self, app: FastAPI) -> None:
        """Stand around all middleware, that which is added later too."""
        build = app.build_middleware_stack

        def surrounded() -> ASGIApp:
            return Outer(build(), self)

        app.build_middleware_stack = surrounded  # type: ignore[method-assign]
        if app.middleware_stack is not None:
            app.middleware_stack = Outer(app.middleware_stack, self)
