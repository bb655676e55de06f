"""How is a Flask app guarded?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

from flask import Flask

from mlguard.logs import LOGGER
from mlguard.messages import Principal
from mlguard.runtime.front import Front
from mlguard.runtime.service import Service
from mlguard_flask import telemetry
from mlguard_flask.dispatch import Gate, guard_mounts, layers, templates
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
        self._inner = app.wsgi_app  # before the instrumentation hides it in a function
        telemetry.instrument(app, service)
        gate = Gate(app, service.guard)

        def start() -> None:
            gate.close_ranks()
            guard_mounts(self._inner)
            self._warn_of_outer_mounts(outer)
            self.start()

        outer = app.wsgi_app = Outer(app.wsgi_app, service, start)  # type: ignore[method-assign]
        return service

    def _warn_of_outer_mounts(self, outer: Outer) -> None:
        """Tell of apps that were mounted after the guard came, and so stand around it."""
        around = takewhile(lambda layer: layer is not outer, layers(self._app.wsgi_app))
        for prefix in (p for layer in around for p in getattr(layer, "mounts", ())):
            text = "what is mounted at %s is not guarded: mount it before MLGuard(app, ...)"
            LOGGER.warning(text, prefix)

    def _templates(self) -> Iterable[str]:
        return templates(self._app, self._inner)
