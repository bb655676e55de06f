"""Where does Flask hand over to a view, and what is decided there?

Flask's own router has matched when `before_request` runs; the decision stands before the app's own
functions there, right behind OpenTelemetry's, which opens the span.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flask import Flask, Response, after_this_request, request
from flask.typing import ResponseReturnValue
from opentelemetry import trace
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Rule

from mlguard import bodies
from mlguard.errors import Refused
from mlguard.guard import Exchange, Guard, demanded
from mlguard.guard.limits import Declared, due, limited, method_of
from mlguard.runtime.drivers import drive
from mlguard_flask import telemetry
from mlguard_flask.listing import front_of, mounts
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
        refuses = self._refuses(exchange, rule)
        setattr(request, _DECIDED, True)
        if refuses:
            return to_response(exchange)
        exchange.enter()
        return None

    def _refuses(self, exchange: Exchange, rule: Rule | None) -> bool:
        """Decide by what the route demands; say whether the request may not go on."""
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
        decision = exchange.decide(matched, demanded(view), limits)
        return drive(decision, partial(read_body, request.environ)) is not None

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


def guard_mounts(app: WSGI) -> None:
    """Put a gate before each app that is mounted beside Flask and has none."""
    for dispatcher, prefix in mounts(app):
        mounted = dispatcher.mounts[prefix]
        if not isinstance(mounted, MountGate) and front_of(mounted) is None:
            dispatcher.mounts[prefix] = MountGate(mounted)


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


def _declared(view: Any, method: str) -> tuple[Declared, ...]:
    """List the limits of a view: a class declares some for its methods."""
    served = method_of(getattr(view, "view_class", None), method)
    return (*limited(served), *limited(view)) if served else limited(view)


def _close(exchange: Exchange, response: Response) -> Response:
    exchange.close(response.status_code)
    exchange.leave()
    return response


def _answer(exchange: Exchange, response: Response) -> Any:
    if not exchange.reads_answer or not bodies.is_json(response.mimetype or ""):
        return None
    if response.direct_passthrough:
        return None
    data = response.get_data()
    return bodies.parse(data) if len(data) <= exchange.answer_limit else None
