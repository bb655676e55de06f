"""What happens around one request? Its whole life, from the first byte to the last.

    OPEN ──matched──► DECIDED ──started──► STARTED ──chunk, …──► ENDED
      └────────────────started───────────────┘           ▲
                 ended · closed, from anywhere ──────────┘

An adapter reports what happened; what is returned is what it has to do. What cannot follow is a
`ProtocolError`. A request ends once, whatever its server does or fails to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span

from mlguard import refusals
from mlguard.bodies import PassingBody
from mlguard.call_ids import HEADER
from mlguard.errors import ProtocolError, Refused
from mlguard.guard.answer import HeldAnswer
from mlguard.guard.authentication import anonymous, lacking, lapsed
from mlguard.guard.bound import BoundRoute
from mlguard.guard.charges import Charges
from mlguard.guard.decision import Steps, decide, go_on
from mlguard.guard.inference import InferenceContext, Settling
from mlguard.guard.models import ServedModel
from mlguard.guard.parts import Parts
from mlguard.guard.record import Record
from mlguard.guard.several import SeveralInferences
from mlguard.messages import Call, Deny, Headers, Outcome, Principal
from mlguard.quotas import Admission, Caller, Cost, Reservation, RouteLimit
from mlguard.tracing import (
    answer_attributes,
    class_name,
    redacted,
    sampled_trace,
    server_span_around,
    trace_id,
)

_NO_PARAMETERS: Mapping[str, Any] = {}
LEFT = 499
SWITCHING = 101
OPEN, DECIDED, STARTED, ENDED = "open", "decided", "started", "ended"

_FOLLOWS = {
    OPEN: frozenset(("matched", "skipped", "started", "left", "failed")),
    DECIDED: frozenset(("matched", "skipped", "started", "left", "failed")),
    STARTED: frozenset(("started", "chunk", "left", "failed")),
    ENDED: frozenset(("left", "failed")),
}

watched: ContextVar[Exchange | None] = ContextVar("mlguard_watched", default=None)
"""The request that some guard watches around an app which is called without its scope."""


class Exchange:
    """One request and its answer.

    Attributes:
        call: The request.
        call_id: Names the first call of a model whose predictions are kept; else "".
        parts: What it meets.
        charges: What it is charged, and holds.
        principal: Who calls, once decided.
        deny: The refusal, where there is one.
        would_deny: The first refusal that is only told, where nothing is refused.
        decided: Whether a decision was made about what is being dispatched.
        dispatched: Whether a router of a guarded app was asked.
        depth: In how many handlers of decided routes it is: what they dispatch is theirs.
        model: The one that the decision is about; None where no model is asked.
        parameters: Those of the path, as the framework read them.
        is_cut: Whether what has begun to leave must not end as if it were whole.
        run: The inference that the settings place on this route, while it lasts.
        bound: The matched route.
        finish_joined: Ends the server span that somebody else opened, where that is left to us.
        request: The request as the framework shows it to its handler, None where there is none.
        span: The server span, an invalid one where there is none.
    """

    __slots__ = (
        "_began",
        "_caller",
        "_client",
        "_error",
        "_first",
        "_has_left",
        "_has_sent",
        "_outcomes",
        "_owns_span",
        "_phase",
        "_raised",  # what a handler is stopped by, whatever catches it there
        "_replaces",
        "_spans",
        "_status",
        "bound",
        "call",
        "call_id",
        "charges",
        "decided",
        "deny",
        "depth",
        "dispatched",
        "finish_joined",
        "is_cut",
        "model",
        "parameters",
        "parts",
        "principal",
        "request",
        "run",
        "span",
        "would_deny",
    )

    def __init__(self, parts: Parts, call: Call) -> None:
        self.parts = parts
        self.call = call
        self.call_id = ""
        self._began = parts.timer()
        self._phase = OPEN
        self._status = 0
        self._first: float | None = None
        self._has_left = self._has_sent = self._replaces = self.is_cut = False
        self._error: BaseException | None = None
        self._raised: Deny | None = None
        self._client: str | None = None
        self._caller: Caller | None = None
        self.charges = Charges(parts)
        self._outcomes: list[Outcome] = []
        self._spans: list[Span] = []
        self._owns_span = False
        self.decided = self.dispatched = False
        self.depth = 0
        self.deny: Deny | None = None
        self.would_deny: Deny | None = None
        self.principal: Principal | None = None
        self.bound = parts.unmatched
        self.model: ServedModel | None = None
        self.parameters: Mapping[str, Any] = _NO_PARAMETERS
        self.request: Any = None
        self.finish_joined: Callable[[], None] | None = None
        self.run: InferenceContext | SeveralInferences | None = None
        self.span: Span = trace.INVALID_SPAN
        parts.metrics.active.add(1)

    # ---- the server span

    def open_span(self, *, is_last: bool = False) -> Context | None:
        """Take the server span that somebody has opened around, or open it, once.

        Args:
            is_last: Whether nobody within opens it any more, if it is not ours to do.

        Returns:
            The context in which ours is the current one, to be attached around the app.
        """
        if self.has_span:
            return None
        around = server_span_around()
        if around is not None:
            self._join(around)
        elif self.parts.tracing.owns_server_spans or (is_last and self.parts.tracing.provider):
            return self._open_span()
        return None

    @property
    def has_span(self) -> bool:
        """Whether the server span is known."""
        return self._owns_span or self.span is not trace.INVALID_SPAN

    def _open_span(self) -> Context:
        parts, call = self.parts, self.call
        began = time.time_ns() - int((parts.timer() - self._began) * 1e9)
        self._owns_span = True
        self.span, context = parts.tracing.server_span(
            call, trusted=parts.proxies.trusts(call.peer), client=self.client, start_ns=began
        )
        return context

    def _join(self, span: Span) -> None:
        """Take a server span that somebody else ends.

        The values of the query leave it, since they may hold secrets.
        """
        self.span = span
        if span.is_recording():
            told = {"client.address": self.client} if self.client else {}
            if self.call.query:
                told["url.query"] = redacted(self.call.query)
            span.set_attributes(told)

    # ---- opened

    def opened(self) -> Deny | None:
        """Refuse what is too long to be looked at by anybody."""
        service, call = self.parts.settings.service, self.call
        if call.uri > service.max_uri:
            deny = refusals.uri_too_long(service.max_uri)
        elif call.longest > service.max_header:
            deny = refusals.header_too_large(service.max_header)
        else:
            return None
        if self.bound.observes:
            self._observe(deny)
            return None
        self.deny = deny
        self.decided = True
        self._phase = DECIDED
        return self.deny

    # ---- matched: the decision

    def bind(self, host: str, template: str, scopes: frozenset[str]) -> BoundRoute:
        """Say what holds for a route, by the settings of whoever watches this request."""
        return self.parts.bind(host, template, scopes)

    @property
    def unmatched(self) -> BoundRoute:
        """What holds where no route matched."""
        return self.parts.unmatched

    def dispatching(self) -> None:
        """A router is asked, and nothing is decided yet of what it dispatches."""
        self.dispatched = True
        if not self.depth:
            self.decided = False

    def matched(self, bound: BoundRoute, limits: Sequence[RouteLimit] = ()) -> Steps:
        """Decide, when the framework has matched the route and before its handler runs.

        Each dispatch is decided: a middleware may dispatch one request twice, on other paths too.

        Args:
            bound: The route; `parts.unmatched` where nothing matched.
            limits: What its handler declares beyond the settings.
        """
        self._check("matched")
        if self._phase is DECIDED:
            self._forget_dispatch()
            self.principal = self.deny = self._caller = None
        self._phase = DECIDED
        self.bound = bound
        self.decided = True  # whatever it raises: it is not asked again
        self.charges.observes = bound.observes
        is_told = self.would_deny is not None and bound.observes
        deny = None if is_told else (yield from decide(self, bound, limits))
        if deny is not None and bound.observes and not self._has_left:
            self._observe(deny)
            yield from go_on(self, bound, deny)
            deny = None
        self.deny = deny
        if not self._owns_span and self.span is not trace.INVALID_SPAN:
            self._tell_joined()
        return deny

    def _forget_dispatch(self) -> None:
        """End what was dispatched before: what became of it says nothing of the next."""
        self.end_run(200)
        self._error = self._raised = None

    def _observe(self, deny: Deny, model: str = "") -> None:
        """Tell what would be refused, and charge nothing more: it would not have come so far."""
        if self.would_deny is None:
            self.would_deny = deny
            self.parts.would_refuse(model or (self.model.name if self.model else ""), deny)
        self.charges.is_counted = False

    def skipped(self, bound: BoundRoute) -> None:
        """Let pass what the framework answers without the app's code."""
        self._check("skipped")
        self._phase = DECIDED
        self.decided = True
        self.bound = bound

    def skips_redirect(self, path: str) -> bool:
        """Let a router's redirect pass where all below is public: from /ui to /ui/, of `/ui/*`."""
        if path not in self.parts.public_paths:
            return False
        self.skipped(self.unmatched)
        return True

    @contextmanager
    def handing_over(self) -> Iterator[None]:
        """Surround the handler of a decided route: what it dispatches needs no decision."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    @property
    def is_authenticated(self) -> bool:
        """Whether this request's guard asks who calls."""
        return self.parts.authenticator is not None

    @property
    def client(self) -> str:
        """The address that the request comes from, through proxies that are trusted."""
        client = self._client
        if client is None:
            client = self.parts.proxies.client(self.call.peer, self.call.forwarded)
            self._client = client
        return client

    @property
    def payer(self) -> Caller:
        """Who is charged: the caller, or the client's network where none is known."""
        caller = self._caller
        if caller is None:
            who = self.principal or anonymous(self.parts, self.client)
            caller = self._caller = self.parts.quota.caller(who)
        return caller

    # ---- what a handler asks

    def demand(self, scopes: frozenset[str]) -> Deny | None:
        """Refuse a handler's caller who was not granted all of these scopes."""
        return self._stops(lacking(self.principal, scopes))

    def admit(self, model: str, amounts: Mapping[str, int]) -> Admission:
        """Debit what a model costs that a handler asks, where its caller may still ask it."""
        parts, who = self.parts, self.principal
        refusal = lapsed(parts, who) or lacking(who, parts.models[model].scopes)
        if refusal := self._stops(refusal, model):
            return refusal
        demand = Cost(model, amounts, is_request=False)
        charged = yield from self.charges.charge(self.payer, demand)
        return self._stopping(model, charged)

    def extend(self, model: str, amounts: dict[str, int]) -> Admission:
        """Debit what an answer holds that was not reserved; a refusal withholds it."""
        charged = yield from self.charges.extend(self.payer, model, amounts)
        return self._stopping(model, charged)

    def name_call(self, call_id: str) -> None:
        """Take the name of a call of a model; the answer tells that of the first."""
        self.call_id = self.call_id or call_id

    def limit(self, limits: Sequence[RouteLimit]) -> Steps:
        """Debit what a handler declares, where the decision did not know of it."""
        demand = Cost(is_request=False, limits=limits)
        charged = yield from self.charges.charge(self.payer, demand)
        self._stopping("", charged)
        return self._raised

    def _stops(self, deny: Deny | None, model: str = "") -> Deny | None:
        """Keep in mind the refusal that a handler is about to be stopped by, if it is."""
        if deny is not None and self.bound.observes:
            self._observe(deny, model)
            deny = None
        self._raised = deny
        return deny

    def _stopping(self, model: str, charged: Reservation | Deny) -> Reservation | Deny:
        """Keep in mind, and count, the refusal that a handler is about to be stopped by."""
        if not isinstance(charged, Deny):
            self._raised = None
            return charged
        deny = self._stops(self.charges.refused(model, charged), model)
        return deny or self.parts.quota.nothing()

    @property
    def limited(self) -> set[object]:
        """Which declared limits were charged, or need not be."""
        return self.charges.limited

    def handler_started(self) -> None:
        """The model's handler begins: until now it waited for a thread, or for dependencies."""
        if self.run is not None:
            self.run.restart()

    def handler_returned(self) -> None:
        """The model's handler has returned: what follows is waiting for the event loop, or I/O."""
        if self.run is not None:
            self.run.returned()

    # ---- started, chunk, ended, left, failed: the answer

    @property
    def passing(self) -> PassingBody | None:
        """What counts the body while the handler reads it; None where nothing does."""
        return self.run.passing if isinstance(self.run, InferenceContext) else None

    def settle_passing(self, status: int) -> Settling:
        """Charge what has passed of the body, before the answer leaves; return what withholds it.

        Args:
            status: The answer's HTTP status; an error holds no predictions.
        """
        run = self.run
        if not isinstance(run, InferenceContext) or run.passing is None or status >= 400:
            return None
        return (yield from run.settle_passing())

    def held_answer(self, media_type: str, length: int | None) -> HeldAnswer | None:
        """Hold an answer that is read; None where it can go on as it comes."""
        run, limit = self.run, self.parts.settings.service.max_body
        if run is None or not run.reads_answers or (length or 0) > limit:
            return None
        return HeldAnswer(self, run, limit) if HeldAnswer.reads(media_type) else None

    def refusal_in(self, error: BaseException) -> Deny | None:
        """Tell the refusal that stopped a handler, whatever has become of it on its way out."""
        return error.deny if isinstance(error, Refused) else self._raised

    def refuse(self, deny: Deny) -> None:
        """Turn an admitted request into a refused one, before a byte of its answer.

        It was a request all the same; the model that was refused was not asked.
        """
        self.deny = deny
        self._raised = None
        self.end_run(deny.status)
        if not self._owns_span:
            self._tell_joined()

    def started(self, status: int) -> Deny | None:
        """Begin the answer; return the refusal that is to be sent in its place.

        A refusal that was raised in the handler holds whatever caught it and made an error of it.
        """
        self._check("started")
        self._phase = STARTED
        raised = self._raised
        if raised is not None and self.deny is None and status >= 400 and not self._has_sent:
            self.replace(raised)
        deny = self.deny if self._replaces and not self._has_sent else None
        self._status = status if deny is None else deny.status
        return deny

    def unsent(self) -> None:
        """The head could not be sent: the answer has not begun."""
        self._phase = DECIDED
        self._status = 0

    def replace(self, deny: Deny) -> None:
        """Refuse what has begun within the app, and of which nothing has left."""
        self.refuse(deny)
        self._replaces = True

    def chunk(self) -> None:
        """Some bytes of the answer leave."""
        if not self._has_sent:
            self._check("chunk")
            self._has_sent = True
            self._first = self.parts.timer() - self._began

    def ended(self) -> None:
        """The last byte of the answer leaves: the request is over."""
        if self._phase is not STARTED:
            self.closed()  # no answer was begun, or it is over
            return
        if self._first is None:
            self._first = self.parts.timer() - self._began
        self._end(self._status)

    def left(self) -> None:
        """The client is gone."""
        self._has_left = True
        if not self._owns_span and self._phase is not ENDED and not self.call.is_websocket:
            self.span.set_attribute("http.response.status_code", LEFT)

    def failed(self, error: BaseException) -> None:
        """The app raised."""
        if self._error is None:
            self._error = error

    def exchanged(self, received: int, sent: int) -> None:
        """So many messages went through a WebSocket."""
        metrics, route = self.parts.metrics, self.bound.template
        metrics.messages(route, "received", received)
        metrics.messages(route, "sent", sent)

    def closed(self) -> None:
        """The server is done with it, however that came about."""
        if self._phase is ENDED:
            return
        if self._phase is not STARTED:
            self._status = 0
        self._end(self._status or (self.deny.status if self.deny else 500))

    def cut_off(self, deny: Deny) -> None:
        """Refuse what has begun to leave: the stream ends here."""
        self.deny = deny
        self._raised = None
        self.is_cut = True

    @property
    def seconds(self) -> float:
        """How long it has lasted."""
        return self.parts.timer() - self._began

    @property
    def has_failed(self) -> bool:
        """Whether the app raised."""
        return self._error is not None

    @property
    def has_begun(self) -> bool:
        """Whether the answer has begun to leave."""
        return self._phase in (STARTED, ENDED)

    @property
    def has_ended(self) -> bool:
        """Whether it is over."""
        return self._phase is ENDED

    # ---- what clients are told

    @property
    def headers(self) -> Headers:
        """What an admitted answer says of the quota, and by which name labels find it."""
        if self.deny is not None:
            return ()
        # A client that is shut out by nobody is not to slow down by itself.
        told = () if self.bound.observes else self.charges.headers
        return (*told, (HEADER, self.call_id)) if self.call_id else told

    def answer(self) -> tuple[int, Headers, bytes]:
        """Write the refusal: status, headers and body, the same on every framework.

        The body is the app's where it writes one; status and headers never are.
        """
        deny = self.deny
        if deny is None:
            raise AssertionError("only a refused request has an answer of ours")
        trace, kind, own = trace_id(self.span), refusals.CONTENT_TYPE, self.parts.refusal_body
        body = None if own is None else own.write(deny, trace)
        if own is None or body is None:
            body = refusals.body(deny, trace)
        else:
            kind = own.media_type
        fixed = (("Content-Type", kind), ("Content-Length", str(len(body))))
        return deny.status, (*fixed, *deny.headers, *self._policies(deny)), body

    def _policies(self, deny: Deny) -> Headers:
        """Tell a caller who is known which limits hold, where the refusal does not."""
        parts = self.parts
        is_unknown = self.principal is None and parts.authenticator is not None
        is_told = any(name == "RateLimit-Policy" for name, _ in deny.headers)
        if is_unknown or is_told:
            return ()
        model = self.model
        return self.charges.policies(self.payer, model.name if model else None)

    # ---- the end

    def end_run(self, status: int, answered: Any = None) -> None:
        """End the route's inference, when its handler's answer is complete.

        Args:
            status: The handler's HTTP status.
            answered: How many rows its answer holds, as the inference read them; None where that is
                not known.
        """
        run, self.run = self.run, None
        if run is not None:
            sent = self._has_sent and status < 400
            run.end(status, self._error, sent=sent, answered=answered)

    def observed(self, outcome: Outcome, span: Span) -> None:
        """Take what is told of an inference; one that outlives the request is told alone."""
        if self._phase is ENDED:
            told = sampled_trace(span)
            self.parts.recorder.put(Record(trace_id=told, outcomes=[outcome], spans=[span]))
        else:
            self._outcomes.append(outcome)
            self._spans.append(span)

    def _end(self, status: int) -> None:
        parts, call = self.parts, self.call
        if self._has_left and self.deny is None and status != SWITCHING:
            # The model has run, though nobody waits for what it said.
            self._end_left()
            status = LEFT
        else:
            self.end_run(status)
        seconds = parts.timer() - self._began
        self.charges.release()
        if self.span is trace.INVALID_SPAN and parts.tracing.provider is not None:
            self._open_span()  # what answered stands outside of whoever opens it
        if self._owns_span:
            self._finish_span(status)
        if self.finish_joined is not None:
            self.finish_joined()
        self._phase = ENDED
        self.request = None  # which may hold this: the garbage collector is spared the circle
        parts.metrics.active.add(-1)
        parts.recorder.put(
            Record(
                call.method,
                self.bound.template,
                status,
                seconds,
                self._first,
                sampled_trace(self.span),
                self._outcomes,
                self._spans,
            )
        )

    def _end_left(self) -> None:
        run, self.run = self.run, None
        if run is None:
            return
        if self._status:
            run.end(self._status, None, sent=self._status < 400)
        else:
            run.end(200, self._error or GeneratorExit(), sent=True)

    def _finish_span(self, status: int) -> None:
        error = self._error
        failed = None if error is None else class_name(error)
        told = answer_attributes(self.bound.template, status, failed)
        if self._phase is not OPEN:
            self._tell(told)
        method = "WS" if self.call.is_websocket else self.call.method
        self.parts.tracing.finish(
            self.span,
            name=self.bound.span_name(method),
            attributes=told,
            error=error is not None or status >= 500,
        )
        self._spans.append(self.span)

    def _tell_joined(self) -> None:
        if self.span.is_recording():
            told: dict[str, Any] = {}
            self._tell(told)
            self.span.set_attributes(told)

    def _tell(self, told: dict[str, Any]) -> None:
        """Write down who asked and what was decided."""
        deny, passed = self.deny, self.would_deny
        told["mlguard.decision"] = "deny" if deny else "would_deny" if passed else "allow"
        if found := deny or passed:
            told["mlguard.deny.code"] = found.code
        if self.principal:
            told["enduser.pseudo.id"] = self.principal.pseudonym

    def _check(self, event: str) -> None:
        if event not in _FOLLOWS[self._phase]:
            raise ProtocolError(f"{event} cannot follow: the request is {self._phase}")
