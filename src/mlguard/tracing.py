"""Which request was this? OpenTelemetry spans."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar, Token
from typing import Any, TextIO

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from mlguard.logs import quiet
from mlguard.settings import Settings, Tracing

PEER_TRUSTED: ContextVar[bool] = ContextVar("mlguard_peer_trusted", default=False)
"""Whether the connection of the request being opened comes from a trusted proxy."""


@contextmanager
def peer(*, trusted: bool) -> Iterator[None]:
    """Say, while a request is opened, whether its peer's sampled flag counts."""
    token = PEER_TRUSTED.set(trusted)
    try:
        yield
    finally:
        reset(token)


def reset(token: Token[Any]) -> None:
    """Undo the setting of a context variable, unless another context did it.

    A streamed answer may be closed in another context than it was begun in.
    """
    with suppress(ValueError):
        token.var.reset(token)


class PeerSampler(Sampler):
    """Keep a share of traces that no client chooses.

    A caller's trace is continued, but its sampled flag counts only from trusted peers; a trace id
    that a client sent decides nothing either. Spans within the process follow their parent.

    Args:
        share: Of traces begun here, in [0, 1].
        chance: A random number in [0, 1).
    """

    def __init__(self, share: float, chance: Callable[[], float] = random.random) -> None:
        self._share = share
        self._chance = chance

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Decide about one span (opentelemetry.sdk.trace.sampling.Sampler)."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid and (not parent.is_remote or PEER_TRUSTED.get()):
            keep = parent.trace_flags.sampled
        else:
            keep = self._chance() < self._share
        decision = Decision.RECORD_AND_SAMPLE if keep else Decision.DROP
        return SamplingResult(decision, attributes if keep else None, parent.trace_state)

    def get_description(self) -> str:
        """Name the sampler."""
        return f"mlguard.PeerSampler({self._share})"


def provider(settings: Settings, tracing: Tracing) -> TracerProvider:
    """Make a provider of the service's own; it exports nothing yet and starts nothing."""
    service = settings.service
    resource = Resource.create(
        {"service.name": service.name, "deployment.environment.name": service.environment}
    )
    return TracerProvider(
        sampler=PeerSampler(tracing.sample), resource=resource, shutdown_on_exit=False
    )


def exporting(tracing: Tracing, on_result: Callable[[bool], None]) -> SpanProcessor:
    """Make what sends spans away; starts its thread, so only after a fork.

    Args:
        tracing: Where to.
        on_result: Told after each batch whether the receiver took it.
    """
    if tracing.endpoint == "console":
        return TreePrinter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=tracing.endpoint.rstrip("/") + "/v1/traces", timeout=5)
    return BatchSpanProcessor(_Watched(exporter, on_result), schedule_delay_millis=1000)


class Relay(SpanProcessor):
    """Stands in a provider for good, while what exports comes with a start and goes with a stop."""

    def __init__(self) -> None:
        self._processor: SpanProcessor | None = None

    def begin(self, processor: SpanProcessor) -> None:
        """Pass spans on from now on."""
        self._processor = processor

    def end(self) -> None:
        """Send what is still held, and drop spans from now on."""
        processor, self._processor = self._processor, None
        if processor is not None:
            processor.shutdown()

    def on_end(self, span: ReadableSpan) -> None:
        """Pass an ended span on."""
        if self._processor is not None:
            self._processor.on_end(span)


class _Watched(SpanExporter):
    def __init__(self, exporter: SpanExporter, on_result: Callable[[bool], None]) -> None:
        self._exporter = exporter
        self._on_result = on_result

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = SpanExportResult.FAILURE
        try:
            # It would log each attempt: `on_result` is told, and says it once.
            with quiet(type(self._exporter).__module__):
                result = self._exporter.export(spans)
        finally:
            self._on_result(result is SpanExportResult.SUCCESS)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class TreePrinter(SpanProcessor):
    """Print each trace as a tree when its first span ends: for looking, not for production.

    Args:
        out: Where to; default: standard error at that moment.
    """

    _MOST = 1000  # traces begun and not ended, and spans of one trace

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out
        self._traces: dict[int, list[ReadableSpan]] = {}

    def on_end(self, span: ReadableSpan) -> None:
        """Keep the span, or print its whole trace."""
        context = span.context
        if context is None:
            return
        spans = self._traces.setdefault(context.trace_id, [])
        if len(spans) < self._MOST:
            spans.append(span)
        if span.parent is None or span.parent.is_remote:
            self._traces.pop(context.trace_id)
            spans = spans if span in spans else [*spans, span]
            print("\n".join(tree(spans)), file=self._out or sys.stderr, flush=True)
        elif len(self._traces) > self._MOST:
            self._traces.pop(next(iter(self._traces)))


def tree(spans: Sequence[ReadableSpan]) -> list[str]:
    """Draw the spans of one trace, parents above their children."""
    known = {s.context.span_id for s in spans if s.context}
    children: dict[int | None, list[ReadableSpan]] = {}
    for span in sorted(spans, key=lambda s: s.start_time or 0):
        above = span.parent.span_id if span.parent and span.parent.span_id in known else None
        children.setdefault(above, []).append(span)
    lines: list[str] = []

    def draw(parent: int | None, indent: str) -> None:
        for span in children.get(parent, []):
            took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
            said = [f"{k}={v!r}" for k, v in sorted((span.attributes or {}).items())]
            ours = " ".join(word for word in said if word.startswith("mlguard."))
            lines.append(f"{indent}{span.name}  {took:.2f} ms  {ours}".rstrip())
            draw(span.context.span_id if span.context else None, indent + "  ")

    draw(None, "")
    return lines


def trace_id(span: Span) -> str | None:
    """Write the trace's id as 32 hex digits; None where there is no trace."""
    context = span.get_span_context()
    return format(context.trace_id, "032x") if context.is_valid else None


def sampled_trace(span: Span) -> str | None:
    """Write the id of a trace that is kept, for exemplars; None where there is none to lead to."""
    return trace_id(span) if span.get_span_context().trace_flags.sampled else None


def redacted(query: str) -> str:
    """Keep the names of a query's parameters, of a bounded length, and none of their values."""
    parts = (part.partition("=") for part in query.split("&") if part)
    return "&".join(f"{name}=REDACTED" if equals else "REDACTED" for name, equals, _ in parts)[:256]
