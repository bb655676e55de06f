"""Which request was this? OpenTelemetry spans."""

from mlguard.tracing.console import TreePrinter, tree
from mlguard.tracing.current import (
    attach,
    attached,
    detach,
    sampled_trace,
    server_span_around,
    trace_id,
)
from mlguard.tracing.sampling import PeerSampler, peer
from mlguard.tracing.server import answer_attributes, redacted, server_attributes, span_name
from mlguard.tracing.spans import RecordedSpan, class_name
from mlguard.tracing.tracing import Tracing

__all__ = [
    "PeerSampler",
    "RecordedSpan",
    "Tracing",
    "TreePrinter",
    "answer_attributes",
    "attach",
    "attached",
    "class_name",
    "detach",
    "peer",
    "redacted",
    "sampled_trace",
    "server_attributes",
    "server_span_around",
    "span_name",
    "trace_id",
    "tree",
]
