"""How is a Flask app guarded?"""

from __future__ import annotations

from collections.abc import Iterable

from flask import Flask

from mlguard.messages import Principal
from mlguard.runtime.front import Front
from mlguard.runtime.service import Service
from mlguard_flask import telemetry
from mlguard_flask.dispatch import Gate, templates
from mlguard_flask.outer import Outer


class MLGuard(Front[Flask]):
    """Guard a Flask app that already exists.

    Args:
        app: The app; None to name it later with `init_app`.
        settings: A path, a mapping or Settings.

    Raises:
        InvalidSettings: Names each mistake; a model route that the app lacks is told at its first
            call.
    """

    def caller(self) -> Principal | None:
        """Say who sent the request that is being handled."""
        return self.service.guard.caller()

    def _install(self, app: Flask) -> Service:
        service = Service(self._settings)
        self._app = app
        app.extensions["mlguard"] = self
        telemetry.instrument(app, service)
        gate = Gate(app, service.guard)

        def start() -> None:
            gate.close_ranks()
            self.start()

        app.wsgi_app = Outer(app.wsgi_app, service, start)  # type: ignore[method-assign]
        return service

    def _templates(self) -> Iterable[str]:
        return templates(self._app)
