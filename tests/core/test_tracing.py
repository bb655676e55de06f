"""Which request was this?"""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import baggage, propagate, trace
from opentelemetry import context as runtime
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace import SpanProcessor as Processor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from mlguard.errors import InvalidSettings
from mlguard.messages import Call
from mlguard.settings import load
from mlguard.tracing import (
    PeerSampler,
    RecordedSpan,
    Tracing,
    TreePrinter,
    answer_attributes,
    attach,
    class_name,
    detach,
    peer,
    redacted,
    sampled_trace,
    server_span_around,
    span_name,
    trace_id,
    tree,
    variables,
)

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SAMPLED = f"00-{TRACE:032x}-00f067aa0ba902b7-01"
DROPPED = f"00-{TRACE:032x}-00f067aa0ba902b7-00"


def parent(*, remote: bool, sampled: bool, number: int = 7) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    context = SpanContext(TRACE, number, remote, flags, TraceState([("vendor", "x")]))
    return trace.set_span_in_context(NonRecordingSpan(context), Context())


def kept(sampler: PeerSampler, context: Context | None, *, trusted: bool = False) -> bool:
    """What a sampler decides, however it is asked."""
    with peer(trusted=trusted):
        result = sampler.should_sample(context, TRACE, "GET /", attributes={"a": 1})
    found = trace.get_current_span(context).get_span_context()
    if sampler.share in (0, 1):
        known = found if found.is_valid else None
        keeps = sampler.keeps(known, trusted=trusted)
        assert keeps is (result.decision is Decision.RECORD_AND_SAMPLE)
    return result.decision is Decision.RECORD_AND_SAMPLE


def tracing_of(
    given: TracerProvider | None = None, environ: Mapping[str, str] | None = None, **table: Any
) -> Tracing:
    settings = load({"tracing": table, "service": {"name": "iris"}}, environ={})
    return Tracing(settings, given, environ or {})


def watched(**table: Any) -> tuple[Tracing, InMemorySpanExporter]:
    """A tracing whose spans an exporter of the user's gets as well."""
    tracing, exporter = tracing_of(**table), InMemorySpanExporter()
    assert isinstance(tracing.provider, TracerProvider)
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    return tracing, exporter


def opened(tracing: Tracing, *, trusted: bool = False, **carrier: str) -> tuple[Span, Context]:
    call = Call("POST", path="/predict", carrier=carrier or None)
    return tracing.server_span(call, trusted=trusted, client="192.0.2.7")


class TestSampling:
    @pytest.mark.parametrize("sampled", [True, False])
    @pytest.mark.parametrize(("share", "expected"), [(1.0, True), (0.0, False)])
    def test_strangers_decide_nothing(self, sampled: bool, share: float, expected: bool) -> None:
        """A client can neither switch tracing off nor force its cost."""
        stranger = parent(remote=True, sampled=sampled)

        assert kept(PeerSampler(share), stranger) is expected

    @pytest.mark.parametrize("share", [0.0, 1.0])
    @pytest.mark.parametrize("sampled", [True, False])
    def test_trusted_peers_decide(self, sampled: bool, share: float) -> None:
        """A trusted peer's flag counts, whatever the share."""
        peer = parent(remote=True, sampled=sampled)

        assert kept(PeerSampler(share), peer, trusted=True) is sampled

    @pytest.mark.parametrize("trusted", [True, False])
    @pytest.mark.parametrize("sampled", [True, False])
    def test_children_follow(self, sampled: bool, trusted: bool) -> None:
        """Spans within the process follow their parent: a trace is whole or not there."""
        for share in (0.0, 1.0):
            local = parent(remote=False, sampled=sampled)
            assert kept(PeerSampler(share), local, trusted=trusted) is sampled

    @pytest.mark.parametrize("context", [None, Context()], ids=["none", "empty"])
    def test_roots(self, context: Context | None) -> None:
        """A trace that begins here is kept by the share, trusted peer or not."""
        for trusted in (True, False):
            assert kept(PeerSampler(1.0), context, trusted=trusted)
            assert not kept(PeerSampler(0.0), context, trusted=trusted)

    def test_shares(self) -> None:
        """The share is compared with a random number, never with an id that a client sent."""
        numbers = iter([0.0, 0.2499, 0.25, 0.9999])
        sampler = PeerSampler(0.25, lambda: next(numbers))

        decisions = [kept(sampler, parent(remote=True, sampled=False)) for _ in range(4)]

        assert decisions == [True, True, False, False]

    def test_what_is_dropped_carries_nothing(self) -> None:
        """Attributes are kept with the span, and the trace's state travels on."""
        stranger = parent(remote=True, sampled=True)
        attributes = {"a": 1}

        keep = PeerSampler(1.0).should_sample(stranger, TRACE, "x", attributes=attributes)
        drop = PeerSampler(0.0).should_sample(stranger, TRACE, "x", attributes=attributes)

        assert (keep.attributes, drop.attributes) == (attributes, {})
        assert keep.trace_state is not None
        assert keep.trace_state.get("vendor") == "x"

    @pytest.mark.parametrize("trusted", [True, False])
    def test_spans_of_packages(self, trusted: bool) -> None:
        """What is said of a peer holds for the span that an instrumentation begins anew."""
        provider = tracing_of(sample=0.0).provider
        assert provider is not None
        with peer(trusted=trusted):
            context = propagate.extract({"traceparent": SAMPLED}, Context())
            token = attach(context)
            span = provider.get_tracer("package").start_span("x", context)
            detach(token)

        assert span.is_recording() is trusted

    def test_trust_lasts_for_its_block(self) -> None:
        """What was said of one peer is not said of the next."""
        sampler, flagged = PeerSampler(0.0), parent(remote=True, sampled=True)

        assert kept(sampler, flagged, trusted=True)
        assert not kept(sampler, flagged)

    @pytest.mark.parametrize(
        ("variables", "table", "expected"),
        [
            pytest.param({}, {}, 1.0, id="all"),
            pytest.param({"": "always_off"}, {}, 0.0, id="none"),
            pytest.param({"": "ALWAYS_ON"}, {}, 1.0, id="any case"),
            pytest.param({"": "parentbased_always_off"}, {}, 0.0, id="none but parents'"),
            pytest.param({"": "traceidratio", "_ARG": "0.25"}, {}, 0.25, id="share"),
            pytest.param({"": "parentbased_traceidratio", "_ARG": "0"}, {}, 0.0, id="no share"),
            pytest.param({"": "traceidratio"}, {}, 1.0, id="share that nobody says"),
            pytest.param({"": "always_off"}, {"sample": 0.5}, 0.5, id="settings win"),
            pytest.param({"": "always_off"}, {"sample": 1.0}, 1.0, id="settings that are default"),
        ],
    )
    def test_variables(
        self, variables: dict[str, str], table: dict[str, Any], expected: float
    ) -> None:
        """The standard variable says the share where the settings do not."""
        environ = {f"OTEL_TRACES_SAMPLER{k}": v for k, v in variables.items()}

        assert tracing_of(environ=environ, **table).share == expected

    @pytest.mark.parametrize(
        "variables", [{"": "jaeger_remote"}, {"": "traceidratio", "_ARG": "2"}]
    )
    def test_variables_that_say_nothing(
        self, variables: dict[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        """A sampler that is not known is named, and everything kept."""
        environ = {f"OTEL_TRACES_SAMPLER{k}": v for k, v in variables.items()}

        assert tracing_of(environ=environ).share == 1.0
        assert "OTEL_TRACES_SAMPLER" in caplog.text


class TestRequests:
    def test_a_trace_begins(self) -> None:
        """Without a caller's trace, one begins, with an id that says that it is random."""
        tracing, exporter = watched()

        span, _ = opened(tracing)
        tracing.finish(span, name="POST /predict", attributes={"a": 1})

        (seen,) = exporter.get_finished_spans()
        assert (seen.name, seen.kind, seen.parent) == ("POST /predict", SpanKind.SERVER, None)
        assert seen.context is not None
        assert seen.context.trace_flags == TraceFlags.SAMPLED | 2
        assert seen.resource.attributes["service.name"] == "iris"
        assert seen.instrumentation_scope is not None
        assert seen.instrumentation_scope.name == "mlguard"
        assert (seen.attributes or {})["url.path"] == "/predict"
        assert (seen.attributes or {})["client.address"] == "192.0.2.7"
        assert (seen.end_time or 0) >= (seen.start_time or 0) > 1e18

    @pytest.mark.parametrize("share", [1.0, 0.5])
    def test_the_hosts_seed(self, share: float) -> None:
        """A host that seeds `random`, as models do, repeats no id, and keeps its own sequence."""
        tracing, seen = tracing_of(sample=share), set()
        for _ in range(2):
            random.seed(7)
            before = random.getstate()
            span, _ = opened(tracing)
            assert random.getstate() == before
            seen |= {span.get_span_context().trace_id, span.get_span_context().span_id}
        assert len(seen) == 4

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="has no workers that fork")
    def test_forked_workers(self) -> None:
        """Workers that share a parent draw ids of their own."""
        script = """
import os
from mlguard.chance import CHANCE
for _ in range(2):
    if not os.fork():
        print(CHANCE.getrandbits(128), flush=True)
        os._exit(0)
    os.wait()
print(CHANCE.getrandbits(128))
"""
        ran = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
        assert len(set(ran.stdout.split())) == 3

    def test_a_trace_goes_on(self) -> None:
        """A caller's trace is continued, with its state, and the model's run stands below."""
        tracing, exporter = watched()

        span, context = opened(tracing, traceparent=SAMPLED, tracestate="vendor=x")
        token = attach(context)
        run = tracing.inference_span("inference iris", {"mlguard.model.name": "iris"})[0]
        tracing.finish(run, attributes={"mlguard.rows": 3})
        detach(token)
        tracing.finish(span, attributes={})

        inner, outer = exporter.get_finished_spans()
        assert outer.context is not None
        assert outer.parent is not None
        assert outer.parent.is_remote
        assert outer.parent.span_id == 0x00F067AA0BA902B7
        assert trace_id(span) == f"{TRACE:032x}"
        assert outer.context.trace_state.get("vendor") == "x"
        assert inner.parent == outer.context
        assert inner.attributes == {"mlguard.model.name": "iris", "mlguard.rows": 3}
        assert inner.kind is SpanKind.INTERNAL

    @pytest.mark.parametrize(
        ("sent", "trusted", "share", "expected"),
        [
            pytest.param(SAMPLED, True, 0.0, True, id="trusted, sampled"),
            pytest.param(DROPPED, True, 1.0, False, id="trusted, dropped"),
            pytest.param(SAMPLED, False, 0.0, False, id="a stranger, sampled"),
            pytest.param(DROPPED, False, 1.0, True, id="a stranger, dropped"),
        ],
    )
    def test_sampled_flags(self, sent: str, trusted: bool, share: float, expected: bool) -> None:
        """A peer's flag counts where the peer is trusted; what is dropped propagates still."""
        tracing = tracing_of(sample=share)

        span, context = opened(tracing, trusted=trusted, traceparent=sent)

        assert span.is_recording() is expected
        assert (sampled_trace(span) is not None) is expected
        headers: dict[str, str] = {}
        propagate.inject(headers, context)
        assert headers["traceparent"].startswith(f"00-{TRACE:032x}-")
        assert headers["traceparent"].endswith("1" if expected else "0")
        token = attach(context)
        assert tracing.inference_span("x", {})[0].is_recording() is expected
        detach(token)

    def test_baggage(self) -> None:
        """A caller's baggage is in the request's context."""
        _, context = opened(tracing_of(), baggage="team=ml")

        assert baggage.get_baggage("team", context) == "ml"

    @pytest.mark.parametrize(
        "carrier",
        [
            {"traceparent": "00-0-0-01"},
            {"traceparent": "x" * 100_000},
            {"traceparent": SAMPLED, "tracestate": "!" * 500},
            {"traceparent": SAMPLED, "tracestate": "a=b," * 100},
            {"traceparent": SAMPLED, "baggage": "=;," * 1000},
            {"baggage": "x" * 100_000},
        ],
        ids=["zeros", "long", "state", "long state", "baggage", "long baggage"],
    )
    def test_nonsense(self, carrier: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
        """What a client sends in a propagator's header breaks nothing and fills no log."""
        span, _ = opened(tracing_of(), **carrier)

        assert span.is_recording()
        assert caplog.text == ""

    def test_what_is_around_stays(self) -> None:
        """What a middleware around has put into the context is there in the request's."""
        token = attach(runtime.set_value("tenant", "a"))
        _, context = opened(tracing_of())
        detach(token)

        assert runtime.get_value("tenant", context) == "a"

    def test_a_span_around(self) -> None:
        """A request whose server span is open already is told from others."""
        assert server_span_around() is None
        token = attach(parent(remote=True, sampled=True))
        assert server_span_around() is None
        detach(token)
        token = attach(parent(remote=False, sampled=False))
        assert server_span_around() is trace.get_current_span()
        detach(token)

    def test_fields(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The headers that continue a trace are those of the propagators, whichever are set."""
        tracing = tracing_of()
        assert tracing.fields == {"traceparent", "tracestate", "baggage"}

        monkeypatch.setattr(propagate, "get_global_textmap", lambda: _Amazon())

        assert tracing.fields == {"x-amzn-trace-id"}

    def test_names_of_headers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A propagator finds its header however it spells it; one that fails stops no request."""
        monkeypatch.setattr(propagate, "extract", _Amazon().extract)
        call = Call("GET", carrier={"x-amzn-trace-id": "here"})

        _, context = tracing_of().server_span(call, trusted=False, client="")

        assert runtime.get_value("found", context) == ["here"]
        span, _ = opened(tracing_of(), traceparent=SAMPLED)  # where this propagator raises
        assert span.is_recording()

    @pytest.mark.parametrize("error", [True, False])
    def test_an_end(self, error: bool) -> None:
        """A span ends once, at the time that is said, and says whether it failed."""
        tracing, exporter = watched()
        span, _ = opened(tracing)

        end = 2**62
        tracing.finish(span, attributes={}, error=error, end_ns=end)
        tracing.finish(span, name="late", attributes={"late": 1}, error=True)
        span.set_attribute("late", 1)
        span.update_name("late")

        (seen,) = exporter.get_finished_spans()
        expected = StatusCode.ERROR if error else StatusCode.UNSET
        assert (seen.end_time, seen.status.status_code) == (end, expected)
        assert "late" not in (seen.attributes or {})
        assert seen.name == "POST"

    def test_nobody_else_ends_it(self) -> None:
        """A handler that ends the current span ends nothing of ours."""
        tracing, exporter = watched()
        span, _ = opened(tracing)

        span.end()
        tracing.finish(span, attributes={"a": 1})

        (seen,) = exporter.get_finished_spans()
        assert (seen.attributes or {})["a"] == 1

    def test_answers(self) -> None:
        """What is known at the end: the route, the status and the error's class."""
        assert answer_attributes("", 200, None) == {"http.response.status_code": 200}
        assert answer_attributes("/p", 503, None) == {
            "http.route": "/p",
            "http.response.status_code": 503,
            "error.type": "503",
        }
        assert answer_attributes("", 500, "KeyError")["error.type"] == "KeyError"
        assert answer_attributes("/ws", None, None) == {"http.route": "/ws"}
        assert span_name(Call("BREW"), "/p") == "HTTP /p"
        assert span_name(Call("x" * 100_000)) == "HTTP"


class _Amazon(TextMapPropagator):
    """A propagator that spells its header otherwise, and does not know others."""

    @property
    def fields(self) -> set[str]:
        return {"X-Amzn-Trace-Id"}

    def extract(self, carrier: Any, context: Any = None, getter: Any = None) -> Context:
        found = getter.get(carrier, "X-Amzn-Trace-Id")
        if not found:
            raise ValueError("no such header")
        return runtime.set_value("found", found, context)

    def inject(self, carrier: Any, context: Any = None, setter: Any = None) -> None:
        """Unused."""


class TestOwners:
    def test_off(self) -> None:
        """Without the table there is no provider, and every call is harmless."""
        tracing = Tracing(load({}, environ={}), environ={})

        assert (tracing.provider, tracing.joined, tracing.owns_server_spans) == (None, False, False)
        span, _ = opened(tracing)
        tracing.finish(span, attributes={})
        tracing.start(lambda taken: None, lambda count: None)
        tracing.take([span, tracing.inference_span("x", {})[0]])
        tracing.flush()
        tracing.close()

    def test_switched_off(self) -> None:
        """OTEL_SDK_DISABLED switches off a provider of ours, and none that was given."""
        off = {"OTEL_SDK_DISABLED": "TRUE"}

        assert tracing_of(environ=off).provider is None
        assert not tracing_of(environ=off).owns_server_spans
        given = TracerProvider(shutdown_on_exit=False)
        assert tracing_of(given, off).provider is given

    @pytest.mark.parametrize(("who", "expected"), [("ours", True), ("packages", False)])
    def test_server_spans(self, who: str, expected: bool) -> None:
        """A setting hands the server span to the packages."""
        assert tracing_of(server_spans=who).owns_server_spans is expected

    def test_joined(self) -> None:
        """With a provider that was given, its own spans are made and nothing is exported."""
        given, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
        given.add_span_processor(SimpleSpanProcessor(exporter))
        tracing = tracing_of(given)
        assert (tracing.joined, tracing.owns_server_spans) == (True, False)

        span, context = opened(tracing, traceparent=SAMPLED)
        token = attach(context)
        run = tracing.inference_span("inference iris", {"a": 1})[0]
        detach(token)
        tracing.finish(run, attributes={"b": 2}, end_ns=2**62)
        tracing.finish(span, name="POST /predict", attributes={"c": 3}, error=True)
        tracing.take([run, span])

        inner, outer = exporter.get_finished_spans()
        assert inner.parent == outer.context
        assert (inner.attributes, inner.end_time) == ({"a": 1, "b": 2}, 2**62)
        assert (outer.name, outer.status.status_code) == ("POST /predict", StatusCode.ERROR)
        assert (outer.attributes or {})["c"] == 3

    def test_nothing_is_process_wide(self) -> None:
        """Making and starting a tracing leaves OpenTelemetry's global provider alone."""
        program = (
            "import threading; from opentelemetry import trace; from mlguard.settings import load;"
            "from mlguard.tracing import Tracing; t = Tracing(load({'tracing': {}}, environ={}));"
            "t.start(print, print);"
            "print(type(trace.get_tracer_provider()).__name__, threading.active_count())"
        )
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL", "MLGUARD"))}

        out = subprocess.run(
            [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
        )

        assert out.stdout.strip() == "ProxyTracerProvider 1"

    def test_two_apps(self) -> None:
        """Two guarded apps in one process do not touch each other."""
        one, seen = watched()
        two, other = watched(sample=0.0)

        tracing_spans = [opened(one)[0], opened(two)[0]]
        for tracing, span in zip((one, two), tracing_spans, strict=True):
            tracing.finish(span, attributes={})

        assert (len(seen.get_finished_spans()), len(other.get_finished_spans())) == (1, 0)


class Starts(Processor):
    """Notes what begins and ends, and in which thread."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int]] = []

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.seen.append(("start", span.name, threading.get_ident()))
        span.set_attribute("tenant", "a")

    def on_end(self, span: ReadableSpan) -> None:
        self.seen.append(("end", span.name, threading.get_ident()))


def user_span(do: Callable[[Span], object], **limits: str) -> ReadableSpan:
    """What an exporter sees of a span that a user began."""
    environ = {f"OTEL_{name}": value for name, value in limits.items()}
    tracing, exporter = tracing_of(environ=environ), InMemorySpanExporter()
    assert isinstance(tracing.provider, TracerProvider)
    tracing.provider.add_span_processor(SimpleSpanProcessor(exporter))
    span = tracing.provider.get_tracer("mine").start_span("mine")
    do(span)
    span.end()
    (seen,) = exporter.get_finished_spans()
    return seen


def failing(tracer: trace.Tracer, how: str) -> None:
    """Fail within a span, which notes it this way."""
    if how == "use_span":
        with tracer.start_as_current_span("mine"):
            raise KeyError("hunter2")
    if how == "with":
        with tracer.start_span("mine"):
            raise KeyError("hunter2")
    span = tracer.start_span("mine")
    try:
        raise KeyError("hunter2")
    except KeyError as error:
        span.record_exception(error, {"why": "x"}, escaped=True)
        span.set_status(StatusCode.ERROR, "KeyError")
        raise
    finally:
        span.end()


class TestSpans:
    def test_processors(self) -> None:
        """A processor that a user adds sees each span begin and end, and may add to it."""
        tracing = tracing_of()
        assert isinstance(tracing.provider, TracerProvider)
        starts = Starts()
        tracing.provider.add_span_processor(starts)

        span, context = opened(tracing)
        with tracing.provider.get_tracer("mine").start_as_current_span("mine", context):
            pass
        tracing.finish(span, name="POST /p", attributes={})

        assert [(what, name) for what, name, _ in starts.seen] == [
            ("start", "POST"),
            ("start", "mine"),
            ("end", "mine"),
            ("end", "POST /p"),
        ]
        assert {thread for *_, thread in starts.seen} == {threading.get_ident()}
        assert isinstance(span, RecordedSpan)
        assert (span.attributes or {})["tenant"] == "a"

    def test_users_spans(self) -> None:
        """A span that a user begins is below the current one, with its links and its times."""
        tracing, exporter = watched()
        assert tracing.provider is not None
        link = trace.Link(SpanContext(1, 2, is_remote=False), {"a": 1})
        tracer = tracing.provider.get_tracer("mine", "1", "https://schema", {"k": "v"})
        with tracer.start_as_current_span("outer") as outer:
            tracer.start_span(
                "inner", kind=SpanKind.CLIENT, attributes={"b": 2}, links=[link], start_time=5
            ).end(6)

        inner, _ = exporter.get_finished_spans()
        assert inner.parent == outer.get_span_context()
        assert (inner.start_time, inner.end_time, inner.kind) == (5, 6, SpanKind.CLIENT)
        assert inner.attributes == {"b": 2}
        assert [(one.context.span_id, one.attributes) for one in inner.links] == [(2, {"a": 1})]
        scope = inner.instrumentation_scope
        assert scope is not None
        assert (scope.name, scope.version, scope.schema_url) == ("mine", "1", "https://schema")
        assert scope.attributes == {"k": "v"}
        assert '"outer"' in exporter.get_finished_spans()[1].to_json()

    def test_one_tracer_a_module(self) -> None:
        """A tracer that is asked for in each request is made once."""
        provider = tracing_of().provider
        assert provider is not None

        assert provider.get_tracer("a") is provider.get_tracer("a")
        assert provider.get_tracer("a") is not provider.get_tracer("b")

    def test_unsampled(self) -> None:
        """A span of a trace that is not kept records nothing, and propagates."""
        tracing, exporter = watched(sample=0.0)
        assert tracing.provider is not None

        with tracing.provider.get_tracer("mine").start_as_current_span("mine") as span:
            assert not span.is_recording()
            assert span.get_span_context().is_valid

        assert exporter.get_finished_spans() == ()

    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            ("text", "text"),
            (True, True),
            (1, 1),
            (0.5, 0.5),
            ([1, 2], (1, 2)),
            (("a", "b"), ("a", "b")),
            (b"raw", b"raw"),
            ("x" * 5000, "x" * 4096),
            (["x" * 5000], ("x" * 4096,)),
        ],
    )
    def test_values(self, value: Any, expected: object) -> None:
        """An attribute is what was set, texts within their bound."""
        seen = user_span(lambda span: span.set_attribute("a", value))

        assert seen.attributes == {"a": expected}

    def test_numpy(self) -> None:
        """A number of numpy's that is a float is one."""
        numpy = pytest.importorskip("numpy")

        seen = user_span(lambda span: span.set_attribute("a", numpy.float64(0.5)))

        assert seen.attributes == {"a": 0.5}
        assert type((seen.attributes or {})["a"]) is float

    def test_keys(self) -> None:
        """An attribute without a name, or with one that is no text, is dropped and counted."""
        attributes: Any = {"": 1, 7: 1, "a": 1}

        seen = user_span(lambda span: span.set_attributes(attributes))

        assert (seen.attributes, seen.dropped_attributes) == ({"a": 1}, 2)

    def test_limits(self) -> None:
        """The standard variables bound what a span holds; what comes last is dropped."""
        seen = user_span(
            lambda span: span.set_attributes({"a": "xxxx", "b": 1, "c": 1, "d": 1}),
            SPAN_ATTRIBUTE_COUNT_LIMIT="2",
            SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="3",
        )

        assert (seen.attributes, seen.dropped_attributes) == ({"a": "xxx", "b": 1}, 2)

    def test_default_limits(self) -> None:
        """A span holds 128 attributes, events and links."""

        def fill(span: Span) -> None:
            for n in range(200):
                span.set_attribute(f"a{n}", n)
                span.add_event("e")
                span.add_link(SpanContext(1, 2, is_remote=False))

        seen = user_span(fill)

        assert (len(seen.attributes or {}), len(seen.events), len(seen.links)) == (128, 128, 128)
        assert (seen.dropped_attributes, seen.dropped_events, seen.dropped_links) == (72, 72, 72)

    def test_limits_that_say_nothing(self, caplog: pytest.LogCaptureFixture) -> None:
        """A limit that is no number is named, and the default holds."""
        seen = user_span(
            lambda span: span.set_attribute("a", "x" * 5000),
            SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT="many",
            ATTRIBUTE_VALUE_LENGTH_LIMIT="10",
        )

        assert seen.attributes == {"a": "x" * 10}
        assert "OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT" in caplog.text

    def test_status(self) -> None:
        """Once a span went well, nothing says otherwise; nothing unsets it."""

        def do(span: Span) -> None:
            span.set_status(StatusCode.ERROR, "no room")
            span.set_status(StatusCode.UNSET)
            span.set_status(Status(StatusCode.OK))
            span.set_status(Status(StatusCode.ERROR, "late"))

        assert user_span(do).status.status_code is StatusCode.OK
        seen = user_span(lambda span: span.set_status(StatusCode.ERROR, "no room"))
        assert seen.status.description == "no room"

    @pytest.mark.parametrize("how", ["use_span", "with", "record"])
    def test_what_an_exception_says(self, how: str) -> None:
        """An exception is told by its class: its message and its stack may quote the input."""
        tracing, exporter = watched()
        assert tracing.provider is not None
        with pytest.raises(KeyError):
            failing(tracing.provider.get_tracer("mine"), how)

        (seen,) = exporter.get_finished_spans()
        (event,) = seen.events
        assert event.name == "exception"
        assert (event.attributes or {})["exception.type"] == "KeyError"
        assert (seen.status.status_code, seen.status.description) == (StatusCode.ERROR, "KeyError")
        assert "hunter2" not in seen.to_json()

    def test_exceptions_that_nobody_wants(self) -> None:
        """A span that was started so notes no exception."""
        tracing, exporter = watched()
        assert tracing.provider is not None
        tracer = tracing.provider.get_tracer("mine")
        with (
            pytest.raises(KeyError),
            tracer.start_span("mine", record_exception=False, set_status_on_exception=False),
        ):
            raise KeyError

        (seen,) = exporter.get_finished_spans()
        assert (seen.events, seen.status.status_code) == ((), StatusCode.UNSET)

    def test_classes(self) -> None:
        """A class of the language has no module in its name, another's has."""
        assert class_name(KeyError("x")) == "KeyError"
        assert class_name(InvalidSettings("x")) == "mlguard.errors.InvalidSettings"


class Foreign:
    """A runtime of somebody else's, whose tokens are its own."""

    def __init__(self) -> None:
        self.stack = [Context()]

    def attach(self, context: Context) -> object:
        self.stack.append(context)
        return object()

    def get_current(self) -> Context:
        return self.stack[-1]

    def detach(self, token: object) -> None:
        if len(self.stack) == 1:
            raise RuntimeError("not attached")
        self.stack.pop()


class TestContexts:
    def test_there_and_back(self) -> None:
        """What was the current context is it again."""
        before = runtime.get_current()
        token = attach(Context({"a": 1}))
        assert runtime.get_value("a") == 1

        detach(token)

        assert runtime.get_current() == before

    def test_another_context(self, caplog: pytest.LogCaptureFixture) -> None:
        """A token of another context is left alone, and nothing is logged."""
        token = copy_context().run(attach, Context({"a": 1}))

        detach(token)

        assert caplog.records == []

    def test_another_runtime(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A runtime of somebody else's is used as it is, whatever its tokens are."""
        foreign = Foreign()
        monkeypatch.setattr(runtime, "_RUNTIME_CONTEXT", foreign)
        token = attach(Context({"a": 1}))
        assert runtime.get_value("a") == 1

        detach(token)
        detach(token)  # where it raises what it likes

        assert foreign.stack == [Context()]


def test_no_trace_has_no_id() -> None:
    """Where there is no trace, there is no id to show."""
    assert trace_id(trace.INVALID_SPAN) is None
    assert sampled_trace(trace.INVALID_SPAN) is None


def receiver(environ: dict[str, str] | None = None, **table: Any) -> variables.Receiver:
    settings = load({"tracing": table}, environ={})
    assert settings.tracing is not None
    return variables.receiver(settings.tracing, environ or {})


class TestVariables:
    @pytest.mark.parametrize(
        ("table", "variables", "expected"),
        [
            pytest.param({}, {}, "http://127.0.0.1:4318/v1/traces", id="nothing"),
            pytest.param({}, {"": "http://a:1"}, "http://a:1/v1/traces", id="base"),
            pytest.param(
                {}, {"": "http://a:1/otlp/"}, "http://a:1/otlp/v1/traces", id="base's path"
            ),
            pytest.param({}, {"TRACES_": "http://a/x"}, "http://a/x", id="of traces, as it is"),
            pytest.param({}, {"TRACES_": "http://a/x", "": "http://b"}, "http://a/x", id="both"),
            pytest.param({}, {"TRACES_": "", "": "http://b"}, "http://b/v1/traces", id="empty"),
            pytest.param(
                {"endpoint": "http://s"}, {"": "http://b"}, "http://s/v1/traces", id="won"
            ),
            pytest.param(
                {"endpoint": "http://s:1/v1/traces"}, {}, "http://s:1/v1/traces", id="with path"
            ),
            pytest.param(
                {"endpoint": "http://s:1/v1/traces/"}, {}, "http://s:1/v1/traces", id="with slash"
            ),
            pytest.param({}, {"": "http://u:p%40@a:1"}, "http://a:1/v1/traces", id="password"),
        ],
    )
    def test_endpoints(
        self, table: dict[str, str], variables: dict[str, str], expected: str
    ) -> None:
        """Where spans go: the settings, else the variables, else this machine."""
        environ = {f"OTEL_EXPORTER_OTLP_{k}ENDPOINT": v for k, v in variables.items()}

        assert receiver(environ, **table).url == expected

    @pytest.mark.parametrize("text", ["collector:4317", "ftp://a", "http://", "http://a:x"])
    def test_endpoints_that_are_none(self, text: str) -> None:
        """A variable that is no URL is named."""
        with pytest.raises(InvalidSettings, match="OTEL_EXPORTER_OTLP_ENDPOINT"):
            receiver({"OTEL_EXPORTER_OTLP_ENDPOINT": text})

    def test_a_password_is_sent_and_not_shown(self) -> None:
        """A user and password in a variable become a header, and are never printed."""
        environ = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:hunter2@a:1"}

        found = receiver(environ)

        assert found.headers["authorization"] == "Basic bWU6aHVudGVyMg=="
        assert "hunter2" not in f"{found!r} {tracing_of(environ=environ).endpoint}"
        with pytest.raises(InvalidSettings) as raised:
            receiver({"OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://me:hunter2@a:1"})
        assert "hunter2" not in str(raised.value)

    @pytest.mark.parametrize("protocol", ["grpc", "http/json"])
    def test_other_protocols(self, protocol: str) -> None:
        """A protocol that is not spoken stops the start and says what to do, or settings win."""
        environ = {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol}

        with pytest.raises(InvalidSettings, match="set OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http"):
            receiver(environ)
        assert receiver(environ, endpoint="http://a").url == "http://a/v1/traces"
        assert receiver({**environ, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}).url

    @pytest.mark.parametrize(
        ("text", "expected"),
        [("", 5.0), ("2.5", 2.5), ("10000", 10.0), ("0", 5.0), ("-1", 5.0), ("soon", 5.0)],
    )
    def test_timeouts(self, text: str, expected: float) -> None:
        """A timeout is seconds as the Python SDK reads it, or the standard's milliseconds."""
        assert receiver({"OTEL_EXPORTER_OTLP_TIMEOUT": text}).seconds == expected

    def test_compression(self, caplog: pytest.LogCaptureFixture) -> None:
        """A compression that is not known is named, and none is used."""
        variable = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION"

        assert receiver({variable: "GZIP"}).compression == "gzip"
        assert receiver({variable: "zstd"}).compression == "none"
        assert variable.replace("TRACES_", "") in caplog.text

    def test_certificates(self, tmp_path: Path) -> None:
        """Files of certificates are looked for at the start."""
        file = tmp_path / "ca.pem"
        file.write_text("x")

        assert receiver({"OTEL_EXPORTER_OTLP_CERTIFICATE": str(file)}).certificate == str(file)
        with pytest.raises(InvalidSettings, match=r"OTEL_EXPORTER_OTLP_CLIENT_KEY.*no such file"):
            receiver({"OTEL_EXPORTER_OTLP_CLIENT_KEY": str(tmp_path / "nowhere")})

    @pytest.mark.parametrize(
        ("variables", "expected"),
        [
            ({"http_proxy": "http://p:3128"}, "http://p:3128"),
            ({"HTTP_PROXY": "http://p:3128"}, "http://p:3128"),
            ({"https_proxy": "http://p:3128"}, ""),
            ({"http_proxy": "http://p:3128", "no_proxy": "other,collector"}, ""),
            ({}, ""),
        ],
    )
    def test_proxies(self, variables: dict[str, str], expected: str) -> None:
        """The proxy that others use is used, but for hosts that are named."""
        assert receiver(variables, endpoint="http://collector:1").proxy == expected

    @pytest.mark.parametrize(
        ("service", "environ", "expected"),
        [
            pytest.param({}, {}, ("ml-service", "development"), id="nothing"),
            pytest.param(
                {"name": "iris"}, {"SERVICE_NAME": "x"}, ("iris", "development"), id="wins"
            ),
            pytest.param({}, {"SERVICE_NAME": "x"}, ("x", "development"), id="variable"),
            pytest.param(
                {"environment": "test"},
                {
                    "RESOURCE_ATTRIBUTES": "service.name=y,deployment.environment.name=z,team=ml",
                },
                ("y", "test"),
                id="attributes",
            ),
            pytest.param(
                {},
                {"RESOURCE_ATTRIBUTES": "deployment.environment.name=z"},
                ("ml-service", "z"),
                id="environment",
            ),
        ],
    )
    def test_who_the_service_is(
        self,
        service: dict[str, str],
        environ: dict[str, str],
        expected: tuple[str, str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The service's name and environment are the settings', else the variables'."""
        for name, value in environ.items():
            monkeypatch.setenv(f"OTEL_{name}", value)

        said = variables.resource(load({"service": service}, environ={})).attributes

        found = said["service.name"], said["deployment.environment.name"]
        assert found == expected
        assert ("team" in said) is ("team" in str(environ))


def test_console(capsys: pytest.CaptureFixture[str]) -> None:
    """The endpoint "console" prints each trace when its first span was taken."""
    tracing = tracing_of(endpoint="console")
    assert tracing.endpoint == "console"
    tracing.take([opened(tracing)[0]])
    tracing.start(lambda taken: None, lambda count: None)
    span, context = opened(tracing)
    token = attach(context)
    run = tracing.inference_span("inference iris", {})[0]
    detach(token)
    tracing.finish(run, attributes={})
    tracing.finish(span, name="POST /predict", attributes={"mlguard.decision": "allow"})

    tracing.take([run, span])
    tracing.flush()
    tracing.close()
    tracing.take([run, span])

    lines = capsys.readouterr().err.splitlines()
    assert names(lines) == ["POST /predict", "inference iris"]


class TestRedaction:
    @pytest.mark.parametrize(
        ("query", "expected"),
        [
            ("", ""),
            ("a=1", "a=REDACTED"),
            ("a=1&b=2", "a=REDACTED&b=REDACTED"),
            ("a=b=c", "a=REDACTED"),
            ("a=", "a=REDACTED"),
            ("=secret", "=REDACTED"),
            ("&&a=1&", "a=REDACTED"),
            ("a=1;b=secret", "a=REDACTED"),
            ("a=1?b=secret", "a=REDACTED"),
            ("a[]=1&a[]=2", "a[]=REDACTED&a[]=REDACTED"),
        ],
    )
    def test_names_stay(self, query: str, expected: str) -> None:
        """The names of a query's parameters stay, and their values go."""
        assert redacted(query) == expected

    @given(st.lists(st.tuples(st.sampled_from("abc"), st.text("xyz0=?;%", min_size=1)), min_size=1))
    def test_no_value_stays(self, pairs: list[tuple[str, str]]) -> None:
        """No value's character is in the result, whatever the values are."""
        query = "&".join(f"{name}={value}" for name, value in pairs)

        shown = redacted(query)
        assert "&".join(f"{name}=REDACTED" for name, _ in pairs).startswith(shown)
        assert len(shown) == 256 or shown.count("=") == len(pairs)

    @pytest.mark.parametrize("query", ["eyJhbGciOi.eyJzdWIi.c2ln", "a%3Dhunter2", "hunter2&a=1"])
    def test_values_without_a_name(self, query: str) -> None:
        """A query that is only a value, as a token may be sent, leaves nothing of it."""
        assert "hunter2" not in redacted(query)
        assert "eyJ" not in redacted(query)

    def test_a_huge_query(self) -> None:
        """A client cannot make a span's attribute as long as its query."""
        assert len(redacted("x" * 100_000 + "=1")) <= 256
        assert len(redacted("x=1&" * 100_000)) <= 256


def recorded(out: TreePrinter | None = None) -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    own = TracerProvider(shutdown_on_exit=False)
    own.add_span_processor(out or SimpleSpanProcessor(exporter))
    return own, exporter


def spans_of_a_request(own: TracerProvider) -> None:
    tracer = own.get_tracer("test")
    with tracer.start_as_current_span("POST /predict") as server:
        server.set_attribute("mlguard.decision", "allow")
        server.set_attribute("url.query", "secret")
        with (
            tracer.start_as_current_span("inference iris"),
            tracer.start_as_current_span("database"),
        ):
            pass
        with tracer.start_as_current_span("cache"):
            pass


def names(lines: list[str]) -> list[str]:
    return [line.strip().split("  ")[0] for line in lines]


class TestTrees:
    def test_parents_stand_above_their_children(self) -> None:
        """A tree has a line a span, indented under its parent, in the order of their begin."""
        own, exporter = recorded()
        spans_of_a_request(own)

        lines = tree(exporter.get_finished_spans())

        assert names(lines) == ["POST /predict", "inference iris", "database", "cache"]
        assert [len(line) - len(line.lstrip()) for line in lines] == [0, 2, 4, 2]
        assert "mlguard.decision='allow'" in lines[0]
        assert "secret" not in "".join(lines)

    def test_a_parent_that_is_elsewhere(self) -> None:
        """A span whose parent is not among them stands at the left."""
        own, exporter = recorded()
        with own.get_tracer("test").start_as_current_span("x", parent(remote=True, sampled=True)):
            pass

        (line,) = tree(exporter.get_finished_spans())

        assert line.startswith("x  ")

    def test_nothing(self) -> None:
        """No spans are no lines."""
        assert tree([]) == []


class TestPrinting:
    def test_once_a_trace(self) -> None:
        """A trace is printed when its first span ends, whole."""
        out = io.StringIO()
        own, _ = recorded(TreePrinter(out))

        spans_of_a_request(own)
        printed = out.getvalue()

        expected = ["POST /predict", "inference iris", "database", "cache"]
        assert names(printed.splitlines()) == expected

    def test_under_a_remote_parent(self) -> None:
        """A trace that continues a caller's is printed when its first span here ends."""
        out = io.StringIO()
        own, _ = recorded(TreePrinter(out))
        with own.get_tracer("test").start_as_current_span("x", parent(remote=True, sampled=True)):
            pass

        assert out.getvalue().startswith("x  ")

    def test_to_standard_error(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Without another, standard error is where a trace is printed."""
        own, _ = recorded(TreePrinter())
        spans_of_a_request(own)

        captured = capsys.readouterr()
        assert captured.err.startswith("POST /predict")
        assert captured.out == ""

    def test_traces_that_never_end_are_bounded(self) -> None:
        """Spans whose first span never ends are kept of a thousand traces at most."""
        out = io.StringIO()
        printer = TreePrinter(out)
        own, _ = recorded(printer)
        tracer = own.get_tracer("test")
        for _ in range(1500):
            root = tracer.start_span("never ends")
            tracer.start_span("child", trace.set_span_in_context(root)).end()

        assert len(printer._traces) <= 1000
        assert out.getvalue() == ""

    def test_one_trace_that_never_ends_is_bounded(self) -> None:
        """A first span that never ends does not gather spans forever."""
        printer = TreePrinter(io.StringIO())
        own, _ = recorded(printer)
        tracer = own.get_tracer("test")
        root = trace.set_span_in_context(tracer.start_span("never ends"))
        for _ in range(5000):
            tracer.start_span("child", root).end()

        assert sum(map(len, printer._traces.values())) < 5000

    def test_late_children_are_harmless(self) -> None:
        """A child that ends after the trace was printed neither raises nor prints."""
        out = io.StringIO()
        own, _ = recorded(TreePrinter(out))
        tracer = own.get_tracer("test")
        root = tracer.start_span("root")
        late = tracer.start_span("late", trace.set_span_in_context(root))
        root.end()
        before = out.getvalue()

        late.end()

        assert out.getvalue() == before

    def test_spans_without_a_context(self) -> None:
        """A span that was made by hand is left alone."""
        out = io.StringIO()
        TreePrinter(out).on_end(ReadableSpan("x"))

        assert out.getvalue() == ""
