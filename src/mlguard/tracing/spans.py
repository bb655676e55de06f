"""How is a span recorded at little cost?

The SDK's span takes two locks, and copies its attributes twice and itself once. This one is a dict
until it ends, and is then itself what processors and exporters read.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import Any, cast

from opentelemetry import trace
from opentelemetry.attributes import BoundedAttributes
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    Event,
    ReadableSpan,
    SpanLimits,
    SpanProcessor,
    SynchronousMultiSpanProcessor,
    Tracer,
    TracerProvider,
)
from opentelemetry.sdk.trace import Span as SDKSpan
from opentelemetry.sdk.util import BoundedList
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    DEFAULT_TRACE_STATE,
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)
from opentelemetry.util.types import AnyValue, Attributes

from mlguard.chance import CHANCE
from mlguard.tracing.sampling import PEER_TRUSTED, PeerSampler

LONGEST = 4096  # characters of an attribute's value, unless a variable says another
_MOST = 128  # of each kind: the SDK's defaults
_MOST_TRACERS = 1024  # remembered
UNSET = Status(StatusCode.UNSET)
_ERROR = Status(StatusCode.ERROR)
_RANDOM = 0x02  # W3C Trace Context Level 2: the trace's id is random
_FLAGS = tuple(map(TraceFlags, range(4)))
_new = tuple.__new__


def limits(
    *,
    attributes: int = _MOST,
    length: int = LONGEST,
    events: int = _MOST,
    links: int = _MOST,
    event_attributes: int = _MOST,
    link_attributes: int = _MOST,
) -> SpanLimits:
    """Bound what a span holds, whatever the environment says."""
    return SpanLimits(
        max_attributes=attributes,
        max_span_attributes=attributes,
        max_attribute_length=length,
        max_span_attribute_length=length,
        max_events=events,
        max_links=links,
        max_event_attributes=event_attributes,
        max_link_attributes=link_attributes,
    )


def class_name(error: BaseException) -> str:
    """Name an exception's class as OpenTelemetry does: builtins without their module."""
    kind = type(error)
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


class RecordedSpan(trace.Span, ReadableSpan):
    """A span that is being recorded, and the record of it.

    What an exception says never enters it, nor its stack: both may quote the input. Beyond the
    limits, what comes last is dropped and counted.

    Args:
        tracer: Who starts it.
        name: Its name.
        context: Who it is.
        parent: Its parent, a valid one or None.
        kind: Its kind.
        attributes: Plain ones within the limits; they are the span's from now on.
        start: Nanoseconds since the epoch.
        is_kept: Whether `finish` ends it and somebody passes it on; else `end` does both.
    """

    _context: SpanContext
    _instrumentation_info = None
    _end_time: int | None = None
    _status: Status = UNSET
    _events: Any = ()
    _links: Any = ()
    _dropped = 0
    _is_plain = True  # its attributes are texts, whole numbers and truths
    _on_error = (True, True)

    def __init__(
        self,
        tracer: RecordingTracer,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        kind: SpanKind,
        attributes: dict[str, Any],
        start: int,
        *,
        is_kept: bool = False,
    ) -> None:
        self.tracer = tracer
        self._name = name
        self._context = context
        self._parent = parent
        self._kind = kind
        self._attributes: dict[str, Any] = attributes
        self._start_time = start
        self._is_kept = is_kept

    @property
    def _resource(self) -> Resource:  # type: ignore[override]
        return self.tracer.resource

    @property
    def _instrumentation_scope(self) -> InstrumentationScope:  # type: ignore[override]
        return self.tracer.scope

    @property
    def dropped_attributes(self) -> int:
        """How many attributes there was no room for."""
        return self._dropped

    def get_span_context(self) -> SpanContext:
        """Tell who the span is."""
        return self._context

    def is_recording(self) -> bool:
        """Tell whether the span has not ended."""
        return self._end_time is None

    def set_attribute(self, key: str, value: AnyValue) -> None:
        """Set one attribute."""
        self.set_attributes({key: value})

    def set_attributes(self, attributes: Mapping[str, AnyValue]) -> None:
        """Set attributes."""
        if self._end_time is not None:
            return
        own, limits = self._attributes, self.tracer.limits
        most, longest = limits.max_span_attributes, limits.max_span_attribute_length
        for key, value in attributes.items():
            kind = type(value)
            if type(key) is not str or not key:
                self._dropped += 1
                continue
            if kind is str:
                if longest is not None and len(value) > longest:  # type: ignore[arg-type]
                    value = value[:longest]  # type: ignore[index]
            elif kind is not int and kind is not bool:
                cleaned = _cleaned(key, value, longest)
                if not cleaned:
                    self._dropped += 1
                    continue
                value = cleaned[key]
                self._is_plain = False
            if key in own or most is None or len(own) < most:
                own[key] = value
            else:
                self._dropped += 1

    def add_event(
        self, name: str, attributes: Attributes = None, timestamp: int | None = None
    ) -> None:
        """Note that something happened."""
        if self._end_time is None:
            if not self._events:
                self._events = BoundedList(self.tracer.limits.max_events)
            most = self.tracer.limits.max_event_attributes
            self._events.append(Event(name, self._bounded(attributes, most), timestamp))

    def add_link(self, context: SpanContext, attributes: Attributes = None) -> None:
        """Lead to another span."""
        if self._end_time is None and (context.is_valid or attributes or context.trace_state):
            if not self._links:
                self._links = BoundedList(self.tracer.limits.max_links)
            most = self.tracer.limits.max_link_attributes
            self._links.append(Link(context, self._bounded(attributes, most)))

    def _bounded(self, attributes: Attributes, most: int | None) -> BoundedAttributes:
        longest = self.tracer.limits.max_attribute_length
        return BoundedAttributes(most, attributes, max_value_len=longest)

    def record_exception(
        self,
        exception: BaseException,
        attributes: Attributes = None,
        timestamp: int | None = None,
        escaped: bool = False,
    ) -> None:
        """Note that an exception happened, by its class only."""
        said = {"exception.type": class_name(exception), **(attributes or {})}
        self.add_event("exception", said, timestamp)

    def update_name(self, name: str) -> None:
        """Name the span."""
        if self._end_time is None:
            self._name = name

    def set_status(self, status: Status | StatusCode, description: str | None = None) -> None:
        """Say whether it went well; once it did, that stays."""
        if not isinstance(status, Status):
            status = Status(status, description)
        if (
            self._end_time is None
            and self._status.status_code is not StatusCode.OK
            and status.status_code is not StatusCode.UNSET
        ):
            self._status = _discreet(status)

    def end(self, end_time: int | None = None) -> None:
        """End the span, and pass it on."""
        if self._end_time is None and not self._is_kept:
            self._end_time = time_ns() if end_time is None else end_time
            self.tracer.ended(self)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        """End the span; an exception that leaves the block is noted, if it was started so."""
        if exc_val is not None:
            notes, fails = self._on_error
            if notes:
                self.record_exception(exc_val)
            if fails:
                self.set_status(StatusCode.ERROR, type(exc_val).__name__)
        self.end()

    def finish(
        self, name: str | None, attributes: Mapping[str, Any], *, error: bool, end: int | None
    ) -> None:
        """End the span without passing it on to the export, which `Tracing.take` does."""
        if self._end_time is not None:
            return
        if name is not None:
            self._name = name
        self._attributes.update(attributes)  # ours: plain, few and short
        if error and self._status is UNSET:
            self._status = _ERROR
        self._end_time = time_ns() if end is None else end
        if self.tracer.others.are_there:
            self.tracer.others.on_end(self)


def _cleaned(key: str, value: AnyValue, longest: int | None) -> BoundedAttributes:
    """Make an odd value what an attribute may be; empty where it can be nothing."""
    if isinstance(value, float):  # numpy's, which is a float too
        value = float(value)
    return BoundedAttributes(1, {key: value}, max_value_len=longest)


def _discreet(status: Status) -> Status:
    """Leave out what an exception says, which `trace.use_span` makes the description."""
    error = sys.exc_info()[1]
    if error is not None and status.description == f"{type(error).__name__}: {error}":
        return Status(status.status_code, type(error).__name__)
    return status


class Others(SynchronousMultiSpanProcessor):
    """The processors that were added to a provider of ours, none at first."""

    are_there = False

    def add_span_processor(self, span_processor: SpanProcessor) -> None:
        """Add one."""
        super().add_span_processor(span_processor)
        self.are_there = True


class RecordingTracer(Tracer):
    """Starts recorded spans; a drop-in for the SDK's tracer, of which it needs no field."""

    def __init__(self, provider: RecordingProvider, scope: InstrumentationScope) -> None:
        self.scope = scope
        self.limits = provider.limits
        self.others = provider.others
        self._provider = provider
        self.sampler: PeerSampler = provider.sampling

    @property
    def resource(self) -> Resource:  # type: ignore[override]
        """Who the service is; a fork may change it."""
        return self._provider.resource

    def start_span(
        self,
        name: str,
        context: Context | None = None,
        kind: SpanKind = SpanKind.INTERNAL,
        attributes: Attributes = None,
        links: Sequence[Link] | None = (),
        start_time: int | None = None,
        record_exception: bool = True,
        set_status_on_exception: bool = True,
    ) -> trace.Span:
        """Start a span below the context's."""
        found = trace.get_current_span(context).get_span_context()
        parent = found if found.is_valid else None
        made = self.below(parent, trusted=PEER_TRUSTED.get())
        if not made.trace_flags.sampled:
            return trace.NonRecordingSpan(made)
        start = time_ns() if start_time is None else start_time
        span = RecordedSpan(self, name, made, parent, kind, {}, start)
        span._on_error = record_exception, set_status_on_exception
        if attributes:
            span.set_attributes(attributes)
        for link in links or ():
            span.add_link(link.context, link.attributes)
        self.started(span, context)
        return span

    def below(self, parent: SpanContext | None, *, trusted: bool) -> SpanContext:
        """Make a span's identity, which says whether it is kept.

        Args:
            parent: A valid one, or None where a trace begins.
            trusted: Whether a parent elsewhere is a trusted peer's.
        """
        keep = self.sampler.keeps(parent, trusted=trusted)
        own = CHANCE.getrandbits(64) or 1
        if parent is None:
            number = CHANCE.getrandbits(128) or 1
            flags, state = _FLAGS[_RANDOM | keep], DEFAULT_TRACE_STATE
        else:
            number, _, _, flags, state, _ = parent
            flags = _FLAGS[flags & _RANDOM | keep]
        # A tuple whose own constructor only asks whether it is valid, which it is.
        return _new(SpanContext, (number, own, False, flags, state, True))

    def started(self, span: RecordedSpan, context: Context | None) -> None:
        """Tell others that a span began."""
        if self.others.are_there:
            self.others.on_start(cast("SDKSpan", span), context)

    def ended(self, span: RecordedSpan) -> None:
        """Pass an ended span on."""
        if self.others.are_there:
            self.others.on_end(span)
        self._provider.export((span,))


class RecordingProvider(TracerProvider):
    """The SDK's provider, whose tracers start recorded spans.

    Args:
        sampling: Which traces are kept.
        resource: Who the service is.
        limits: What a span holds at most.
        export: Takes spans that users started and ended.
    """

    def __init__(
        self,
        sampling: PeerSampler,
        resource: Resource,
        limits: SpanLimits,
        export: Callable[[Sequence[RecordedSpan]], None],
    ) -> None:
        self.sampling = sampling
        self.limits = limits
        self.others = Others()  # type: ignore[no-untyped-call]
        self.export = export
        self._made: dict[tuple[str, str, str], RecordingTracer] = {}
        super().__init__(
            sampler=sampling,
            resource=resource,
            span_limits=limits,
            active_span_processor=self.others,
            shutdown_on_exit=False,
        )

    def get_tracer(
        self,
        instrumenting_module_name: str,
        instrumenting_library_version: str | None = None,
        schema_url: str | None = None,
        attributes: Attributes = None,
    ) -> RecordingTracer:
        """Return the tracer of a module, the same each time it is asked for."""
        key = instrumenting_module_name, instrumenting_library_version or "", schema_url or ""
        tracer = None if attributes else self._made.get(key)
        if tracer is None:
            tracer = RecordingTracer(self, InstrumentationScope(*key, attributes))
            if not attributes and len(self._made) < _MOST_TRACERS:
                tracer = self._made.setdefault(key, tracer)
        return tracer
