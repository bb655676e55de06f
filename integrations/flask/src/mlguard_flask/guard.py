"""How is a Flask app guarded?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import takewhile
from typing import Any

from flask import Flask, Request, request
from werkzeug.exceptions import ClientDisconnected

from mlguard.guard.limits import limiting
from mlguard.guard.options import check_options
from mlguard.guard.routes import Route
from mlguard.logs import LOGGER
from mlguard.messages import Principal
from mlguard.runtime.front import F, Front
from mlguard.runtime.service import Service
from mlguard_flask import telemetry
from mlguard_flask.dispatch import Gate, guard_mounts
from mlguard_flask.limits import declare
from mlguard_flask.listing import layers, mounted_by, routes_of
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

    def limit(
        self,
        limit_value: str | Callable[[], str],
        *others: Any,
        cost: int | Callable[[], int] = 1,
        per_method: bool = False,
        methods: Iterable[str] | None = None,
        exempt_when: Callable[[], bool] | None = None,
        error_message: str | Callable[[], str] | None = None,
        **options: Any,
    ) -> Callable[[F], F]:
        """Limit how often each caller may ask one route, in flask-limiter's words.

        A decorator below the framework's own. Each route counts for itself, for the caller, on a
        public route for the client's network; all windows are charged or none.

        Args:
            limit_value: Rates like "5/minute;100/hour", or a function that tells them.
            *others: Nothing.
            cost: What a request costs, or a function that tells it.
            per_method: Whether each method counts for itself.
            methods: For which methods it holds; HEAD is a GET.
            exempt_when: A function that says when it does not hold.
            error_message: What a refused client is told, or a function, of nothing, that says it.
            **options: Nothing.

        Raises:
            TypeError: What flask-limiter has and this has not; the message says what to use
                instead.
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
        declared = declare(checked)
        return lambda handler: limiting(handler, declared, self._charge, self._acharge)

    def _install(self, app: Flask) -> Service:
        service = Service(self._settings)
        self._app = app
        service.guard.departures += (ClientDisconnected,)
        app.extensions["mlguard"] = self
        self._inner = app.wsgi_app  # before the instrumentation hides it in a function
        telemetry.instrument(app, service)
        gate = Gate(app, service.guard)

        def start() -> None:
            gate.close_ranks()
            guard_mounts(self._inner)
            self._warn_of_outer_mounts()
            self.start()

        self._outer = Outer(app.wsgi_app, service, start, extensions=app.extensions)
        app.wsgi_app = self._outer  # type: ignore[method-assign]
        return service

    def _warn_of_outer_mounts(self) -> None:
        """Tell of apps that were mounted after the guard came, and so stand around it."""
        for prefix, _ in mounted_by(self._around()):
            text = "what is mounted at %s is not guarded: mount it before MLGuard(app, ...)"
            LOGGER.warning(text, prefix)

    def _around(self) -> Iterable[Any]:
        return takewhile(lambda layer: layer is not self._outer, layers(self._app.wsgi_app))

    def routes(self) -> Iterable[Route]:
        """List every route of the app, mounted apps included."""
        return routes_of(self._app, self._inner, self._around())

    def _request(self) -> Request:
        return request

    def _method(self) -> str:
        return request.method
