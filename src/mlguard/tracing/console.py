"""How does a trace look to a person?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor


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
