"""How is a Flask app guarded?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from flask import Flask

from mlguard.guard import Run
from mlguard.messages import Principal
from mlguard.runtime.service import Service
from mlguard.settings import Settings
from mlguard_flask import telemetry
from mlguard_flask.dispatch import Gate
from mlguard_flask.outer import Outer


class MLGuard:
    """Guard a Flask app that already exists.

    Args:
        app: The app; None to name it later with `init_app`.
        settings: A path, a mapping or Settings.

    Raises:
        InvalidSettings: Names each mistake; a model route that the app lacks is told at its
            first call.
    """

    def __init__(
        self,
        app: Flask | None = None,
        settings: str | os.PathLike[str] | Mapping[str, Any] | Settings = "mlguard.toml",
    ) -> None:
        self._settings = settings
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Guard the app, whatever was added to it before and will be added later."""
        self.service = Service(self._settings)
        self._app = app
        app.extensions["mlguard"] = self
        telemetry.instrument(app, self.service)
        self._gate = Gate(app)
        app.wsgi_app = Outer(app.wsgi_app, self)  # type: ignore[method-assign]

    def caller(self) -> Principal | None:
        """Say who sent the request that is being handled."""
        return self.service.guard.caller()

    def inference(self, model: str, rows: Any) -> Run:
        """Guard one run of a model: `with` in sync views, `async with` in async ones.

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
        self._gate.close_ranks()
        self.check()
        self.service.start()

    def check(self) -> None:
        """Hold the settings against the app's routes.

        Raises:
            InvalidSettings: A model's route is not there.
        """
        self.service.guard.check_routes(templates(self._app))


def templates(app: Flask) -> Iterator[str]:
    """List the routes of an app as the framework spells them."""
    return (rule.rule for rule in app.url_map.iter_rules())
