"""What can follow in the life of a request, and does it end exactly once?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from mlguard.app.drivers import drive
from mlguard.errors import ProtocolError, Refused
from mlguard.guard import Exchange, Guard, InferenceContext, Steps
from mlguard.ledger import Change, MemoryLedger, Order, Receipt
from mlguard.messages import Compute, Cut, Debit, Deny, ReadBody
from mlguard.quotas import Quota, RouteLimit
from mlguard.settings import Quotas, Rate
from tests.core.guards import (
    AUTH,
    MODEL,
    SETTINGS,
    at,
    call,
    guarded,
    in_a_thread,
    instances,
    metric,
    predictions,
)

COUNT = "http_server_request_duration_seconds_count"
ACTIVE = "http_server_active_requests"


def opened(exchange: Exchange) -> None:
    """Do nothing yet."""


def decided(exchange: Exchange) -> None:
    """Match a route."""
    assert in_a_thread(exchange, "/me", b"") is None


def begun(exchange: Exchange) -> None:
    """Begin the answer."""
    decided(exchange)
    exchange.started(200)


def over(exchange: Exchange) -> None:
    """End it."""
    begun(exchange)
    exchange.ended()


EVENTS: dict[str, Callable[[Exchange], object]] = {
    "matched": lambda exchange: drive(exchange.matched(at(exchange, "/me"))),
    "skipped": lambda exchange: exchange.skipped(at(exchange, "/me")),
    "started": lambda exchange: exchange.started(200),
    "chunk": lambda exchange: exchange.chunk(),
    "ended": lambda exchange: exchange.ended(),
    "closed": lambda exchange: exchange.closed(),
    "left": lambda exchange: exchange.left(),
    "failed": lambda exchange: exchange.failed(ValueError()),
}
ALWAYS = {"ended", "closed", "left", "failed"}
FOLLOWS: dict[Callable[[Exchange], None], set[str]] = {
    opened: {"matched", "skipped", "started"},
    decided: {"matched", "skipped", "started"},
    begun: {"started", "chunk"},
    over: set(),
}
PAIRS = [(phase, event) for phase in FOLLOWS for event in EVENTS]


def what_follows(phase: Callable[[Exchange], None]) -> set[str]:
    return FOLLOWS[phase] | ALWAYS


class TestWhatFollows:
    @pytest.mark.parametrize(
        ("phase", "event"),
        [
            pytest.param(phase, event, id=f"{event} when {phase.__name__}")
            for phase, event in PAIRS
            if event in what_follows(phase)
        ],
    )
    def test_what_can(self, phase: Callable[[Exchange], None], event: str) -> None:
        """What can follow does, and the request ends once all the same."""
        guard = guarded()
        exchange = guard.open(call())
        phase(exchange)

        EVENTS[event](exchange)
        exchange.closed()

        assert metric(guard, COUNT) == 1
        assert metric(guard, ACTIVE) == 0

    @pytest.mark.parametrize(
        ("phase", "event"),
        [
            pytest.param(phase, event, id=f"{event} when {phase.__name__}")
            for phase, event in PAIRS
            if event not in what_follows(phase)
        ],
    )
    def test_what_cannot(self, phase: Callable[[Exchange], None], event: str) -> None:
        """What cannot follow is an error that says so, and changes nothing."""
        guard = guarded()
        exchange = guard.open(call())
        phase(exchange)

        with pytest.raises(ProtocolError, match=f"^{event} cannot follow: the request is "):
            EVENTS[event](exchange)
        exchange.closed()

        assert metric(guard, COUNT) == 1
        assert metric(guard, ACTIVE) == 0

    def test_a_decision_that_begins_too_late(self) -> None:
        """A decision that was asked for in time but begins when the answer has begun is none."""
        exchange = guarded().open(call())
        steps = exchange.matched(at(exchange, "/me"))
        exchange.started(504)

        with pytest.raises(ProtocolError):
            next(steps)


def sequence(*events: str) -> Any:
    return pytest.param(events, id=" ".join(events) or "nothing")


class TestHowItEnds:
    """Which status stands in the record."""

    @staticmethod
    def status(guard: Guard) -> list[str]:
        return [
            sample["labels"]["http_response_status_code"]
            for family in guard.parts.metrics.snapshot()
            for sample in family["samples"]
            if sample["name"] == COUNT
        ]

    @pytest.mark.parametrize(
        ("events", "expected"),
        [
            ("", "500"),
            ("matched", "500"),
            ("ended", "500"),
            ("failed", "500"),
            ("started ended", "200"),
            ("matched started", "200"),
            ("matched started chunk ended", "200"),
            ("matched started chunk failed", "200"),
            ("matched failed started ended", "200"),
            ("left", "499"),
            ("matched left", "499"),
            ("matched started left", "499"),
            ("matched started left ended", "499"),
            ("matched started chunk left failed", "499"),
            ("matched started chunk ended left", "200"),
            ("matched failed left", "499"),
            ("skipped started ended", "200"),
            ("matched skipped started ended", "200"),
            ("matched matched started ended", "200"),
            ("started started ended", "200"),
        ],
        ids=lambda value: value or "nothing",
    )
    def test_of_an_admitted_request(self, events: str, expected: str) -> None:
        """It is what the client got: the answer's, 499 where it left, 500 where nothing came."""
        guard = guarded()
        exchange = guard.open(call())

        for event in events.split():
            EVENTS[event](exchange)
        exchange.closed()

        assert self.status(guard) == [expected]

    @pytest.mark.parametrize(
        ("events", "expected"),
        [
            ("", "401"),
            ("left", "401"),
            ("ended", "401"),
            ("started chunk ended", "200"),
            ("started left", "200"),
        ],
        ids=lambda value: value or "nothing",
    )
    def test_of_a_refused_request(self, events: str, expected: str) -> None:
        """A refusal's own stands where nobody says another, whether the client waits or not."""
        guard = guarded()
        exchange = guard.open(call(None))
        assert in_a_thread(exchange, "/me", b"") is not None

        for event in events.split():
            EVENTS[event](exchange)
        exchange.closed()

        assert self.status(guard) == [expected]

    @pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
    def test_of_a_websocket(self, *, leaves: bool) -> None:
        """A WebSocket that was accepted ends as one, however it ends."""
        guard = guarded()
        exchange = guard.open(call(is_websocket=True))
        in_a_thread(exchange, "/me", b"")
        exchange.started(101)
        if leaves:
            exchange.left()
        exchange.exchanged(3, 4)
        exchange.closed()

        assert self.status(guard) == ["101"]
        messages = "mlguard_websocket_messages_total"
        assert metric(guard, messages, http_route="/me", direction="received") == 3
        assert metric(guard, messages, http_route="/me", direction="sent") == 4

    @pytest.mark.parametrize(
        ("begun", "expected"), [(False, "429"), (True, "200")], ids=["no byte", "a stream"]
    )
    def test_of_a_handler_that_is_refused(self, *, begun: bool, expected: str) -> None:
        """A refusal after the first byte cuts the stream; before it, it is the answer."""
        guard = guarded()
        exchange = guard.open(call())
        decided(exchange)
        deny = Deny(429, "quota_exceeded", "No.")
        if begun:
            exchange.started(200)
            exchange.chunk()
            exchange.cut_off(deny)
        else:
            exchange.refuse(deny)
            exchange.started(429)
        exchange.closed()

        assert exchange.deny is deny
        assert self.status(guard) == [expected]

    def test_what_is_known_of_it(self) -> None:
        """An exchange says whether it has begun, failed and ended."""
        exchange = guarded().open(call())

        def known() -> tuple[bool, bool, bool]:
            return exchange.has_begun, exchange.has_failed, exchange.has_ended

        assert known() == (False, False, False)
        decided(exchange)
        assert known() == (False, False, False)
        exchange.started(200)
        assert known() == (True, False, False)
        exchange.failed(ValueError())
        assert known() == (True, True, False)
        exchange.closed()
        assert known() == (True, True, True)

    def test_the_first_error_counts(self) -> None:
        """What raised first is what failed; what it became on its way out is not."""
        guard = guarded()
        exchange = guard.open(call())
        in_a_thread(exchange, "/predict", instances(1))
        exchange.failed(ZeroDivisionError())
        exchange.failed(RuntimeError())
        exchange.closed()

        errors = "mlguard_inference_errors_total"
        assert metric(guard, errors, error_type="ZeroDivisionError") == 1
        assert metric(guard, errors) == 1


class TestDispatches:
    def test_one_dispatch_after_another(self) -> None:
        """Each dispatch is decided, and the last one is what the record says."""
        guard = guarded()
        exchange = guard.open(call())
        exchange.dispatching()
        assert in_a_thread(exchange, "/predict", instances(1)) is None
        exchange.dispatching()
        assert not exchange.decided
        assert in_a_thread(exchange, "/me", b"") is None
        assert exchange.decided
        exchange.started(200)
        exchange.ended()

        assert metric(guard, COUNT, http_route="/me") == 1
        assert metric(guard, COUNT) == 1

    def test_what_a_handler_dispatches(self) -> None:
        """What the handler of a decided route dispatches needs no decision."""
        exchange = guarded().open(call())
        exchange.dispatching()
        decided(exchange)
        with exchange.handing_over():
            exchange.dispatching()
            assert exchange.decided
        exchange.dispatching()
        assert not exchange.decided

    def test_a_refusal_is_forgotten(self) -> None:
        """Another dispatch, on a public path, is admitted where the first one was refused."""
        exchange = guarded().open(call(None))
        assert in_a_thread(exchange, "/me", b"") is not None

        assert in_a_thread(exchange, "/health", b"") is None
        assert (exchange.deny, exchange.principal) == (None, None)

    def test_what_raises_is_not_asked_again(self) -> None:
        """A decision that raises, as an app's own functions may, stays made."""
        guard = guarded()

        def message() -> str:
            raise OSError("the app's own")

        exchange = guard.open(call())
        limits = [RouteLimit(Rate(text="1/minute", limit=1, seconds=60), 2, "/me", None, message)]
        exchange.dispatching()
        with pytest.raises(OSError, match="the app's own"):
            drive(exchange.matched(at(exchange, "/me"), limits))
        exchange.failed(OSError())
        exchange.closed()

        assert exchange.decided
        assert metric(guard, COUNT, http_response_status_code="500") == 1


class Elsewhere:
    """A ledger that is not in this process: asked by whoever drives, and noted."""

    def __init__(self) -> None:
        self.inner = MemoryLedger(lambda: 7200.0)
        self.rows = 0

    def debit(self, order: Order) -> Receipt:
        receipt = self.inner.debit(order)
        if receipt.is_admitted:
            self.rows += sum(line.cost for line in order.lines if line.limit.unit == "rows")
        return receipt

    async def adebit(self, order: Order) -> Receipt:
        return self.debit(order)

    def settle(self, changes: Sequence[Change]) -> None:
        self.rows += sum(change.extra for change in changes if change.limit.unit == "rows")
        self.inner.settle(changes)


@dataclass(eq=False)
class Known:
    """What a request is expected to become.

    Attributes:
        exchange: The request.
        steps: A decision in the making, and what it asks for.
        status: What was started, 0 where nothing was.
        rows: Rows that it asked on the route of a model whose inference is open.
        paid: Rows that it is charged for good.
    """

    exchange: Exchange
    steps: Steps | None = None
    asked: Any = None
    phase: str = "open"
    status: int = 0
    has_left: bool = False
    has_sent: bool = False
    has_failed: bool = False
    run: InferenceContext | None = None
    rows: int | None = None
    body: int = 0
    paid: int = 0
    within: list[tuple[InferenceContext, int, Context]] = field(default_factory=list)

    def follows(self, event: str) -> bool:
        phase = {"open": opened, "decided": decided, "started": begun, "ended": over}[self.phase]
        return event in FOLLOWS[phase]


ROUTES = st.sampled_from(["/predict", "/predict", "/free", "/me", "/health", None])


class Lives(RuleBasedStateMachine):
    """Requests to one guard, their events in whatever order."""

    requests = Bundle("requests")
    REQUESTS = 3
    PLACES = 2
    ROWS = 60

    def __init__(self) -> None:
        super().__init__()
        quotas = {
            "requests": ["1000000/day"],
            "rows": [f"{self.ROWS}/hour"],
            "concurrency": self.PLACES,
            "max_in_flight": 4,
        }
        public = {**MODEL, "name": "free", "route": "/free"}
        self.ledger = Elsewhere()
        self.guard = guarded(
            SETTINGS
            | {
                "models": [MODEL, public, {"name": "own"}],
                "auth": AUTH | {"public": ["/health", "/free"]},
                "quotas": quotas,
                "tracing": {"endpoint": "http://127.0.0.1:1"},
            },
            quota=Quota(
                Quotas.model_validate(quotas), self.ledger, is_shared=True, timer=lambda: 7200.0
            ),
        )
        self.exporter = InMemorySpanExporter()
        self.guard.parts.tracing.replace_for_tests(SimpleSpanProcessor(self.exporter))
        self.known: list[Known] = []
        self.statuses: Counter[str] = Counter()
        self.inferences = 0

    # ---- what happens

    @precondition(lambda self: len(self.known) < self.REQUESTS)
    @rule(
        target=requests,
        who=st.sampled_from(["alice", "alice", "bob", None]),
        is_websocket=st.booleans(),
        has_span=st.booleans(),
        route=st.sampled_from(["", "/predict", "/predict", "/free", "/me"]),
        rows=st.integers(0, 20),
    )
    def opens(
        self, who: str | None, is_websocket: bool, has_span: bool, route: str, rows: int
    ) -> Known:
        exchange = self.guard.open(call(who, is_websocket=is_websocket))
        if has_span:
            exchange.open_span()
        known = Known(exchange)
        self.known.append(known)
        if route:
            self.is_decided(known, route, rows)
        return known

    @rule(known=requests, route=ROUTES)
    def matched(self, known: Known, route: str | None) -> None:
        self.give_up(known)
        known.exchange.dispatching()
        steps = known.exchange.matched(at(known.exchange, route))
        if not known.follows("matched"):
            with pytest.raises(ProtocolError):
                next(steps)
            return
        known.steps = steps
        if known.phase == "decided":
            self.run_ends(known, 200)
            known.has_failed = False
        known.phase = "decided"
        self.advance(known, None)

    @rule(known=requests, route=ROUTES, rows=st.integers(0, 40))
    def is_decided(self, known: Known, route: str | None, rows: int) -> None:
        """All of a decision, with nothing between."""
        self.matched(known, route)
        while known.steps is not None:
            self.goes_on(known, rows, None)

    @precondition(lambda self: any(known.steps for known in self.known))
    @rule(known=requests, rows=st.integers(0, 40), cut=st.sampled_from([None, None, *Cut]))
    def goes_on(self, known: Known, rows: int, cut: Cut | None) -> None:
        """The decision gets what it asked for."""
        if known.steps is None:
            return
        if isinstance(known.asked, ReadBody):
            known.body = rows
            known.has_left = known.has_left or cut is Cut.LEFT
            self.advance(known, cut or instances(rows))
        elif isinstance(known.asked, Debit):
            self.advance(known, self.ledger.debit(known.asked.order))
        else:
            assert isinstance(known.asked, Compute)
            self.advance(known, known.asked.function())

    def advance(self, known: Known, answer: Any) -> None:
        assert known.steps is not None
        try:
            known.asked = known.steps.send(answer)
        except StopIteration as done:
            known.steps = None
            run = known.exchange.run
            if done.value is None and run is not None and run is not known.run:
                known.run, known.rows = run, known.body
                self.inferences += 1

    @rule(known=requests)
    def give_up(self, known: Known) -> None:
        """The decision is cancelled."""
        if known.steps is not None:
            known.steps.close()
            known.steps = None

    @rule(known=requests)
    def skipped(self, known: Known) -> None:
        self.give_up(known)
        bound = at(known.exchange, "/me")
        if known.follows("skipped"):
            known.exchange.skipped(bound)
            known.phase = "decided"
        else:
            with pytest.raises(ProtocolError):
                known.exchange.skipped(bound)

    @rule(known=requests, status=st.sampled_from([200, 204, 404, 422, 500]))
    def started(self, known: Known, status: int) -> None:
        if known.exchange.call.is_websocket and status == 200:
            status = 101
        if not known.follows("started"):
            with pytest.raises(ProtocolError):
                known.exchange.started(status)
            return
        before = known.exchange.deny
        deny = known.exchange.started(status)
        if deny is not None:
            assert status >= 400 or deny is before
            assert not known.has_sent
            self.run_ends(known, deny.status)
        known.phase = "started"
        known.status = deny.status if deny else status

    @precondition(lambda self: any(known.phase == "started" for known in self.known))
    @rule(known=requests)
    def chunk(self, known: Known) -> None:
        if known.follows("chunk"):
            known.exchange.chunk()
            known.has_sent = True
        elif not known.has_sent:
            with pytest.raises(ProtocolError):
                known.exchange.chunk()

    @rule(known=requests)
    def left(self, known: Known) -> None:
        known.exchange.left()
        known.has_left = True

    @rule(known=requests)
    def failed(self, known: Known) -> None:
        known.exchange.failed(ValueError())
        known.has_failed = True

    @precondition(lambda self: any(known.phase == "started" for known in self.known))
    @rule(known=requests)
    def ended(self, known: Known) -> None:
        self.ends(known)
        known.exchange.ended()

    @rule(known=requests)
    def closed(self, known: Known) -> None:
        self.ends(known)
        known.exchange.closed()

    def ends(self, known: Known) -> None:
        if known.phase == "ended":
            return
        deny = known.exchange.deny
        status = known.status if known.phase == "started" else 0
        said = status or (deny.status if deny else 500)
        if known.has_left and deny is None and said != 101:
            said = 499
            if known.rows is not None:
                known.paid += known.rows if status < 400 else 0
                known.rows = None
        else:
            self.run_ends(known, said)
        self.statuses[str(said)] += 1
        known.phase = "ended"

    # ---- what handlers do

    @rule(known=requests, status=st.sampled_from([200, 422, 500]))
    def answers(self, known: Known, status: int) -> None:
        """The answer of a model's handler is complete; nobody has read it."""
        known.exchange.end_run(status)
        self.run_ends(known, status)

    @precondition(lambda self: any(known.rows for known in self.known))
    @rule(known=requests, predicted=st.integers(0, 80), status=st.sampled_from([200, 200, 422]))
    def answers_json(self, known: Known, predicted: int, status: int) -> None:
        """It is complete, and was held."""
        held = known.exchange.held_answer("application/json", None)
        if held is None:
            return
        rows = known.rows
        assert rows is not None
        assert held.add(predictions(predicted))
        before = self.ledger.rows
        withheld = drive(held.settle(status))
        if status >= 400:
            self.run_ends(known, status)
            return
        known.rows = None
        if withheld is None:
            known.paid += max(rows, predicted)
            return
        assert predicted > rows
        assert withheld.code == "answer_withheld"
        assert self.ledger.rows == before
        known.paid += rows
        if not known.exchange.has_begun:
            known.exchange.refuse(withheld)

    def run_ends(self, known: Known, status: int) -> None:
        """Tell what the route's inference costs, where its answer was not read."""
        rows, known.rows = known.rows, None
        if rows is not None and status < 400 and (known.has_sent or not known.has_failed):
            known.paid += rows

    @rule(known=requests, rows=st.integers(0, 40))
    def infers(self, known: Known, rows: int) -> None:
        """A handler runs a model of its own."""
        with self.guard.handling(known.exchange):
            run = self.guard.inference("own", rows)
            try:
                context = copy_context()  # a handler's own, as each request has one
                context.run(drive, run.enter())
            except Refused:
                return
        self.inferences += 1
        known.within.append((run, rows, context))

    @precondition(lambda self: any(known.within for known in self.known))
    @rule(known=requests, predicted=st.none() | st.integers(0, 80))
    def inferred(self, known: Known, predicted: int | None) -> None:
        if not known.within:
            return
        run, rows, context = known.within.pop()
        if predicted is not None:
            run.inference.predictions = [0] * predicted
        took = max(rows, predicted or 0)
        try:
            context.run(drive, run.exit(None))
        except Refused:  # what it answered is withheld
            took = rows
        known.paid += took

    @precondition(lambda self: any(known.within for known in self.known))
    @rule(known=requests, error=st.sampled_from([ValueError, GeneratorExit]))
    def inference_failed(self, known: Known, error: type[BaseException]) -> None:
        if known.within:
            run, rows, context = known.within.pop()
            context.run(drive, run.exit(error()))
            known.paid += rows if error is GeneratorExit else 0

    @rule(known=requests, begun=st.booleans())
    def refused(self, known: Known, begun: bool) -> None:
        """A handler may not go on."""
        deny = Deny(403, "scope_missing", "No.")
        if known.phase == "started":
            known.exchange.cut_off(deny)
        elif known.phase == "decided":
            known.exchange.refuse(deny)
            self.run_ends(known, 403)

    # ---- what holds

    @invariant()
    def each_is_told_once(self) -> None:
        """Each request that has ended is one record, with its status; each other is in flight."""
        families = {
            family["name"]: family["samples"] for family in self.guard.parts.metrics.snapshot()
        }
        told: Counter[str] = Counter()
        for sample in families.get("http_server_request_duration_seconds", ()):
            if sample["name"] == COUNT:
                told[sample["labels"]["http_response_status_code"]] += int(sample["value"])
        (active,) = families[ACTIVE]
        assert told == self.statuses
        assert active["value"] == sum(known.phase != "ended" for known in self.known)

    @invariant()
    def what_is_charged(self) -> None:
        """What is charged is what was had, and what is being had."""
        paid = sum(known.paid + (known.rows or 0) for known in self.known)
        within = sum(rows for known in self.known for _, rows, _ in known.within)
        assert self.ledger.rows == paid + within

    def teardown(self) -> None:
        for known in self.known:
            self.give_up(known)
            self.closed(known)
            self.answers(known, 500)  # of handlers that outlive their request
            while known.within:
                self.inferred(known, None)
        self.each_is_told_once()
        self.what_is_charged()
        self.every_span_has_ended()
        self.all_places_are_free()

    def every_span_has_ended(self) -> None:
        kinds = Counter(span.kind for span in self.exporter.get_finished_spans())
        assert kinds[SpanKind.SERVER] == len(self.known)
        assert kinds[SpanKind.INTERNAL] == self.inferences

    def all_places_are_free(self) -> None:
        flights = [self.guard.open(call("alice")) for _ in range(self.PLACES + 1)]
        codes = [getattr(in_a_thread(flight, "/me", b""), "code", None) for flight in flights]
        assert codes == [None] * self.PLACES + ["too_many_in_flight"]


def test_a_decision_that_comes_too_late() -> None:
    """A decision that is made when the request is over holds no place, and can be ended."""
    lives = Lives()
    known = lives.opens("alice", is_websocket=False, has_span=False, route="", rows=0)
    lives.matched(known, "/predict")
    lives.goes_on(known, 2, None)
    lives.closed(known)

    lives.goes_on(known, 2, None)

    lives.teardown()


def test_lives() -> None:
    """Whatever happens in whatever order: a request ends once, rightly, and pays what it had."""
    run_state_machine_as_test(
        Lives,
        settings=examples(max_examples=100, stateful_step_count=40, deadline=None),
    )
