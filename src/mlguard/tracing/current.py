"""Which span is the current one?"""

from __future__ import annotations

from typing import Any

from opentelemetry import context as runtime
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import NonRecordingSpan, Span, SpanKind, TraceFlags


def attach(context: Context) -> Any:
    """Make a context the current one; returns what `detach` takes."""
    return runtime._RUNTIME_CONTEXT.attach(context)


def detach(token: Any) -> None:
    """Undo `attach`, unless another context did it.

    A streamed answer may be closed in another context than it was begun in, for which OpenTelemetry
    would log an error with its stack; and each kind of runtime raises what it likes.
    """
    try:  # noqa: SIM105 - each request comes here, and `suppress` is three calls more
        runtime._RUNTIME_CONTEXT.detach(token)
    except Exception:  # noqa: BLE001, S110 - said above
        pass


class attached:  # noqa: N801 - a `with` reads it as a word
    """Surround what runs in a context; None is the one that is current already."""

    __slots__ = ("_context", "_token")

    def __init__(self, context: Context | None) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = None if self._context is None else attach(self._context)

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            detach(self._token)


def server_span_around() -> Span | None:
    """Find the server span that somebody around has opened, where the current one is such."""
    around = runtime._RUNTIME_CONTEXT.get_current()
    if not around:
        return None
    span = trace.get_current_span(around)
    context = span.get_span_context()
    if not context.is_valid or context.is_remote:
        return None
    if isinstance(span, NonRecordingSpan):
        return span  # of a trace that is not kept
    is_one = span.is_recording() and getattr(span, "kind", None) is SpanKind.SERVER
    return span if is_one else None


def trace_id(span: Span) -> str | None:
    """Write the trace's id as 32 hex digits; None where there is no trace."""
    number, _, _, _, _, is_valid = span.get_span_context()
    return f"{number:032x}" if is_valid else None


def sampled_trace(span: Span) -> str | None:
    """Write the id of a trace that is kept, for exemplars; None where there is none to lead to."""
    number, _, _, flags, _, is_valid = span.get_span_context()
    return f"{number:032x}" if flags & TraceFlags.SAMPLED and is_valid else None
