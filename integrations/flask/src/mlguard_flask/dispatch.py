"""Where does Flask hand over to a view, and what is decided there?

Flask's own router has matched when `before_request` runs; the decision stands before the app's own
functions there, right behind OpenTelemetry's, which opens the span.
"""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from flask import Flask, Response, request
from opentelemetry import trace
from werkzeug.exceptions import HTTPException

from mlguard import bodies
from mlguard.errors import Refused
from mlguard.guard import Exchange
from mlguard.runtime.drivers import drive
from mlguard_flask import telemetry
from mlguard_flask.translate import EXCHANGE, FAILED, STREAMED, read_body, to_response


class Gate:
    """Decides before each view, and reads its answer before anything changes it.

    Args:
        app: Whose views are guarded.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app
        self._process = app.process_response
        app.process_response = self.process  # type: ignore[method-assign]
        app.register_error_handler(Refused, refused)
        self.close_ranks()

    def close_ranks(self) -> None:
        """Stand before all functions of `before_request` but OpenTelemetry's."""
        functions = self._app.before_request_funcs.setdefault(None, [])
        functions[:] = [f for f in functions if f != self.decide]
        functions.insert(0, self.decide)
        functions.sort(key=lambda f: not telemetry.opens_span(f))

    def decide(self) -> Response | None:
        """Let the request go on, or answer it."""
        exchange = _exchange()
        if exchange is None or exchange.decided:
            return None
        rule = request.url_rule
        exchange.adopt(trace.get_current_span())
        telemetry.take_over(request.environ, matched=rule is not None)
        automatic = getattr(rule, "provide_automatic_options", False)
        if rule is not None and request.method == "OPTIONS" and automatic:
            exchange.skip(rule.rule)  # Flask answers this itself, without the view
            return None
        read = partial(read_body, request.environ)
        if drive(exchange.decide(rule.rule if rule else None), read):
            return to_response(exchange)
        exchange.enter()
        return None

    def process(self, response: Response) -> Response:
        """Read the view's answer, which ends the route's inference; then Flask's own processing."""
        exchange = _exchange()
        error = sys.exc_info()[1] if response.status_code >= 500 else None
        if isinstance(error, HTTPException):
            error = None
        request.environ[FAILED] = error
        request.environ[STREAMED] = response.is_streamed
        if exchange is not None and exchange.run is not None and not response.is_streamed:
            exchange.answered(response.status_code, _answer(exchange, response), error)
        return self._process(response)


def refused(error: Refused) -> Response:
    """Answer for a view that may not go on."""
    exchange = _exchange()
    if exchange is None or exchange.deny is not error.deny:
        raise error
    return to_response(exchange)


def _exchange() -> Exchange | None:
    return request.environ.get(EXCHANGE)


def _answer(exchange: Exchange, response: Response) -> Any:
    if not exchange.reads_answer or response.mimetype != "application/json":
        return None
    if response.direct_passthrough:
        return None
    data = response.get_data()
    return bodies.parse(data) if len(data) <= exchange.answer_limit else None
