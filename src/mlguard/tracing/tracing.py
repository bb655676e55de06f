"""What does the guard ask of tracing?"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from time import time_ns
from typing import Any

from opentelemetry import context as runtime
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.propagators.textmap import Getter, TextMapPropagator
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import Span, SpanContext, SpanKind, StatusCode, TracerProvider

from mlguard import __version__
from mlguard.logs import LOGGER, quiet
from mlguard.messages import Call
from mlguard.settings import Settings
from mlguard.tracing import variables
from mlguard.tracing.export import Export, Printing, Sending
from mlguard.tracing.sampling import PeerSampler
from mlguard.tracing.server import server_attributes, span_name
from mlguard.tracing.spans import RecordedSpan, RecordingProvider, RecordingTracer
from mlguard.urls import redacted_url

_ALREADY = (
    "the app is instrumented already: its server spans are joined, and hold what its "
    "instrumentation writes: values of queries, messages and stacks of exceptions"
)
_LONGEST_FIELD = 8192  # bytes of a propagator's header (W3C Baggage section 3.3.2)
# They log what a client sent.
_TALKERS = {
    "tracestate": "opentelemetry.trace.span",
    "baggage": "opentelemetry.baggage.propagation",
}
(_CURRENT,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())


class Tracing:
    """Makes spans and sends them away. Making one starts nothing.

    Args:
        settings: The settings.
        given: A provider that is configured already, which is joined.
        environ: OpenTelemetry's standard variables, read here and never again. What only
            opentelemetry reads (OTEL_PROPAGATORS, OTEL_RESOURCE_ATTRIBUTES, OTEL_SERVICE_NAME) is
            the process's.

    Raises:
        InvalidSettings: A variable names what cannot be used.

    Attributes:
        provider: Whose tracers make spans; None where tracing is off.
        joined: Whether it is somebody else's.
        owns_server_spans: Whether `server_span` makes them.
        endpoint: Where spans go, as it may be seen; "" where others decide.
        share: The share of traces begun here that are kept.
    """

    def __init__(
        self,
        settings: Settings,
        given: TracerProvider | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self.provider: TracerProvider | None = None
        self.joined = False
        self.owns_server_spans = False
        self.endpoint = ""
        self.share = 0.0
        self._export: Export | None = None
        self._own: RecordingTracer | None = None
        self._tracer: trace.Tracer = trace.NoOpTracer()
        self._textmap: TextMapPropagator | None = None
        self._fields: frozenset[str] = frozenset()
        if settings.tracing is None:
            return
        if given is not None:
            self.provider, self.joined = given, True
            self._tracer = given.get_tracer("mlguard", __version__)
        elif not variables.is_disabled(environ):
            self._begin(settings, environ)
            self.owns_server_spans = settings.tracing.server_spans == "ours"

    def _begin(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Make a provider of the service's own."""
        tracing = settings.tracing
        if tracing is None:
            raise AssertionError("tracing is off")
        self._export = export = self._exporting(settings, environ)
        self.share = variables.share(tracing, environ)
        self.provider = RecordingProvider(
            PeerSampler(self.share),
            variables.resource(settings),
            variables.bounds(environ),
            export.add,
        )
        self._tracer = self._own = self.provider.get_tracer("mlguard", __version__)

    def _exporting(self, settings: Settings, environ: Mapping[str, str]) -> Export:
        tracing = settings.tracing
        if tracing is None or tracing.endpoint == variables.CONSOLE:
            self.endpoint = variables.CONSOLE
            return Printing()
        receiver = variables.receiver(tracing, environ)
        self.endpoint = redacted_url(receiver.url)
        return Sending(receiver)

    @property
    def is_exported(self) -> bool:
        """Whether spans are sent away from here."""
        return self._export is not None

    def leaves_to_packages(self, *, is_instrumented: bool) -> bool:
        """Say whether a package is to be asked for the server spans, and warn of one that is there.

        Args:
            is_instrumented: Whether the app is instrumented already, and so left as it is.
        """
        if is_instrumented:
            LOGGER.warning(_ALREADY)
        return self.provider is not None and not self.owns_server_spans and not is_instrumented

    @property
    def fields(self) -> frozenset[str]:
        """The lower-case names of the headers by which a caller's trace is continued."""
        textmap = propagate.get_global_textmap()
        if textmap is not self._textmap:
            self._fields = frozenset(field.lower() for field in textmap.fields)
            self._textmap = textmap
        return self._fields

    def server_span(
        self, call: Call, *, trusted: bool, client: str, start_ns: int | None = None
    ) -> tuple[Span, Context]:
        """Start the span of a request, below its caller's.

        Args:
            call: The request.
            trusted: Whether the peer's sampled flag counts.
            client: The client's address, "" where nobody says.
            start_ns: When it began, in nanoseconds since the epoch; None for now.

        Returns:
            The span, which does not record where the trace is not kept, and the caller's context
            (its baggage too) in which it is the current one.
        """
        around = runtime._RUNTIME_CONTEXT.get_current()
        context = _extracted(call.carrier, around) if call.carrier else around
        tracer = self._own
        if tracer is None:
            span = self._tracer.start_span(
                span_name(call), context, SpanKind.SERVER, server_attributes(call, client)
            )
            return span, trace.set_span_in_context(span, context)
        found = trace.get_current_span(context).get_span_context() if context else None
        parent = found if found is not None and found.is_valid else None
        made = tracer.below(parent, trusted=trusted)
        if not made[3] & 1:
            span = trace.NonRecordingSpan(made)
        else:
            said = server_attributes(call, client)
            span = recorded = RecordedSpan(
                tracer,
                span_name(call),
                made,
                parent,
                SpanKind.SERVER,
                said,
                start_ns or time_ns(),
                is_kept=True,
            )
            if tracer.others.are_there:
                tracer.started(recorded, context)
        return span, Context({**context, _CURRENT: span})

    def inference_span(self, name: str, attributes: dict[str, Any]) -> tuple[Span, Context]:
        """Start the span of a model's run, below the current one.

        Args:
            name: The span's.
            attributes: Plain ones, which are the span's from now on.

        Returns:
            The span, and the current context with it as the current one.
        """
        tracer, around = self._own, runtime._RUNTIME_CONTEXT.get_current()
        if tracer is None:
            span = self._tracer.start_span(name, attributes=attributes)
            return span, trace.set_span_in_context(span, around)
        above = around.get(_CURRENT)
        if type(above) is RecordedSpan:
            parent: SpanContext | None = above._context
        else:
            found = above.get_span_context() if isinstance(above, Span) else None
            parent = found if found is not None and found.is_valid else None
        made = tracer.below(parent, trusted=False)
        if made[3] & 1:
            span = recorded = RecordedSpan(
                tracer, name, made, parent, SpanKind.INTERNAL, attributes, time_ns(), is_kept=True
            )
            if tracer.others.are_there:
                tracer.started(recorded, None)
        else:
            span = trace.NonRecordingSpan(made)
        return span, Context({**around, _CURRENT: span})

    def restart(self, span: Span) -> None:
        """Have a span of `inference_span` begin now; one of another provider began when it did."""
        if type(span) is RecordedSpan:
            span._start_time = time_ns()

    def finish(
        self,
        span: Span,
        *,
        name: str | None = None,
        attributes: Mapping[str, Any],
        error: bool = False,
        end_ns: int | None = None,
    ) -> None:
        """End a span of `server_span` or `inference_span`, by any thread; `take` passes it on.

        Args:
            span: The span.
            name: Its name, None for the one that it has.
            attributes: What is known of it by now.
            error: Whether it failed.
            end_ns: When it ended, in nanoseconds since the epoch; None for now.
        """
        if type(span) is RecordedSpan:  # an ABC's isinstance is slow
            span.finish(name, attributes, error=error, end=end_ns)
        elif span.is_recording():
            if name is not None:
                span.update_name(name)
            span.set_attributes(attributes)
            if error:
                span.set_status(StatusCode.ERROR)
            span.end(end_ns)

    def replace_for_tests(self, processor: SpanProcessor) -> None:
        """Hand spans to a processor in place of sending them away, for tests."""
        if isinstance(self.provider, RecordingProvider):
            self._export = None
            self.provider.add_span_processor(processor)

    def take(self, spans: Iterable[Span]) -> None:
        """Pass finished spans on to the export, in batches, off the requests' path."""
        if self._export is not None:
            self._export.add([s for s in spans if type(s) is RecordedSpan and s._end_time])

    def start(self, on_result: Callable[[bool], None], on_dropped: Callable[[int], None]) -> None:
        """Begin to export in this process; starts no thread. After a fork, each child does.

        Args:
            on_result: Told after each post whether the receiver took it.
            on_dropped: Told how many spans were lost.
        """
        if self._export is not None:
            self._export.start(on_result, on_dropped)

    def flush(self, seconds: float = 5.0) -> None:
        """Post what is held; blocks at most so long, and each post no longer than its timeout."""
        if self._export is not None:
            self._export.flush(seconds)

    def close(self, seconds: float = 2.0) -> None:
        """Post what is held within a time, and export nothing any more until the next `start`."""
        if self._export is not None:
            self._export.close(seconds)


class _Carrier(Getter[Mapping[str, str]]):
    """Reads the headers that a call carries, whose names are in lower case."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        value = carrier.get(key.lower())
        return None if value is None or len(value) > _LONGEST_FIELD else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        return list(carrier)


_CARRIER = _Carrier()


def _extracted(carrier: Mapping[str, str], around: Context) -> Context:
    """Read a caller's context; a client must not fill the log with what it sends."""
    try:
        if _TALKERS.keys().isdisjoint(carrier):
            return propagate.extract(carrier, around, _CARRIER)
        with quiet(_TALKERS["tracestate"]), quiet(_TALKERS["baggage"]):
            return propagate.extract(carrier, around, _CARRIER)
    except Exception:  # noqa: BLE001 - of whatever propagators there are: requests go on
        return around
