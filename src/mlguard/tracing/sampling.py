"""Which traces are kept?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags, TraceState
from opentelemetry.util.types import Attributes

from mlguard.chance import CHANCE

# A variable of its own: instrumentations start their spans in contexts that they make anew.
PEER_TRUSTED: ContextVar[bool] = ContextVar("mlguard_peer_trusted", default=False)


@contextmanager
def peer(*, trusted: bool) -> Iterator[None]:
    """Say, while somebody else opens a server span, whether the peer's sampled flag counts."""
    token = PEER_TRUSTED.set(trusted)
    try:
        yield
    finally:
        with suppress(ValueError):  # a streamed answer may be closed in another context
            PEER_TRUSTED.reset(token)


class PeerSampler(Sampler):
    """Keep a share of traces that no client chooses.

    A caller's trace is continued, but its sampled flag counts only from trusted peers; a trace id
    that a client sent decides nothing either. Spans within the process follow their parent.

    Args:
        share: Of traces begun here, in [0, 1].
        chance: A random number in [0, 1).
    """

    def __init__(self, share: float, chance: Callable[[], float] = CHANCE.random) -> None:
        self.share = share
        self._chance = chance

    def keeps(self, parent: SpanContext | None, *, trusted: bool) -> bool:
        """Decide about one span.

        Args:
            parent: A valid one, or None where a trace begins.
            trusted: Whether a parent elsewhere is a trusted peer's.
        """
        if parent is not None and (trusted or not parent[2]):
            return bool(parent[3] & TraceFlags.SAMPLED)
        return self._chance() < self.share

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
        keep = self.keeps(parent if parent.is_valid else None, trusted=PEER_TRUSTED.get())
        decision = Decision.RECORD_AND_SAMPLE if keep else Decision.DROP
        return SamplingResult(decision, attributes if keep else None, parent.trace_state)

    def get_description(self) -> str:
        """Name the sampler."""
        return f"mlguard.PeerSampler({self.share})"
