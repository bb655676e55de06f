"""How is a Flask app guarded?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Any

from flask import Flask, Request, Response, request
from werkzeug.exceptions import ClientDisconnected

from mlguard.app.front import GuardedApp, check_app
from mlguard.app.own_routes import OwnRoute
from mlguard.app.service import Service
from mlguard.app.wsgi import WSGIMiddleware
from mlguard.guard.limits import Declared
from mlguard.messages import Principal
from mlguard.routes.limit_options import Options
from mlguard.routes.route import Route
from mlguard.routes.surroundings import Around
from mlguard_flask import telemetry
from mlguard_flask.limits import declare
from mlguard_flask.router import RouterGate, guard_mounts
from mlguard_flask.routes import around, layers, routes_of


class MLGuard(GuardedApp[Flask]):
    """Guard a Flask app that already exists.

    Args:
        app: The app; None to name it later with `init_app`.
        settings: A path, a mapping or Settings.

    Raises:
        InvalidSettings: Names each mistake; a model route that the app lacks is told at its first
            call.
    """

    _outer: Any

    def caller(self) -> Principal | None:
        """Say who sent the request that is being handled."""
        return self.service.guard.caller()

    def look_at(self, app: Flask) -> None:
        """Know an app without guarding it, to tell its routes."""
        super().look_at(app)
        self._inner = self._outer = app.wsgi_app

    def _declare(self, options: Options) -> Declared:
        return declare(options)

    def _install(self, app: Flask) -> Service:
        check_app(app, ("wsgi_app", "extensions", "full_dispatch_request"), "Flask")
        service = Service(self._settings, departures=(ClientDisconnected,))
        app.extensions["mlguard"] = self
        self._inner = app.wsgi_app  # before the instrumentation hides it in a function
        telemetry.instrument(app, service.tracing)
        gate = RouterGate(app, service.guard)

        def start() -> None:
            self._outer.defers_spans = gate.takes_over_spans()
            guard_mounts(self._inner, service.guard)
            self.start()

        self._outer = WSGIMiddleware(app.wsgi_app, service, start, extensions=app.extensions)
        app.wsgi_app = self._outer  # type: ignore[method-assign]
        return service

    def _add(self, app: Flask, route: OwnRoute) -> None:
        def answer() -> Response:
            body = request.stream.read(route.most + 1) if route.most else b""
            made = route.answer(body, request.query_string.decode("latin-1"))
            return Response(made.body, made.status, made.headers, mimetype=made.media_type)

        demanding = self.requires(route.scope)(answer)
        app.add_url_rule(route.path, route.name, demanding, methods=[route.method])

    def _around(self) -> Iterable[Any]:
        return takewhile(lambda layer: layer is not self._outer, layers(self._app.wsgi_app))

    def routes(self) -> Iterable[Route]:
        """List every route of the app, mounted apps included."""
        return routes_of(self._app, self._inner, self._around())

    def around(self) -> Iterable[Around]:
        """List what answers by itself around the guard, or measures for itself inside it."""
        return around(self._app, self._outer, self._metrics_path)

    def _request(self) -> Request:
        return request

    def _method(self) -> str:
        return request.method
