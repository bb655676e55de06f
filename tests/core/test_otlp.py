"""How do spans become bytes, and how do these leave the process?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    TraceState,
)

from mlguard.messages import Call
from mlguard.settings import load
from mlguard.tracing import RecordedSpan, Tracing, otlp
from mlguard.tracing.export import MOST_BYTES, Sending
from mlguard.tracing.sampling import PeerSampler
from mlguard.tracing.spans import RecordingProvider, limits
from mlguard.tracing.variables import Receiver
from tests.core.receivers import Collector, collector

CALL = Call("POST", path="/predict", host="iris.example", user_agent="curl/8")


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def made(resource: Resource | None = None, **bounds: int) -> tuple[RecordingProvider, list[Any]]:
    """A provider, and the spans that ended."""
    ended: list[RecordedSpan] = []
    own = RecordingProvider(
        PeerSampler(1.0), resource or Resource({}), limits(**bounds), ended.extend
    )
    return own, ended


def same(spans: Sequence[RecordedSpan]) -> bytes:
    """The bytes of spans, which are the library's."""
    written = otlp.encoded(spans)
    theirs = encode_spans(spans)
    assert ExportTraceServiceRequest.FromString(written).SerializeToString() == written
    assert written == theirs.SerializeToString()
    return written


PLAIN = st.one_of(
    st.text(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
)
ODD = st.recursive(
    st.one_of(PLAIN, st.none(), st.binary()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(min_size=1), inner, max_size=3)
    ),
    max_leaves=4,
)
KEYS = st.one_of(
    st.text(min_size=1),
    st.sampled_from(["http.route", "error.type", "http.response.status_code", "url.path"]),
)
ATTRIBUTES = st.dictionaries(KEYS, ODD, max_size=12)
IDS = st.integers(1, 2**64 - 1)
STATES = st.sampled_from([None, TraceState([]), TraceState([("a", "1"), ("b@c", "2=3")])])
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    IDS,
    st.booleans(),
    st.sampled_from([TraceFlags(n) for n in (1, 3)]),
    STATES,
)
TIMES = st.integers(1, 2**63)
EVENTS = st.lists(st.tuples(st.text(), ATTRIBUTES, TIMES), max_size=3)
LINKS = st.lists(st.tuples(CONTEXTS, ATTRIBUTES), max_size=3)
STATUSES = st.sampled_from(
    [
        (StatusCode.UNSET, None),
        (StatusCode.OK, None),
        (StatusCode.ERROR, None),
        (StatusCode.ERROR, "no room for é"),
    ]
)


class TestBytes:
    @settings(max_examples=50, deadline=None)
    @given(
        name=st.text(),
        kind=st.sampled_from(list(SpanKind)),
        parent=st.none() | CONTEXTS,
        attributes=ATTRIBUTES,
        events=EVENTS,
        links=LINKS,
        status=STATUSES,
        times=st.tuples(TIMES, TIMES),
    )
    def test_any_span(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        attributes: Any,
        events: list[Any],
        links: list[Any],
        status: tuple[StatusCode, str | None],
        times: tuple[int, int],
    ) -> None:
        """Whatever a span holds, it is written as the library writes it."""
        own, ended = made(Resource({"service.name": "iris", "n": [1, 2]}, "https://schema"))
        tracer = own.get_tracer("test", "1.2", "https://scope")
        context = trace.set_span_in_context(NonRecordingSpan(parent)) if parent else Context()
        span = tracer.start_span(name, context, kind, start_time=times[0])
        # PeerSampler keeps what a local parent keeps; all of these are sampled.
        span.set_attributes(attributes)
        for event in events:
            span.add_event(*event)
        for link in links:
            span.add_link(*link)
        span.set_status(*status)
        span.end(times[1])

        assert same(ended)

    @settings(max_examples=30, deadline=None)
    @given(st.dictionaries(st.text(min_size=1), PLAIN, max_size=30))
    def test_more_than_there_is_room_for(self, attributes: Any) -> None:
        """What there was no room for is counted as the library counts it."""
        own, ended = made(attributes=8, events=2, links=1, event_attributes=1)
        span = own.get_tracer("test").start_span("x")
        for _ in range(3):
            span.add_event("e", {"a": 1, "b": 2})
            span.add_link(SpanContext(1, 2, False))
        span.set_attributes(attributes)
        span.end()

        assert same(ended)
        assert ended[0].dropped_attributes == max(0, len(attributes) - 8)
        assert len(ended[0].attributes) == min(8, len(attributes))
        assert (ended[0].dropped_events, ended[0].dropped_links) == (1, 2)

    def test_several_scopes(self) -> None:
        """Spans stand below their resource and scope, whose attributes and schema are told."""
        own, ended = made(Resource({"service.name": "iris"}))
        for name in ("a", "b", "a"):
            own.get_tracer(name, attributes={"k": "v"}).start_span(name).end()
            own.get_tracer(name).start_span(name).end()

        decoded = ExportTraceServiceRequest.FromString(otlp.encoded(ended))

        (resource,) = decoded.resource_spans
        names = [[span.name for span in scope.spans] for scope in resource.scope_spans]
        assert sorted(names) == [["a"], ["a"], ["a", "a"], ["b"], ["b"]]

    def test_a_span_of_a_request(self) -> None:
        """The spans that a guard makes are written as the library writes them."""
        tracing = Tracing(load({"tracing": {}}, environ={}), environ={})
        span, _ = tracing.server_span(CALL, trusted=False, client="10.0.0.1")
        tracing.finish(span, name="POST /predict", attributes={"http.route": "/p"}, error=True)

        assert isinstance(span, RecordedSpan)
        assert same([span])

    def test_what_is_no_text(self) -> None:
        """What a client sent in a broken encoding costs its own characters, never the span."""
        own, ended = made()
        span = own.get_tracer("test").start_span("a\udc80b")
        span.set_attributes({"url.path": "/\udcff", "list": ["\udcff"]})
        span.add_event("\udcff", {"a": "\udcff"})
        span.end()

        (decoded,) = decoded_spans(otlp.encoded(ended))

        assert decoded.name == "a?b"
        assert decoded.attributes[0].value.string_value == "/?"

    @pytest.mark.parametrize("value", [2**63, -(2**63) - 1, [2**64]], ids=["above", "below", "in"])
    def test_numbers_beyond_64_bits(self, value: Any) -> None:
        """A number that OTLP cannot say leaves its span without it."""
        own, ended = made()
        span = own.get_tracer("test").start_span("x", attributes={"a": value, "b": 1})
        span.end()

        (decoded,) = decoded_spans(otlp.encoded(ended))
        assert [a.key for a in decoded.attributes] == ["b"]


def decoded_spans(body: bytes) -> list[Any]:
    request = ExportTraceServiceRequest.FromString(body)
    return [s for r in request.resource_spans for scope in r.scope_spans for s in scope.spans]


def finished(tracing: Tracing, name: str = "x", **attributes: Any) -> Span:
    span, _ = tracing.server_span(CALL, trusted=False, client="10.0.0.1")
    span.set_attributes(attributes)
    tracing.finish(span, name=name, attributes={})
    return span


class Told:
    """What a tracing's owner is told."""

    def __init__(self) -> None:
        self.results: list[bool] = []
        self.dropped = 0

    def drop(self, count: int) -> None:
        self.dropped += count


@contextmanager
def tracing_to(
    got: Collector | str, environ: dict[str, str] | None = None, **table: Any
) -> Iterator[tuple[Tracing, Told]]:
    """A started tracing that sends to a receiver by variables."""
    url = got if isinstance(got, str) else got.url
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": url, **(environ or {})}
    tracing, told = Tracing(load({"tracing": table}, environ={}), environ=variables), Told()
    tracing.start(told.results.append, told.drop)
    try:
        yield tracing, told
    finally:
        tracing.close(0)


class TestSending:
    def test_to_a_receiver(self) -> None:
        """Spans arrive, those of the guard and those that a user began."""
        with collector() as got, tracing_to(got) as (tracing, told):
            assert tracing.provider is not None
            tracing.provider.get_tracer("mine").start_span("mine").end()
            tracing.take([finished(tracing, "a"), finished(tracing, "b")])
            tracing.flush()

        assert [span.name for span in got.spans] == ["mine", "a", "b"]
        assert got.paths == ["/v1/traces"]
        assert got.headers[0]["content-type"] == "application/x-protobuf"
        assert (told.results, told.dropped) == ([True], 0)

    def test_headers(self) -> None:
        """Headers come from the standard variable, those of traces first."""
        variables = {
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=all",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "api-key=a%20b,x-team=ml",
        }
        with collector() as got, tracing_to(got, variables) as (tracing, _):
            tracing.take([finished(tracing)])
            tracing.flush()

        sent = got.headers[0]
        assert (sent["api-key"], sent["x-team"]) == ("a b", "ml")

    @pytest.mark.parametrize("coding", ["gzip", "deflate"])
    def test_compression(self, coding: str) -> None:
        """Bodies are compressed where the variable says so."""
        variables = {"OTEL_EXPORTER_OTLP_COMPRESSION": coding}
        with collector() as got, tracing_to(got, variables) as (tracing, _):
            tracing.take([finished(tracing, "small")])
            tracing.flush()

        assert got.headers[0]["content-encoding"] == coding
        assert [span.name for span in got.spans] == ["small"]

    def test_one_connection(self) -> None:
        """A connection is kept, and made anew where the receiver closed it."""
        with collector() as got, tracing_to(got) as (tracing, told):
            for more in ({}, {}, {"connection": "close"}, {}):
                got.more = more
                tracing.take([finished(tracing)])
                tracing.flush()

        assert told.results == [True] * 4
        assert got.connections == 2

    def test_a_receiver_that_restarted(self) -> None:
        """A connection that is gone costs no span."""
        with collector() as got, tracing_to(got) as (tracing, told):
            tracing.take([finished(tracing)])
            tracing.flush()
            poster = tracing._export._process.poster  # type: ignore[union-attr]
            poster._connection.sock.shutdown(socket.SHUT_RDWR)
            tracing.take([finished(tracing)])
            tracing.flush()

        assert told.results == [True, True]
        assert got.connections == 2

    def test_batches(self) -> None:
        """A post holds 512 spans at most, and about a mebibyte."""
        with collector() as got, tracing_to(got) as (tracing, _):
            tracing.take([finished(tracing) for _ in range(1100)])
            tracing.flush()
            counts = [len(decoded_spans(body)) for body in got.bodies]
            tracing.take([finished(tracing, text="x" * 4096) for _ in range(500)])
            tracing.flush()

        assert counts == [512, 512, 76]
        assert max(map(len, got.bodies)) < 1.1 * 2**20
        assert len(got.spans) == 1600

    def test_a_receiver_that_is_away_for_a_while(self) -> None:
        """What could not be sent is kept, and sent after a pause that grows."""
        clock, told = Clock(), Told()
        own, ended = made()
        with collector() as got:
            got.statuses = [503, 429, 200]
            sending = Sending(Receiver(got.url + "/v1/traces"), timer=clock)
            sending.start(told.results.append, told.drop)
            own.get_tracer("test").start_span("x").end()
            sending.add(ended)
            sending.flush(5)
            sending.flush(5)  # in the pause
            assert told.results == [False]
            clock.now += 1.3
            sending.flush(5)
            clock.now += 1.3
            sending.flush(5)
            assert told.results == [False, False]
            clock.now += 1.3
            sending.flush(5)
            assert sending.held == 0
            sending.close(0)

        assert [span.name for span in got.spans] == ["x"]
        assert (told.results, told.dropped) == ([False, False, True], 0)

    def test_retry_after(self) -> None:
        """A receiver says when it wants to be asked again, within reason."""
        clock, told = Clock(), Told()
        own, ended = made()
        with collector() as got:
            got.statuses, got.more = [503, 200], {"retry-after": "20"}
            sending = Sending(Receiver(got.url + "/v1/traces"), timer=clock)
            sending.start(told.results.append, told.drop)
            own.get_tracer("test").start_span("x").end()
            sending.add(ended)
            for pause in (0, 19, 1.1):
                clock.now += pause
                sending.flush(5)
            sending.close(0)

        assert told.results == [False, True]

    @pytest.mark.parametrize("status", [400, 401, 404, 413, 301, 500])
    def test_a_receiver_that_refuses(self, status: int) -> None:
        """What a receiver refuses is lost, counted, and not repeated."""
        with collector() as got, tracing_to(got) as (tracing, told):
            got.statuses = [status, 200]
            tracing.take([finished(tracing)])
            tracing.flush()
            tracing.take([finished(tracing, "next")])
            tracing.flush()

        assert (told.results, told.dropped) == ([False, True], 1)
        assert [span.name for span in got.spans] == ["next"]

    def test_nobody_listens(self) -> None:
        """A port without a listener fails at once, and nothing is raised."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        with tracing_to(f"http://127.0.0.1:{port}") as (tracing, told):
            tracing.take([finished(tracing)])
            tracing.flush()

            assert told.results == [False]

    def test_what_is_no_http(self) -> None:
        """A receiver that speaks something else is one that fails."""
        with silent(b"+OK\r\n" * 100) as url, tracing_to(url) as (tracing, told):
            tracing.take([finished(tracing)])
            tracing.flush()

            assert told.results == [False]

    def test_a_proxy(self) -> None:
        """Spans go through the proxy that others use, which is told who asks."""
        with collector() as got:
            proxy = got.url.replace("//", "//me:hunter2@")
            with tracing_to("http://collector.invalid:4318", {"http_proxy": proxy}) as (
                tracing,
                told,
            ):
                tracing.take([finished(tracing)])
                tracing.flush()

        assert got.paths == ["http://collector.invalid:4318/v1/traces"]
        assert got.headers[0]["host"] == "collector.invalid:4318"
        assert got.headers[0]["proxy-authorization"] == "Basic bWU6aHVudGVyMg=="
        assert told.results == [True]

    def test_a_proxy_that_refuses(self) -> None:
        """A proxy is asked for a tunnel to a receiver over TLS, and may refuse it."""
        with silent(b"HTTP/1.1 403 No\r\n\r\n") as proxy:
            variables = {"https_proxy": proxy}
            with tracing_to("https://collector.invalid", variables) as (tracing, told):
                tracing.take([finished(tracing)])
                tracing.flush()

                assert told.results == [False]

    @pytest.mark.parametrize("is_trusted", [True, False])
    def test_tls(self, is_trusted: bool, tmp_path: Path) -> None:
        """Over TLS, only whom the variable names, or the system trusts, is told anything."""
        certificate, key = certified(tmp_path)
        variables = {"OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate)} if is_trusted else {}
        with (
            collector(certificate, key) as got,
            tracing_to(got, variables) as (tracing, told),
        ):
            tracing.take([finished(tracing)])
            tracing.flush()

        assert told.results == [is_trusted]
        assert len(got.spans) == is_trusted

    def test_our_own_certificate(self, tmp_path: Path) -> None:
        """A receiver that asks who we are is shown our certificate."""
        certificate, key = certified(tmp_path)
        variables = {
            "OTEL_EXPORTER_OTLP_CERTIFICATE": str(certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": str(certificate),
            "OTEL_EXPORTER_OTLP_CLIENT_KEY": str(key),
        }
        with (
            collector(certificate, key, asks=True) as got,
            tracing_to(got, variables) as (tracing, told),
        ):
            tracing.take([finished(tracing)])
            tracing.flush()

        assert told.results == [True]

    def test_many_threads(self) -> None:
        """Spans that end in many threads while others are posted all arrive."""
        with collector() as got, tracing_to(got) as (tracing, told):
            assert tracing.provider is not None
            tracer = tracing.provider.get_tracer("mine")

            def work() -> None:
                for _ in range(500):
                    tracer.start_span("mine").end()

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                tracing.flush()
            tracing.flush()
            sending = tracing._export
            assert isinstance(sending, Sending)
            assert (len(got.spans), told.dropped, sending.held) == (2000, 0, 0)


def certified(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, secret = folder / "cert.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(Encoding.PEM))
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return certificate, secret


def flushing(tracing: Tracing) -> threading.Thread:
    """A thread that flushes, and has connected."""
    posting = threading.Thread(target=tracing.flush, args=(60,))
    posting.start()
    while getattr(tracing._export._process.poster, "_socket", None) is None:  # type: ignore[union-attr]
        os.sched_yield()
    return posting


@contextmanager
def silent(said: bytes = b"", every: float = 0) -> Iterator[str]:
    """A server that accepts, reads nothing, and says this and nothing more."""
    taken: list[socket.socket] = []
    ends = threading.Event()

    def serve() -> None:
        while not ends.is_set():
            try:
                connection, _ = server.accept()
            except OSError:
                return
            taken.append(connection)
            try:
                if every:
                    for byte in said:
                        connection.sendall(bytes((byte,)))
                        if ends.wait(every):
                            return
                else:
                    connection.sendall(said)
            except OSError:
                pass

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            ends.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


class TestHanging:
    def test_memory_stays_flat(self) -> None:
        """While a receiver hangs, a queue is as long as its bound, and what is lost is counted."""
        variables = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.2"}
        with silent() as url, tracing_to(url, variables) as (tracing, told):
            sending = tracing._export
            assert isinstance(sending, Sending)
            for _ in range(300):
                tracing.take([finished(tracing, a="x" * 60_000, b="y" * 4000) for _ in range(10)])
                assert sending.held <= MOST_BYTES
            tracing.flush()

            assert sending.held <= MOST_BYTES
            assert told.results == [False]
            kept = 3000 - told.dropped
            assert 900 < kept < 1100  # of 8 KiB each

    def test_a_span_beyond_the_bound(self) -> None:
        """A span that is larger than the queue is dropped and counted."""
        own, ended = made(length=10_000)
        told = Told()
        sending = Sending(Receiver("http://127.0.0.1:9/v1/traces"), most_bytes=5000)
        sending.start(told.results.append, told.drop)
        own.get_tracer("test").start_span("x", attributes={"a": "x" * 9000}).end()

        sending.add(ended)

        assert (sending.held, told.dropped) == (0, 1)

    @pytest.mark.parametrize(
        ("said", "every"),
        [
            pytest.param(b"", 0, id="says nothing"),
            pytest.param(b"HTTP/1.1 200 OK\r\nA: " + b"b" * 500, 0.02, id="says it drop by drop"),
            pytest.param(
                b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"b" * 400,
                0.02,
                id="never ends its body",
            ),
        ],
    )
    def test_a_post_takes_its_time_at_most(self, said: bytes, every: float) -> None:
        """However a receiver dawdles, a post takes no longer than its timeout."""
        variables = {"OTEL_EXPORTER_OTLP_TIMEOUT": "0.3"}
        with silent(said, every) as url, tracing_to(url, variables) as (tracing, told):
            tracing.take([finished(tracing)])
            began = time.monotonic()
            tracing.flush()

            assert time.monotonic() - began < 8  # without it, ten
            assert told.results == [False]

    def test_a_close_ends_a_post(self) -> None:
        """Closing waits for no receiver, and ends what another thread is posting."""
        with silent() as url, tracing_to(url) as (tracing, told):
            tracing.take([finished(tracing)])
            posting = flushing(tracing)
            began = time.monotonic()
            tracing.close(0.1)
            posting.join(10)

            assert not posting.is_alive()
            assert time.monotonic() - began < 8  # a post's own end: ten
            assert told.dropped == 1
            assert told.results == []

    def test_a_close_sends_what_is_held(self) -> None:
        """What is held when a process ends is sent, while the receiver takes it."""
        with collector() as got, tracing_to(got) as (tracing, told):
            tracing.take([finished(tracing)])
            tracing.close(5)
            tracing.take([finished(tracing, "late")])

        assert [span.name for span in got.spans] == ["x"]
        assert told.results == [True]

    def test_a_close_asks_no_failing_receiver(self) -> None:
        """A receiver that failed is not asked again at the end; what is held is counted."""
        with collector() as got, tracing_to(got) as (tracing, told):
            got.statuses = [503]
            tracing.take([finished(tracing)])
            tracing.flush()
            tracing.close(5)

        assert (told.results, told.dropped) == ([False], 1)

    def test_two_flushes(self) -> None:
        """While one thread posts, another that flushes returns at once."""
        with silent() as url, tracing_to(url) as (tracing, _):
            tracing.take([finished(tracing)])
            posting = flushing(tracing)
            began = time.monotonic()
            tracing.flush()
            took = time.monotonic() - began
            tracing.close(0)
            posting.join(10)

            assert took < 8


class TestProcesses:
    def test_nothing_before_a_start(self) -> None:
        """Before a start nothing is held, nor after a close; each start begins anew."""
        with collector() as got:
            variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": got.url}
            tracing, told = Tracing(load({"tracing": {}}, environ={}), environ=variables), Told()
            tracing.take([finished(tracing, "before")])
            for name in ("one", "two"):
                tracing.start(told.results.append, told.drop)
                tracing.take([finished(tracing, name)])
                tracing.close(5)
                tracing.take([finished(tracing, "after")])

        assert [span.name for span in got.spans] == ["one", "two"]

    def test_a_fork(self) -> None:
        """A child sends nothing of its parent's, and nothing at all until it starts."""
        program = """
import os, sys
from mlguard.messages import Call
from mlguard.settings import load
from mlguard.tracing import Tracing
tracing = Tracing(load({"tracing": {}}, environ={}))
tracing.start(lambda taken: None, lambda count: None)
def take(name):
    span, _ = tracing.server_span(Call("GET"), trusted=False, client="")
    tracing.finish(span, name=name, attributes={})
    tracing.take([span])
take("parent")
tracing._export._process.lock.acquire()  # as another thread may hold it
if not (child := os.fork()):
    take("early")
    tracing.flush(5)
    tracing.start(lambda taken: None, lambda count: None)
    take("child")
    tracing.close(5)
    os._exit(0)
tracing._export._process.lock.release()
os.waitpid(child, 0)
tracing.close(5)
"""
        with collector() as got:
            environ = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": got.url}
            subprocess.run([sys.executable, "-c", program], env=environ, check=True, timeout=60)

        assert [span.name for span in got.spans] == ["child", "parent"]
