"""Where does Flask hand over to a view, and what is decided there?

Flask's own router has matched when `before_request` runs; the decision stands before the app's own
functions there, right behind OpenTelemetry's, which opens the span.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from flask import Flask, Response, after_this_request, request
from flask.typing import ResponseReturnValue
from opentelemetry import trace
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mlguard import bodies
from mlguard.errors import Refused
from mlguard.guard import Exchange, Guard, demanded
from mlguard.guard.limits import Declared, due, limited, method_of, missed
from mlguard.guard.routes import Route
from mlguard.runtime.drivers import drive
from mlguard_flask import telemetry
from mlguard_flask.translate import (
    EXCHANGE,
    FAILED,
    PREFIX,
    ROOT,
    STREAMED,
    WSGI,
    Environ,
    read_body,
    to_call,
    to_response,
)

_DECIDED = "_mlguard_decided"  # on Flask's request, of which each dispatch has its own


class Gate:
    """Decides before each view, and reads its answer before anything changes it.

    Args:
        app: Whose views are guarded.
        guard: Who decides where nobody has begun to watch the request.
    """

    def __init__(self, app: Flask, guard: Guard) -> None:
        self._app = app
        self._guard = guard
        self._dispatch = app.dispatch_request
        self._process = app.process_response
        app.dispatch_request = self.dispatch  # type: ignore[method-assign]
        app.process_response = self.process  # type: ignore[method-assign]
        app.register_error_handler(Refused, refused)
        self.close_ranks()

    def close_ranks(self) -> None:
        """Stand before all functions of `before_request` but OpenTelemetry's."""
        functions = self._app.before_request_funcs.get(None, [])
        others = [f for f in functions if f != self.decide]
        # One assignment: requests may be under way.
        self._app.before_request_funcs[None] = sorted(
            [self.decide, *others], key=lambda f: not telemetry.opens_span(f)
        )

    def decide(self) -> Response | None:
        """Let the request go on, or answer it."""
        exchange = self._exchange()
        if exchange.depth or hasattr(request, _DECIDED):
            return None
        rule = request.url_rule
        if PREFIX not in request.environ:  # else the span around is the server's
            exchange.adopt(trace.get_current_span())
        telemetry.take_over(request.environ, matched=rule is not None)
        automatic = getattr(rule, "provide_automatic_options", False)
        if rule is not None and request.method == "OPTIONS" and automatic:
            exchange.skip(_template(rule.rule))  # Flask answers this itself, without the view
            setattr(request, _DECIDED, True)
            return None
        read = partial(read_body, request.environ)
        view = self._app.view_functions.get(rule.endpoint) if rule else None
        matched = _template(rule.rule) if rule else None
        limits = due(
            self._guard,
            exchange,
            _declared(view, request.method),
            lambda: request,
            method=request.method,
            template=matched or "",
            handler=getattr(view, "view_class", view),
        )
        denied = drive(exchange.decide(matched, demanded(view), limits), read)
        setattr(request, _DECIDED, True)
        if denied:
            return to_response(exchange)
        exchange.enter()
        return None

    def dispatch(self) -> ResponseReturnValue:
        """Hand over to the view, never undecided, whatever became of `before_request`."""
        refusal = self.decide()
        if refusal is not None:
            return refusal
        with self._exchange().handing_over():
            return self._dispatch()

    def process(self, response: Response) -> Response:
        """Read the view's answer, which ends the route's inference; then Flask's own processing."""
        exchange = self._exchange()
        error = sys.exc_info()[1] if response.status_code >= 500 else None
        if isinstance(error, HTTPException):
            error = None
        request.environ[FAILED] = error
        request.environ[STREAMED] = response.is_streamed
        if exchange.run is not None and not response.is_streamed:
            exchange.answered(response.status_code, _answer(exchange, response), error)
        return self._process(response)

    def _exchange(self) -> Exchange:
        """Find the request's exchange; one that came around the outer layer gets its own."""
        exchange: Exchange | None = request.environ.get(EXCHANGE)
        if exchange is None:
            exchange = request.environ[EXCHANGE] = self._guard.open(to_call(request.environ))
            after_this_request(partial(_close, exchange))
        return exchange


class MountGate:
    """Decides before an app that is mounted beside Flask, by the prefix that it is mounted at."""

    def __init__(self, app: WSGI) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Let the mounted app answer, or answer in its place."""
        exchange: Exchange | None = environ.get(EXCHANGE)
        if exchange is None or exchange.depth:
            return self.app(environ, start_response)
        if drive(exchange.decide(_below(environ)), partial(read_body, environ)):
            return to_response(exchange)(environ, start_response)
        exchange.enter()
        with exchange.handing_over():
            return self.app(environ, start_response)


def layers(app: Any) -> Iterator[Any]:
    """List what stands around Flask, outermost first: middlewares hold the next one as `app`."""
    while app is not None:
        yield app
        app = getattr(app, "app", None)


def mounts(app: WSGI) -> Iterator[tuple[DispatcherMiddleware, str]]:
    """List the apps that are mounted beside Flask: by what, and at which prefix."""
    for layer in layers(app):
        if isinstance(layer, DispatcherMiddleware):
            yield from ((layer, prefix) for prefix in list(layer.mounts))


def guard_mounts(app: WSGI) -> None:
    """Put a gate before each app that is mounted beside Flask and has none."""
    for dispatcher, prefix in mounts(app):
        mounted = dispatcher.mounts[prefix]
        if not isinstance(mounted, MountGate) and not _has_gate(mounted):
            dispatcher.mounts[prefix] = MountGate(mounted)


def _has_gate(mounted: Any) -> bool:
    """Tell a guarded Flask app, which decides by its own routes."""
    flask = _flask_of(mounted)
    return flask is not None and "mlguard" in flask.extensions


def _flask_of(mounted: Any) -> Flask | None:
    """Find the Flask app that a WSGI callable is, or is the inside of."""
    for layer in layers(mounted):
        flask = getattr(layer, "__self__", layer)
        if isinstance(flask, Flask):
            return flask
    return None


def _template(rule: str) -> str:
    """Spell a route with the prefix that its app is mounted at, below the outermost."""
    return _below(request.environ) + rule


def _below(environ: Environ) -> str:
    """Tell where an app is mounted within the outermost guarded one."""
    below = str(environ.get("SCRIPT_NAME", "")).removeprefix(environ.get(ROOT, ""))
    return str(environ.get(PREFIX, "")) + below


def refused(error: Refused) -> Response:
    """Answer for a view that may not go on."""
    exchange: Exchange = request.environ[EXCHANGE]
    exchange.refuse(error.deny)
    return to_response(exchange)


def routes(app: Flask, around: WSGI) -> Iterator[Route]:
    """List the routes of an app as the framework spells them, and those mounted beside it.

    Args:
        app: The app.
        around: What Flask serves: its own app under middlewares.
    """
    for rule in app.url_map.iter_rules():
        view = app.view_functions.get(rule.endpoint)
        methods = set(rule.methods or ())
        if getattr(rule, "provide_automatic_options", False):
            methods.discard("OPTIONS")  # which reaches no view
        found = dict.fromkeys(d for m in sorted(methods) for d in _declared(view, m))
        texts = tuple(declared.text for declared in found)
        template = str(rule.rule)
        yield Route(tuple(sorted(methods)), template, demanded(view), texts, missed=missed(view))
    for dispatcher, prefix in mounts(around):
        yield from _mounted(dispatcher.mounts[prefix], prefix, is_guarded=True)


def outer_routes(layer: Any) -> Iterator[Route]:
    """List what was mounted around the guard, which sees of it only what has a guard itself."""
    for prefix, mounted in getattr(layer, "mounts", {}).items():
        yield from _mounted(mounted, prefix, is_guarded=False)


def _mounted(mounted: Any, prefix: str, *, is_guarded: bool) -> Iterator[Route]:
    if _has_gate(mounted) and (flask := _flask_of(mounted)) is not None:
        for route in flask.extensions["mlguard"]._routes():
            yield route._replace(template=prefix + route.template)
    else:
        yield Route((), prefix, is_guarded=is_guarded)


def _declared(view: Any, method: str) -> tuple[Declared, ...]:
    """List the limits of a view: a class declares some for its methods."""
    served = method_of(getattr(view, "view_class", None), method)
    return (*limited(served), *limited(view)) if served else limited(view)


def _close(exchange: Exchange, response: Response) -> Response:
    exchange.close(response.status_code)
    exchange.leave()
    return response


def _answer(exchange: Exchange, response: Response) -> Any:
    if not exchange.reads_answer or response.mimetype != "application/json":
        return None
    if response.direct_passthrough:
        return None
    data = response.get_data()
    return bodies.parse(data) if len(data) <= exchange.answer_limit else None
