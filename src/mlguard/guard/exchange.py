"""What happens around one request?"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import Token
from typing import Any

from opentelemetry import trace
from opentelemetry.trace import Span

from mlguard import refusals
from mlguard.auth import Verification
from mlguard.bodies import Rows
from mlguard.guard.callers import anonymous, identify, lacking, lapsed
from mlguard.guard.parts import Parts
from mlguard.guard.run import Run
from mlguard.messages import Body, Call, Deny, FetchKeys, Headers, Principal, ReadBody
from mlguard.quotas import Debit
from mlguard.tracing import redacted, reset, sampled_trace, trace_id

LONGEST_ATTRIBUTE = 256  # characters of what a client wrote

Steps = Generator[ReadBody | FetchKeys, Any, Deny | None]
"""A decision in the making: yields what it needs of the outside, returns the refusal, if any."""


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
        "_debit",
        "_left",
        "_parts",
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
        self._left: dict[str, str] = {}
        self.principal: Principal | None = None
        self.route = ""
        self.run: Run | None = None
        self._debit: Debit | None = None
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

    def decide(self, route: str | None, scopes: frozenset[str] = frozenset()) -> Steps:
        """Decide, when the framework has matched the route and before its handler runs.

        Each dispatch is decided: a middleware may dispatch one request twice, on other paths too.

        Args:
            route: The matched template, None where nothing matched.
            scopes: What its handler demands beyond the settings.
        """
        self.route = route or ""
        self.principal = self.deny = None
        self.deny = yield from self._decision(route, scopes)
        self.decided = True
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

    def _decision(self, route: str | None, scopes: frozenset[str]) -> Steps:
        parts = self._parts
        plan = parts.by_route.get(route) if route else None
        scopes = scopes | plan.scopes if plan else scopes
        if scopes or route not in parts.public:
            who = yield from self._authenticate(parts.needed | scopes)
            if isinstance(who, Deny):
                return who
        elif plan is None:
            return None
        rows: Rows | None = ()
        asked = 1
        if plan is not None:
            body = yield from self._read()
            if isinstance(body, Deny):
                return body
            rows = plan.layout.rows(body)
            asked = 1 if rows is None else len(rows)
        debit = self.charge(plan.name if plan else None, asked)
        if isinstance(debit, Deny):
            return debit
        self._debit = debit
        if plan is not None:
            found = rows is not None
            self.run = Run(
                parts, plan, self.charge, rows or (), asked=asked, debit=debit, found=found
            )
            self.run.begin()
        return None

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

    def admit(self, model: str, rows: int, *, request: bool) -> Debit | Deny | None:
        """Debit what a model costs that a handler asks, where its caller may still ask it."""
        parts, who = self._parts, self.principal
        refusal = lapsed(parts, who) or lacking(who, parts.models[model].scopes)
        return refusal or self.charge(model, rows, request=request)

    def charge(self, model: str | None, rows: int, *, request: bool = True) -> Debit | Deny | None:
        """Debit what a call costs, all or nothing; keeps the headers for the answer."""
        parts = self._parts
        if parts.quota is None:
            return None
        payer = self.principal or anonymous(parts, self._call)
        debit = parts.quota.admit(payer.key, model, rows, parts.timer(), request=request)
        if isinstance(debit, Deny):
            parts.metrics.refused(model or "", debit.code)
        else:
            self._left.update(debit.left)
        return debit

    @property
    def headers(self) -> Headers:
        """What an admitted answer says of the quota."""
        quota = self._parts.quota
        return () if quota is None else quota.headers(self._left)

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
        """Turn an admitted request into a refused one, out of its handler; it costs nothing."""
        self.deny = deny
        self.answered(deny.status)
        if self._debit is not None:
            self._debit.cancel(self._parts.timer())
        self._mark()

    def answer(self) -> tuple[int, Headers, bytes]:
        """Write the refusal: status, headers and body, the same on every framework."""
        deny = self.deny
        if deny is None:
            raise AssertionError("only a refused request has an answer of ours")
        body = refusals.body(deny, trace_id(self.span))
        fixed = (("Content-Type", refusals.CONTENT_TYPE), ("Content-Length", str(len(body))))
        return deny.status, (*fixed, *deny.headers), body

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
            run.end(status, run.plan.layout.predictions(answer), error, sent=sent)

    def close(self, status: int) -> None:
        """End the request, at its last byte; more calls do nothing.

        Args:
            status: The HTTP status sent; 499 where the client left before the end.
        """
        if self._closed:
            return
        self._closed = True
        parts = self._parts
        sampled = sampled_trace(self.span)
        seconds = parts.timer() - self._began
        parts.metrics.request_ended(self._call.method, self.route, status, seconds, sampled)
