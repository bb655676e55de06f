"""Where does Flask hand over to a view, and what is decided there?

Flask's own router has matched when `full_dispatch_request` runs; the decision stands before all of
the app's functions there, and what stops a view is caught around the view itself.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

from flask import Flask, Request, Response, after_this_request, request
from werkzeug.exceptions import HTTPException
from werkzeug.routing import RequestRedirect, Rule

from mlguard.app.drivers import drive
from mlguard.app.front import guarded_app_of
from mlguard.app.wsgi import (
    EXCHANGE,
    PREFIX,
    STREAMED,
    WSGI,
    MountGate,
    below,
    pass_body,
    read_body,
    status_line,
    to_call,
)
from mlguard.errors import Refused
from mlguard.guard import BoundRoute, Exchange, Guard
from mlguard.guard.limits import declared_for, due, limited
from mlguard.routes.scopes import demanded
from mlguard.tracing import attach, attached, detach
from mlguard_flask import telemetry
from mlguard_flask.routes import host_of, mounts

_current: Any = request
_DECIDED = "_mlguard_decided"  # on Flask's request, of which each dispatch has its own


class _Matched(NamedTuple):
    """What is known of a rule.

    Attributes:
        view: What serves it.
        host: That it asks for.
        scopes: That its view demands.
        declares: Whether its view may declare limits.
    """

    view: Any
    host: str
    scopes: frozenset[str]
    declares: bool


class RouterGate:
    """Decides before each view, and reads its answer before anything changes it.

    Args:
        app: Whose views are guarded.
        guard: Who decides where nobody has begun to watch the request.
    """

    def __init__(self, app: Flask, guard: Guard) -> None:
        self._app = app
        self._guard = guard
        # Some versions of Flask hand a context to each of them.
        self._full_dispatch: Callable[..., Response] = app.full_dispatch_request
        self._dispatch: Callable[..., Any] = app.dispatch_request
        self._process: Callable[..., Response] = app.process_response
        self._finalize: Callable[..., Response] = app.finalize_request
        app.full_dispatch_request = self.full_dispatch  # type: ignore[method-assign]
        app.dispatch_request = self.dispatch  # type: ignore[method-assign]
        app.process_response = self.process  # type: ignore[assignment,method-assign]
        app.register_error_handler(Refused, self._refused)
        self._openers: list[Callable[[], Any]] = []
        self._known: dict[int, _Matched] = {}

    def takes_over_spans(self) -> bool:
        """Have a package's server span opened before the decision; say whether it opens one."""
        functions = self._app.before_request_funcs.get(None, [])
        openers = [f for f in functions if telemetry.opens_span(f)]
        if openers:
            # One assignment: requests may be under way.
            self._app.before_request_funcs[None] = [f for f in functions if f not in openers]
            self._openers += openers
        return bool(self._openers)

    def full_dispatch(self, *args: Any) -> Response:
        """Decide before the app's own functions, and answer what may not go on."""
        request = _current._get_current_object()
        exchange = self._exchange(request)
        for open_span in self._openers:
            open_span()
            exchange.finish_joined = telemetry.take_over(request.environ)
        if exchange.has_span or PREFIX in request.environ:
            return self._answer(request, exchange, *args)
        with attached(exchange.open_span()):
            return self._answer(request, exchange, *args)

    def _answer(self, request: Request, exchange: Exchange, *args: Any) -> Response:
        refusal = self._decide(request, exchange)
        if refusal is not None:
            return self._finalize(*args, refusal)
        return self._full_dispatch(*args)

    def _decide(self, request: Request, exchange: Exchange) -> Response | None:
        """Let the request go on, or answer it."""
        if exchange.depth or hasattr(request, _DECIDED):
            return None
        setattr(request, _DECIDED, True)
        rule = request.url_rule
        if rule is None:
            is_redirect = isinstance(request.routing_exception, RequestRedirect)
            if is_redirect and exchange.skips_redirect(request.path):
                return None
            return self._refusal(request, exchange, exchange.unmatched, None)
        matched = self._matched(rule)
        template = below(request.environ) + rule.rule
        bound = exchange.bind(matched.host, template, matched.scopes)
        if request.method == "OPTIONS" and getattr(rule, "provide_automatic_options", False):
            exchange.skipped(bound)  # Flask answers this itself, without the view
            return None
        return self._refusal(request, exchange, bound, matched)

    def _matched(self, rule: Rule) -> _Matched:
        """Find what is known of a rule, once for each view that serves it."""
        view = self._app.view_functions.get(rule.endpoint)
        known = self._known.get(id(rule))
        if known is None or known.view is not view:
            declares = bool(limited(view)) or hasattr(view, "view_class")
            known = _Matched(view, host_of(rule), demanded(view), declares)
            self._known[id(rule)] = known
        return known

    def _refusal(
        self, request: Request, exchange: Exchange, bound: BoundRoute, matched: _Matched | None
    ) -> Response | None:
        """Decide by what the route demands."""
        exchange.request = request
        exchange.parameters = request.view_args or {}
        limits: Any = ()
        if matched is not None and matched.declares:
            view = getattr(matched.view, "view_class", matched.view)
            limits = due(
                self._guard,
                exchange,
                declared_for(view, request.method, limited(matched.view)),
                lambda: request,
                method=request.method,
                template=bound.template,
                handler=view,
            )
        read = partial(read_body, request.environ, self._guard.parts.deadlines)
        if drive(exchange.matched(bound, limits), read):
            return to_response(exchange)
        if exchange.passing is not None:
            pass_body(request.environ, exchange.passing)
        return None

    def dispatch(self, *args: Any) -> Any:
        """Hand over to the view, never undecided; whatever becomes of a refusal, it is one here."""
        request = _current._get_current_object()
        exchange = request.environ.get(EXCHANGE) or self._exchange(request)
        if not hasattr(request, _DECIDED):
            refusal = self._decide(request, exchange)
            if refusal is not None:
                return refusal
        exchange.handler_started()
        exchange.depth += 1
        token = attach(exchange.run.context) if exchange.run else None
        try:
            answer = self._dispatch(*args)
        except Exception as error:
            deny = exchange.refusal_in(error)
            if deny is None:
                raise
            exchange.refuse(deny)
            return to_response(exchange)
        else:
            exchange.handler_returned()
            return answer
        finally:
            exchange.depth -= 1
            if token is not None:
                detach(token)

    def process(self, *args: Any) -> Response:
        """Read the view's answer, which ends the route's inference; then Flask's own processing."""
        response: Response = args[-1]
        request = _current._get_current_object()
        exchange = request.environ.get(EXCHANGE) or self._exchange(request)
        if response.status_code >= 500:
            error = sys.exc_info()[1]
            if error is not None and not isinstance(error, HTTPException):
                exchange.failed(error)
        streamed = request.environ[STREAMED] = response.is_streamed
        if exchange.passing is not None:
            response = _settled_passing(exchange, response)
        if exchange.run is not None and not streamed:
            response = _settled(exchange, response)
        return self._process(*args[:-1], response)

    def _refused(self, error: Refused) -> Response:
        """Answer for what may not go on outside of a view."""
        exchange = self._exchange(_current._get_current_object())
        exchange.refuse(error.deny)
        return to_response(exchange)

    def _exchange(self, request: Request) -> Exchange:
        """Find the request's exchange; one that came around the outer layer gets its own."""
        exchange: Exchange | None = request.environ.get(EXCHANGE)
        if exchange is None:
            call = to_call(request.environ, (), self._guard.parts.key_header)
            exchange = request.environ[EXCHANGE] = self._guard.open(call)
            after_this_request(partial(_close, exchange))
        return exchange


def _settled_passing(exchange: Exchange, response: Response) -> Response:
    """Have the rows of a body paid for that was counted while it was read."""
    withheld = drive(exchange.settle_passing(response.status_code))
    if withheld is None:
        return response
    response.close()
    exchange.refuse(withheld)
    return to_response(exchange)


def _settled(exchange: Exchange, response: Response) -> Response:
    """Have an answer paid for before it leaves; what cannot be is withheld."""
    status = response.status_code
    held = None
    if not response.direct_passthrough:
        held = exchange.held_answer(response.mimetype or "", response.content_length)
    if held is None or not held.add(response.get_data()):
        exchange.end_run(status)
        return response
    withheld = drive(held.settle(status))
    if withheld is None:
        return response
    exchange.refuse(withheld)
    return to_response(exchange)


def guard_mounts(app: WSGI, guard: Guard) -> None:
    """Put a gate before each app that is mounted beside Flask and has none."""
    for dispatcher, prefix in mounts(app):
        mounted = dispatcher.mounts[prefix]
        if not isinstance(mounted, MountGate) and guarded_app_of(mounted) is None:
            dispatcher.mounts[prefix] = MountGate(mounted, guard)


def _close(exchange: Exchange, response: Response) -> Response:
    exchange.started(response.status_code)
    exchange.ended()
    return response


def to_response(exchange: Exchange) -> Response:
    """Write the refusal."""
    status, headers, body = exchange.answer()
    return Response(body, status=status_line(status), headers=list(headers))
