"""Where do everybody's spans go? To an OTLP receiver of the benchmark's own, in another process.

python -m benchmarks.receiver
"""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import urllib.request
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


class Receiver:
    """Runs the receiver while it is entered.

    Attributes:
        url: Where OTLP/HTTP is taken, without /v1/traces.
    """

    url = ""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "benchmarks.receiver"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def counts(self) -> Counter[str]:
        """Return how many spans came, by `service.name`."""
        with urllib.request.urlopen(f"{self.url}/counts") as answer:
            return Counter(json.load(answer))


def names(request: bytes) -> Counter[str]:
    """Count the spans of an ExportTraceServiceRequest by `service.name`."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    counted: Counter[str] = Counter()
    for each in ExportTraceServiceRequest.FromString(request).resource_spans:
        told = {pair.key: pair.value.string_value for pair in each.resource.attributes}
        counted[told.get("service.name", "")] += sum(len(s.spans) for s in each.scope_spans)
    return counted


COUNTED: Counter[str] = Counter()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if self.path.endswith("/v1/traces"):
            COUNTED.update(names(body))
        self._answer(b"", "application/x-protobuf")

    def do_GET(self) -> None:
        self._answer(json.dumps(COUNTED).encode(), "application/json")

    def _answer(self, body: bytes, content_type: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if body:
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    """Take spans until killed; the port is printed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
