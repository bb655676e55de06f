"""Which request was this?"""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState

from mlguard.settings import load
from mlguard.tracing import (
    PEER_TRUSTED,
    PeerSampler,
    Relay,
    TreePrinter,
    provider,
    redacted,
    trace_id,
    tree,
)

TRACE = 0x0AF7651916CD43DD8448EB211C80319C


def parent(*, remote: bool, sampled: bool, number: int = 7) -> Context:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    context = SpanContext(TRACE, number, remote, flags, TraceState([("vendor", "x")]))
    return trace.set_span_in_context(NonRecordingSpan(context))


def kept(sampler: PeerSampler, context: Context | None, *, trusted: bool = False) -> bool:
    token = PEER_TRUSTED.set(trusted)
    try:
        result = sampler.should_sample(context, TRACE, "GET /", attributes={"a": 1})
    finally:
        PEER_TRUSTED.reset(token)
    return result.decision is Decision.RECORD_AND_SAMPLE


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

    def test_a_whole_trace(self) -> None:
        """With the service's own provider a stranger's trace is continued, and decided here."""
        settings = load({"tracing": {"sample": 1.0}, "service": {"name": "iris"}}, environ={})
        assert settings.tracing is not None
        own = provider(settings, settings.tracing)
        exporter = InMemorySpanExporter()
        own.add_span_processor(SimpleSpanProcessor(exporter))
        tracer = own.get_tracer("test")

        with (
            tracer.start_as_current_span("server", parent(remote=True, sampled=False)) as server,
            tracer.start_as_current_span("inner"),
        ):
            pass

        spans = exporter.get_finished_spans()
        assert [span.name for span in spans] == ["inner", "server"]
        assert trace_id(server) == format(TRACE, "032x")
        assert spans[0].resource.attributes["service.name"] == "iris"
        own.shutdown()

    def test_nothing_is_process_wide(self) -> None:
        """Making a provider leaves OpenTelemetry's global one alone."""
        program = (
            "from opentelemetry import trace; from mlguard.settings import load;"
            "from mlguard.tracing import provider; s = load({'tracing': {}}, environ={});"
            "provider(s, s.tracing); print(type(trace.get_tracer_provider()).__name__)"
        )
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL", "MLGUARD"))}

        out = subprocess.run(
            [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
        )

        assert out.stdout.strip() == "ProxyTracerProvider"


def test_no_trace_has_no_id() -> None:
    """Where there is no trace, there is no id to show."""
    assert trace_id(trace.INVALID_SPAN) is None


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

        assert redacted(query) == "&".join(f"{name}=REDACTED" for name, _ in pairs)[:256]

    @pytest.mark.parametrize("query", ["eyJhbGciOi.eyJzdWIi.c2ln", "a%3Dhunter2", "hunter2&a=1"])
    def test_values_without_a_name(self, query: str) -> None:
        """A query that is only a value, as a token may be sent, leaves nothing of it."""
        assert "hunter2" not in redacted(query)
        assert "eyJ" not in redacted(query)

    def test_a_huge_query(self) -> None:
        """A client cannot make a span's attribute as long as its query."""
        assert len(redacted("x" * 100_000 + "=1")) < 10_000


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


def test_each_start_exports_once() -> None:
    """An app that was stopped and started again sends its spans to the new exporter only."""
    relay, provider = Relay(), TracerProvider()
    provider.add_span_processor(relay)
    exporters = [InMemorySpanExporter(), InMemorySpanExporter()]
    tracer = provider.get_tracer("test")
    tracer.start_span("before").end()
    for n, exporter in enumerate(exporters):
        relay.begin(SimpleSpanProcessor(exporter))
        tracer.start_span(f"start {n}").end()
        relay.end()
    tracer.start_span("after").end()

    names = [[s.name for s in e.get_finished_spans()] for e in exporters]
    assert names == [["start 0"], ["start 1"]]
