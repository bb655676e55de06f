"""A receiver of spans, as a collector is one."""

from __future__ import annotations

import gzip
import ssl
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span


class Collector:
    """What a receiver got, and what it answers.

    Attributes:
        url: Where it is.
        paths: The paths that were posted to.
        headers: The headers of each post, their names in lower case.
        bodies: The bodies, decompressed.
        statuses: What is answered: each in turn, the last one for ever.
        more: Headers of each answer.
    """

    def __init__(self) -> None:
        self.url = ""
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        self.statuses = [200]
        self.more: dict[str, str] = {}
        self.connections = 0

    @property
    def spans(self) -> list[Span]:
        """The spans that were taken, in the order of their arrival."""
        found: list[Span] = []
        for body in self.bodies:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    found += scope.spans
        return found


@contextmanager
def collector(
    certificate: Path | None = None, key: Path | None = None, *, asks: bool = False
) -> Iterator[Collector]:
    """Run a receiver on a free port, over TLS with a certificate, which it may demand as well."""
    got = Collector()
    scheme = "http"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            got.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            status = got.statuses.pop(0) if len(got.statuses) > 1 else got.statuses[0]
            coding = self.headers.get("content-encoding")
            if coding:
                body = gzip.decompress(body) if coding == "gzip" else zlib.decompress(body)
            got.paths.append(self.path)
            got.headers.append({k.lower(): v for k, v in self.headers.items()})
            if status == 200:
                got.bodies.append(body)
            self.send_response(status)
            for name, value in got.more.items():
                self.send_header(name, value)
            self.send_header("content-length", "0")
            self.end_headers()

        def handle(self) -> None:
            with suppress(OSError):
                super().handle()

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            if asks:
                context.verify_mode = ssl.CERT_REQUIRED
                context.load_verify_locations(certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        got.url = f"{scheme}://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield got
        finally:
            server.shutdown()
            thread.join()
