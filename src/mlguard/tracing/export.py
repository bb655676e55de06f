"""How do ended spans leave the process?

Observers fail open: what cannot be sent is held within a bound of bytes, then dropped and counted.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from http.client import HTTPException
from itertools import islice
from typing import Protocol

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from mlguard import forks
from mlguard.chance import CHANCE
from mlguard.tracing import otlp
from mlguard.tracing.console import TreePrinter
from mlguard.tracing.post import Poster
from mlguard.tracing.spans import RecordedSpan, RecordingTracer
from mlguard.tracing.variables import Receiver

MOST_BYTES = 8 * 1024 * 1024  # held
_BATCH_BYTES = 1024 * 1024
_BATCH_SPANS = 512
_ENTRY = 160  # bytes that Python needs around a span that is held
_RETRIED = frozenset((429, 502, 503, 504))  # OTLP specification, "Retryable Response Codes"
_UNREACHABLE = 503
_LONGEST_PAUSE = 30.0  # seconds after failures
_Held = tuple[Resource, InstrumentationScope, bytes]


class Export(Protocol):
    """Where ended spans go."""

    def start(self, on_result: Callable[[bool], None], on_dropped: Callable[[int], None]) -> None:
        """Begin in this process."""

    def add(self, spans: Iterable[RecordedSpan]) -> None:
        """Take ended spans."""

    def flush(self, seconds: float) -> None:
        """Send what is held."""

    def close(self, seconds: float) -> None:
        """Send what is held, and take nothing any more."""


class Printing:
    """Prints each trace as a tree."""

    def __init__(self) -> None:
        self._printer: TreePrinter | None = None
        self._lock = threading.Lock()

    def start(self, on_result: Callable[[bool], None], on_dropped: Callable[[int], None]) -> None:
        """Begin in this process, with nothing of a parent's."""
        del on_result, on_dropped
        self._lock = threading.Lock()
        self._printer = TreePrinter()

    def add(self, spans: Iterable[RecordedSpan]) -> None:
        """Print the traces that are whole."""
        printer = self._printer
        if printer is not None:
            with self._lock:
                for span in spans:
                    printer.on_end(span)

    def flush(self, seconds: float) -> None:
        """Nothing is held."""

    def close(self, seconds: float) -> None:
        """Print nothing any more."""
        self._printer = None


class _Process:
    """What one process holds; a fork's child has none until it starts its own."""

    def __init__(
        self,
        poster: Poster,
        on_result: Callable[[bool], None],
        on_dropped: Callable[[int], None],
    ) -> None:
        self.poster = poster
        self.on_result = on_result
        self.on_dropped = on_dropped
        self.lock = threading.Lock()
        self.posting = threading.Lock()
        self.held: deque[_Held] = deque()
        self.size = 0  # bytes, those that are being posted included
        self.failures = 0  # in a row
        self.not_before = 0.0
        self.is_closed = False


class Sending:
    """Sends spans by OTLP over HTTP.

    Spans are written as bytes at once. A post that fails for a while is repeated later, with pauses
    that grow; one that the receiver refuses is lost.
    """

    def __init__(
        self,
        receiver: Receiver,
        most_bytes: int = MOST_BYTES,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receiver = receiver
        self._most = most_bytes
        self._timer = timer
        self._begin()
        forks.in_child(self, Sending._begin)

    def _begin(self) -> None:
        """Begin, also in a fork's child: what is held is the parent's."""
        self._process: _Process | None = None

    @property
    def held(self) -> int:
        """Bytes that are held."""
        process = self._process
        return process.size if process else 0

    def start(self, on_result: Callable[[bool], None], on_dropped: Callable[[int], None]) -> None:
        """Begin in this process, with nothing of a parent's."""
        self.close(0)
        self._process = _Process(Poster(self._receiver, self._timer), on_result, on_dropped)

    def add(self, spans: Iterable[RecordedSpan]) -> None:
        """Write ended spans as bytes and hold them; the oldest give way."""
        process = self._process
        if process is None or process.is_closed:
            return
        dropped = 0
        written: list[_Held] = []
        size = 0
        tracer: RecordingTracer | None = None
        for span in spans:
            try:
                body = otlp.span(span)
            except Exception:  # noqa: BLE001 - whatever a user's span holds, others go on
                dropped += 1
                continue
            if span.tracer is not tracer:
                tracer = span.tracer
                resource, scope = tracer.resource, tracer.scope
            written.append((resource, scope, body))
            size += len(body) + _ENTRY
        with process.lock:
            process.held += written
            process.size += size
            if process.size > self._most:
                dropped += self._make_room(process)
        if dropped:
            process.on_dropped(dropped)

    def _make_room(self, process: _Process) -> int:
        dropped = 0
        while process.size > self._most and process.held:
            process.size -= len(process.held.popleft()[2]) + _ENTRY
            dropped += 1
        return dropped

    def flush(self, seconds: float) -> None:
        """Post what is held, within a time; nothing in the pause after a failure.

        A thread that comes while another posts returns at once.
        """
        process = self._process
        if process is not None and process.posting.acquire(blocking=False):
            try:
                self._post_all(process, self._timer() + seconds)
            finally:
                process.posting.release()

    def close(self, seconds: float) -> None:
        """Post what is held, unless the receiver fails, and end what another thread is posting."""
        process, self._process = self._process, None
        if process is None:
            return
        deadline = self._timer() + seconds
        if not process.failures and process.posting.acquire(timeout=max(0, seconds)):
            try:
                self._post_all(process, deadline)
            finally:
                process.posting.release()
        process.is_closed = True
        process.poster.stop()
        if process.posting.acquire(blocking=False):
            process.poster.close()
        with process.lock:
            dropped = len(process.held)
            process.held.clear()
        if dropped:
            process.on_dropped(dropped)

    def _post_all(self, process: _Process, deadline: float) -> None:
        while process.held and not process.is_closed:
            now = self._timer()
            if now >= deadline or now < process.not_before:
                return
            self._post(process, self._batch(process), min(deadline - now, self._receiver.seconds))

    def _batch(self, process: _Process) -> list[_Held]:
        """Take the oldest out, which still count as held."""
        batch: list[_Held] = []
        size = 0
        with process.lock:
            for entry in islice(process.held, _BATCH_SPANS):
                size += len(entry[2])
                if batch and size > _BATCH_BYTES:
                    break
                batch.append(entry)
            for _ in batch:
                process.held.popleft()
        return batch

    def _post(self, process: _Process, batch: list[_Held], seconds: float) -> None:
        """Post one batch, and tell how it went."""
        try:
            status, after = process.poster.post(otlp.request(batch), seconds)
        except (OSError, HTTPException):
            status, after = _UNREACHABLE, None
        is_taken = 200 <= status < 300
        if status in _RETRIED and not process.is_closed:
            self._put_back(process, batch, after)
        else:
            process.failures = 0
            with process.lock:
                process.size -= sum(len(entry[2]) + _ENTRY for entry in batch)
            if not is_taken:
                process.on_dropped(len(batch))
        if not process.is_closed:
            process.on_result(is_taken)

    def _put_back(self, process: _Process, batch: list[_Held], after: float | None) -> None:
        process.failures += 1
        pause = min(_LONGEST_PAUSE, 2.0 ** min(process.failures - 1, 10)) * CHANCE.uniform(0.8, 1.2)
        process.not_before = self._timer() + max(pause, min(after or 0, _LONGEST_PAUSE))
        with process.lock:
            process.held.extendleft(reversed(batch))
            dropped = self._make_room(process)
        if dropped:
            process.on_dropped(dropped)
