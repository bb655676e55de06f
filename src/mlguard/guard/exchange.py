"""What happens around one request?"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span

from mlguard import refusals
from mlguard.auth import Verification
from mlguard.guard.callers import anonymous, identify, lacking, lapsed
from mlguard.guard.fare import Fare
from mlguard.guard.parts import Parts
from mlguard.guard.plan import Plan
from mlguard.guard.run import Run
from mlguard.messages import Body, Call, Debit, Deny, FetchKeys, Headers, Principal, ReadBody
from mlguard.quotas import Admission, Demand, RouteLimit
from mlguard.tracing import redacted, reset, sampled_trace, trace_id

LONGEST_ATTRIBUTE = 256  # characters of what a client wrote
SWITCHING = 101

Steps = Generator[ReadBody | FetchKeys | Debit, Any, Deny | None]
"""A decision in the making: yields what it needs of the outside, returns the refusal, if any."""

watched: ContextVar[Exchange | None] = ContextVar("mlguard_watched", default=None)
"""The request that some guard watches around an app which is called without its scope."""


class Exchange:
    """One request and its answer.

    Attributes:
        principal: Who calls, once decided.
        deny: The refusal, where there is one.
        decided: Whether a decision was made about what is being dispatched.
        depth: In how many handlers of decided routes it is: what they dispatch is theirs.
        run: The inference that the settings place on this route, while it lasts.
        route: The framework's template, "" where nothing matched.
        span: The server span, an invalid one where there is none.
    """

    __slots__ = (
        "_began",
        "_call",
        "_closed",
        "_fare",
        "_parts",
        "_stranger",
        "_tokens",
        "decided",
        "deny",
        "depth",
        "principal",
        "route",
        "run",
        "span",
    )

    def __init__(self, parts: Parts, call: Call) -> None:
        self._parts = parts
        self._call = call
        self._began = parts.timer()
        self._closed = False
        self._tokens: list[Token[Any]] = []
        self.decided = False
        self.depth = 0
        self.deny: Deny | None = None
        self._stranger: Principal | None = None
        self._fare = Fare(parts)
        self.principal: Principal | None = None
        self.route = ""
        self.run: Run | None = None
        self.span: Span = trace.INVALID_SPAN
        parts.metrics.request_started()

    def adopt(self, span: Span) -> None:
        """Take the server span that the framework's instrumentation opened.

        What one framework's instrumentation tells and another's does not is told here; the values
        of the query leave the span, since they may hold secrets.
        """
        self.span = span
        if not span.is_recording():
            return
        call = self._call
        told: dict[str, str] = {}
        if call.query:
            told["url.query"] = redacted(call.query)
        if call.user_agent:
            told["user_agent.original"] = call.user_agent[:LONGEST_ATTRIBUTE]
        client = self._parts.proxies.client(call.peer, call.forwarded)
        if client:
            told["client.address"] = client
        span.set_attributes(told)

    def decide(
        self,
        route: str | None,
        scopes: frozenset[str] = frozenset(),
        limits: Sequence[RouteLimit] = (),
    ) -> Steps:
        """Decide, when the framework has matched the route and before its handler runs.

        Each dispatch is decided: a middleware may dispatch one request twice, on other paths too.

        Args:
            route: The matched template, None where nothing matched.
            scopes: What its handler demands beyond the settings.
            limits: What its handler declares beyond the settings.
        """
        self.route = route or ""
        self.principal = self.deny = None
        self.decided = True  # whatever it raises: it is not asked again
        self.deny = yield from self._decision(route, scopes, limits)
        self._mark()
        return self.deny

    @property
    def is_authenticated(self) -> bool:
        """Whether this request's guard asks who calls."""
        return self._parts.authenticator is not None

    def reopen(self) -> None:
        """Take note that something is dispatched, which is not decided yet."""
        if not self.depth:
            self.decided = False

    @contextmanager
    def handing_over(self) -> Iterator[None]:
        """Surround the handler of a decided route: what it dispatches needs no decision."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def _decision(
        self, route: str | None, scopes: frozenset[str], limits: Sequence[RouteLimit]
    ) -> Steps:
        parts = self._parts
        plan = parts.by_route.get(route) if route else None
        scopes = scopes | plan.scopes if plan else scopes
        is_public = not scopes and route in parts.public
        if refusal := self._shed(route, is_public=is_public):
            return refusal
        if not is_public:
            who = yield from self._authenticate(parts.needed | scopes)
            if isinstance(who, Deny):
                return who
        elif plan is None and not limits:
            return None
        fare = self._fare
        fare.is_counted = route not in parts.uncounted
        if refusal := fare.board(self.payer, plan.name if plan else None, is_public=is_public):
            return refusal
        flies = not fare.has_paid
        demand = Demand(is_request=not is_public, flies=flies, limits=limits)
        run: Run | None = None
        if plan is not None:
            body = yield from self._read()
            if isinstance(body, Deny):
                return body
            run = self._open(plan, body)
            amounts = parts.amounts(run.inference)
            demand = Demand(plan.name, amounts, flies=flies, limits=limits)
        charged = yield from fare.charge(self.payer, demand)
        if isinstance(charged, Deny):
            return charged
        fare.keep(charged)
        if run is not None:
            self.run = run
            run.pay(charged)
            run.begin()
        return None

    def _shed(self, route: str | None, *, is_public: bool) -> Deny | None:
        """Refuse what is not even looked at: too much at once, or too many guesses at routes."""
        parts = self._parts
        if parts.flights.are_too_many and not is_public and route not in parts.uncounted:
            return self._fare.refused("", refusals.overloaded())
        if route is None and (wait := parts.unmatched.count(self._client)):
            parts.lost(self._client)
            return self._fare.refused("", refusals.rate_exceeded(math.ceil(wait)))
        return None

    def _open(self, plan: Plan, body: Any) -> Run:
        """Make the inference that the settings place on a route."""
        rows = plan.layout.rows(body)
        asked = 1 if rows is None else len(rows)
        found = rows is not None
        return Run(self._parts, plan, self.admit, rows or (), asked=asked, found=found)

    @property
    def _client(self) -> str:
        return self._parts.proxies.client(self._call.peer, self._call.forwarded)

    @property
    def payer(self) -> Principal:
        """Who is charged: the caller, or the client's network where none is known."""
        if self.principal is not None:
            return self.principal
        if self._stranger is None:
            self._stranger = anonymous(self._parts, self._call)
        return self._stranger

    def _read(self) -> Generator[ReadBody, Body, Any]:
        """Read the request's body: the parsed JSON, None where it is none, or a refusal."""
        limit = self._parts.settings.service.max_body
        if (self._call.content_length or 0) > limit:
            return refusals.body_too_large(limit)
        body = yield ReadBody(limit)
        return refusals.body_too_large(limit) if body.too_large else body.value

    def _authenticate(self, needed: frozenset[str]) -> Verification:
        """Find out who calls, and whether that is enough."""
        who = yield from identify(self._parts, self._call)
        if isinstance(who, Principal):
            self.principal = who
            who = lacking(who, needed) or who
        if self._parts.authenticator is not None:
            self._parts.metrics.authenticated(who.code if isinstance(who, Deny) else "ok")
        return who

    def demand(self, scopes: frozenset[str]) -> Deny | None:
        """Refuse a handler's caller who was not granted all of these scopes."""
        return lacking(self.principal, scopes)

    def admit(self, model: str, amounts: Mapping[str, int]) -> Admission:
        """Debit what a model costs that a handler asks, where its caller may still ask it."""
        parts, who = self._parts, self.principal
        refusal = lapsed(parts, who) or lacking(who, parts.models[model].scopes)
        if refusal:
            return refusal
        demand = Demand(model, amounts, is_request=False)
        return (yield from self._fare.charge(self.payer, demand))

    def limit(self, limits: Sequence[RouteLimit]) -> Steps:
        """Debit what a handler declares, where the decision did not know of it."""
        charged = yield from self._fare.charge(self.payer, Demand(is_request=False, limits=limits))
        if isinstance(charged, Deny):
            return charged
        self._fare.keep(charged)
        return None

    @property
    def limited(self) -> set[object]:
        """Which declared limits were charged, or need not be."""
        return self._fare.limited

    @property
    def headers(self) -> Headers:
        """What an admitted answer says of the quota."""
        return self._fare.headers

    def _mark(self) -> None:
        """Write on the server span who asked and what was decided."""
        span = self.span
        if not span.is_recording():
            return
        span.set_attribute("mlguard.decision", "deny" if self.deny else "allow")
        if self.deny:
            span.set_attribute("mlguard.deny.code", self.deny.code)
        if self.principal:
            span.set_attribute("enduser.pseudo.id", self.principal.pseudonym)

    def skip(self, route: str) -> None:
        """Let pass what the framework answers without the app's code.

        Args:
            route: The matched template.
        """
        self.decided = True
        self.route = route

    def enter(self) -> None:
        """Make this the current request, and its inference the current span, for the handler."""
        self._tokens.append(self._parts.current.set(self))
        if self.run is not None:
            self._tokens.append(self.run.attach())

    def leave(self) -> None:
        """Undo `enter`, in the same context."""
        while self._tokens:
            reset(self._tokens.pop())

    def refuse(self, deny: Deny) -> None:
        """Turn an admitted request into a refused one, out of its handler.

        It was a request all the same; the model that was refused was not asked.
        """
        self.deny = deny
        self.answered(deny.status)
        self._mark()

    def answer(self) -> tuple[int, Headers, bytes]:
        """Write the refusal: status, headers and body, the same on every framework."""
        deny = self.deny
        if deny is None:
            raise AssertionError("only a refused request has an answer of ours")
        body = refusals.body(deny, trace_id(self.span))
        fixed = (("Content-Type", refusals.CONTENT_TYPE), ("Content-Length", str(len(body))))
        return deny.status, (*fixed, *deny.headers, *self._policies(deny)), body

    def _policies(self, deny: Deny) -> Headers:
        """Tell a caller who is known which limits hold, where the refusal does not."""
        parts = self._parts
        is_unknown = self.principal is None and parts.authenticator is not None
        is_told = any(name == "RateLimit-Policy" for name, _ in deny.headers)
        if is_unknown or is_told:
            return ()
        plan = parts.by_route.get(self.route)
        return self._fare.policies(self.payer, plan.name if plan else None)

    @property
    def reads_answer(self) -> bool:
        """Whether predictions are looked for in this answer."""
        return self.run is not None and self.run.plan.layout.reads_answers

    @property
    def answer_limit(self) -> int:
        """Bytes of an answer that are kept for that at most."""
        return self._parts.settings.service.max_body

    def answered(
        self,
        status: int,
        answer: Any = None,
        error: BaseException | None = None,
        *,
        sent: bool = False,
    ) -> None:
        """End the route's inference, when its handler's answer is complete.

        Args:
            status: The handler's HTTP status.
            answer: The parsed JSON answer, None where it was not read.
            error: What the handler raised.
            sent: Whether some of the answer had left before that.
        """
        run, self.run = self.run, None
        if run is not None:
            layout = run.plan.layout
            answered = layout.predictions(answer)
            run.end(status, answered, error, sent=sent, outputs=layout.outputs(answer))

    def close(self, status: int) -> None:
        """End the request, at its last byte; more calls do nothing.

        A WebSocket is told to have begun, and is in flight until it is told to have ended.

        Args:
            status: The HTTP status sent; 499 where the client left before the end.
        """
        if status != SWITCHING:
            self._fare.land()
        if self._closed:
            return
        self._closed = True
        parts = self._parts
        sampled = sampled_trace(self.span)
        seconds = parts.timer() - self._began
        parts.metrics.request_ended(self._call.method, self.route, status, seconds, sampled)
