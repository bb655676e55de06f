"""What did the services send about single requests? A receiver of traces, as small as can be."""

from __future__ import annotations

import gzip
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue


@dataclass(frozen=True, slots=True)
class Span:
    """One span, as much of it as is shown.

    Attributes:
        service: Who sent it.
        name: What was done.
        span: Its id.
        parent: The id of the span above it, b"" where there is none.
        began: Nanoseconds since 1970.
        seconds: How long it took.
        attributes: What is said about it.
    """

    service: str
    name: str
    span: bytes
    parent: bytes
    began: int
    seconds: float
    attributes: dict[str, object]


class Received:
    """The spans received so far, by trace."""

    def __init__(self) -> None:
        self.url = ""
        self._lock = threading.Lock()
        self._traces: dict[bytes, list[Span]] = defaultdict(list)

    def __len__(self) -> int:
        with self._lock:
            return sum(map(len, self._traces.values()))

    def take(self, request: ExportTraceServiceRequest) -> None:
        """Keep the spans of one export."""
        for resource in request.resource_spans:
            service = str(_read(resource.resource.attributes).get("service.name", ""))
            spans = [span for scope in resource.scope_spans for span in scope.spans]
            with self._lock:
                for s in spans:
                    seconds = (s.end_time_unix_nano - s.start_time_unix_nano) / 1e9
                    self._traces[s.trace_id].append(
                        Span(
                            service,
                            s.name,
                            s.span_id,
                            s.parent_span_id,
                            s.start_time_unix_nano,
                            seconds,
                            _read(s.attributes),
                        )
                    )

    def inference(self, service: str, timeout: float = 5.0) -> tuple[str, list[Span]]:
        """Wait for a trace of an answered batch of four rows or more; its id and its spans."""
        deadline = time.monotonic() + timeout
        while True:
            with self._lock:
                for trace, spans in self._traces.items():
                    if spans[0].service == service and _is_worth_drawing(spans):
                        return trace.hex(), list(spans)
            if time.monotonic() > deadline:
                return "", []
            time.sleep(0.1)


def _is_worth_drawing(spans: list[Span]) -> bool:
    rows = [int(str(s.attributes.get("mlguard.inference.rows", 0))) for s in spans]
    return any(not s.parent for s in spans) and 4 <= max(rows) <= 8


@contextmanager
def receiver() -> Iterator[Received]:
    """Receive OTLP over HTTP on a free port, in a thread."""
    received = Received()

    class Post(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            received.take(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Post)
    server.daemon_threads = True
    received.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield received
    finally:
        server.shutdown()
        server.server_close()


def _read(attributes: object) -> dict[str, object]:
    pairs: list[KeyValue] = list(attributes)  # type: ignore[call-overload]
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> object:
    kind = value.WhichOneof("value")
    return getattr(value, kind) if kind else None
