"""How do requests that have ended become metrics, spans and sampled rows?

Each hands over one record; whoever reads the metrics, and a thread, folds them in batches.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from opentelemetry.trace import Span

from mlguard.guard.models import ServedModel
from mlguard.logs import RateLimitedLog
from mlguard.messages import Outcome
from mlguard.metrics import Metrics
from mlguard.tracing import Tracing

MOST = 16_384  # records that wait
BATCH = 512  # records that wait before somebody is woken for them


@dataclass(slots=True)
class Record:
    """What is told of one request, or of an inference without one.

    Attributes:
        method: The method as sent; "" where there is no request.
        template: The route, "" where nothing matched.
        status: What the client got, 499 where it left.
        seconds: From the first byte of the request to the last of its answer.
        first: From the first byte of the request to the first of its answer; None without one.
        trace_id: The trace, where it is kept.
        outcomes: Of its inferences.
        spans: Its own and those of its inferences, ended.
    """

    method: str = ""
    template: str = ""
    status: int = 0
    seconds: float = 0.0
    first: float | None = None
    trace_id: str | None = None
    outcomes: list[Outcome] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)


class Recorder:
    """Takes records, and folds them; observers fail open, bounded and counted.

    Args:
        metrics: Where they are counted.
        tracing: Where their spans go.
        models: Whose sampled rows are handed on.
        wake: Has them folded soon, as many wait; returns at once.
        most: Records that wait at most; more are dropped, and counted.
    """

    def __init__(
        self,
        metrics: Metrics,
        tracing: Tracing,
        models: Mapping[str, ServedModel],
        *,
        wake: Callable[[], None] = lambda: None,
        most: int = MOST,
    ) -> None:
        self._metrics = metrics
        self._tracing = tracing
        self._models = models
        self._wake = wake
        self._most = most
        self._waiting: deque[Record] = deque()
        self._folding = threading.Lock()
        self._is_observing = True
        self._log = RateLimitedLog()

    def put(self, record: Record) -> None:
        """Hand a record over; never blocks."""
        waiting = self._waiting
        number = len(waiting)
        if number >= self._most:
            self._metrics.records_dropped(1)
            return
        waiting.append(record)
        if number == BATCH:
            self._wake()

    @property
    def folds_at_once(self) -> bool:
        """Whether `fold` takes a few milliseconds at most: little waits, and nobody is at it."""
        return len(self._waiting) <= BATCH and not self._folding.locked()

    def forked(self) -> None:
        """Be in a forked process: what waits is the parent's, and so is who was folding it."""
        self._waiting.clear()
        self._folding = threading.Lock()

    def fold(self) -> None:
        """Make metrics, spans and rows of all that waits."""
        with self._folding:
            spans: list[Span] = []
            for _ in range(len(self._waiting)):
                record = self._waiting.popleft()
                spans += record.spans
                self._observe(record)
            if spans:
                self._take(spans)

    def _take(self, spans: list[Span]) -> None:
        try:
            self._tracing.take(spans)
        except Exception as error:  # noqa: BLE001 - observers fail open
            self.failed(error)

    def failed(self, error: Exception) -> None:
        """Say in a metric and, seldom, in the log that something was not observed."""
        self._is_observing = False
        self._metrics.set_degraded("observers", True)
        self._log.warning("observers", "a request was not observed: %r", error)

    def _observe(self, record: Record) -> None:
        try:
            self._count(record)
        except Exception as error:  # noqa: BLE001 - observers fail open
            self.failed(error)
        else:
            if not self._is_observing:
                self._is_observing = True
                self._metrics.set_degraded("observers", False)

    def _count(self, record: Record) -> None:
        metrics = self._metrics
        if record.method:
            metrics.request_ended(
                record.method,
                record.template,
                record.status,
                record.seconds,
                record.first,
                record.trace_id,
            )
        for outcome in record.outcomes:
            metrics.inference_ended(outcome, record.trace_id)
            if outcome.is_observed:
                metrics.rows_observed(outcome.model, outcome.version, outcome.rows)
                self._models[outcome.model].hand_on(metrics, outcome)
            if outcome.call_id:
                self._models[outcome.model].hand_over(metrics, outcome)
