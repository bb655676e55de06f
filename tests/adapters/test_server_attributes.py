"""Does a server span say what the instrumentation packages say?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import pytest
from fastapi import APIRouter, FastAPI
from flask import Blueprint, Flask
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from mlguard.messages import Call
from mlguard.tracing import answer_attributes, server_attributes, span_name

SECRET = "hunter2"
CLIENT, PORT = "192.0.2.7", 40000
SERVER = ("10.0.0.1", 8000)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, and what the app answers.

    Attributes:
        path: Where to.
        template: The route as FastAPI and Flask spell it, "" where none matches.
        status: What the app answers.
    """

    path: str = "/plain"
    template: tuple[str, str] = ("/plain", "/plain")
    status: int = 200
    method: str = "GET"
    query: str = ""
    host: str = "iris.example"
    scheme: str = "http"
    protocol: str = "1.1"
    user_agent: str = ""
    error_type: str | None = None


NONE = ("", "")
ITEM = ("/v1/items/{item}", "/v1/items/<item>")
REQUESTS = {
    "plain": Request(),
    "included, with a parameter": Request("/v1/items/7", ITEM),
    "query with secrets": Request(query=f"token={SECRET}&x=1"),
    "unknown path": Request("/nowhere", NONE, 404),
    "wrong method": Request(method="POST", status=405),
    "unknown method": Request(method="BREW", status=405),
    "lower-case method": Request(method="post", status=405),
    "no Host": Request(host="", protocol="1.0"),
    "port in Host": Request(host="iris.example:8080"),
    "upper-case Host": Request(host="IRIS.example"),
    "IPv6 Host": Request(host="[2001:db8::1]:8080"),
    "broken Host": Request(host="a b/c"),
    "https": Request(scheme="https"),
    "user agent": Request(user_agent="curl/8.5"),
    "bot": Request(user_agent="Mozilla/5.0 (compatible; Googlebot/2.1)"),
    "test traffic": Request(user_agent="AlwaysOn/1"),
    "HTTP/1.0": Request(protocol="1.0"),
    "HEAD": Request("/both", ("/both", "/both"), method="HEAD"),
    "error": Request("/fails", ("/fails", "/fails"), 500, error_type="ValueError"),
}


class Seen(NamedTuple):
    """A server span: its name, attributes and whether it is an error."""

    name: str
    attributes: dict[str, Any]
    is_error: bool


def ours(request: Request, framework: int) -> Seen:
    """What the kit says."""
    call = Call(
        request.method,
        path=request.path,
        query=request.query,
        scheme=request.scheme,
        host=request.host,
        server=SERVER,
        protocol=request.protocol,
        peer=CLIENT,
        peer_port=PORT,
        user_agent=request.user_agent,
    )
    template = request.template[framework]
    said = server_attributes(call, CLIENT)
    said |= answer_attributes(template, request.status, request.error_type)
    return Seen(span_name(call, template), said, request.status >= 500)


def recorded() -> tuple[TracerProvider, InMemorySpanExporter]:
    provider, exporter = TracerProvider(shutdown_on_exit=False), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def seen(exporter: InMemorySpanExporter) -> Seen:
    spans: tuple[ReadableSpan, ...] = exporter.get_finished_spans()
    (span,) = spans
    exporter.clear()
    is_error = span.status.status_code is StatusCode.ERROR
    return Seen(span.name, dict(span.attributes or {}), is_error)


def fastapi_app(**more: Any) -> FastAPI:
    app, router = FastAPI(**more), APIRouter(prefix="/v1")

    @app.get("/plain")
    def plain() -> None: ...

    @app.api_route("/both", methods=["GET", "HEAD"])
    def both() -> None: ...

    @app.get("/fails")
    def fails() -> None:
        raise ValueError(SECRET)

    @router.get("/items/{item}")
    def item(item: str) -> None: ...

    app.include_router(router)
    return app


def asgi(app: FastAPI, request: Request) -> None:
    headers = [(b"host", request.host.encode())] if request.host else []
    if request.user_agent:
        headers.append((b"user-agent", request.user_agent.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": request.protocol,
        "method": request.method,
        "scheme": request.scheme,
        "path": request.path,
        "raw_path": request.path.encode(),
        "root_path": "",
        "query_string": request.query.encode(),
        "headers": headers,
        "client": (CLIENT, PORT),
        "server": SERVER,
    }

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None: ...

    async def run() -> None:
        with suppress(ValueError):
            await app(scope, receive, send)

    asyncio.run(run())


@cache
def _contrib() -> tuple[FastAPI, InMemorySpanExporter]:
    app = fastapi_app(telemetry={"tracing": False})
    provider, exporter = recorded()
    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=provider,
        meter_provider=NoOpMeterProvider(),
        exclude_spans=["receive", "send"],
    )
    return app, exporter


def contrib_fastapi(request: Request) -> Seen:
    app, exporter = _contrib()
    asgi(app, request)
    return seen(exporter)


@cache
def _native() -> tuple[FastAPI, InMemorySpanExporter]:
    provider, exporter = recorded()
    telemetry = {"tracer_provider": provider, "operation_spans": False}
    return fastapi_app(telemetry=telemetry), exporter


def native_fastapi(request: Request) -> Seen:
    app, exporter = _native()
    asgi(app, request)
    return seen(exporter)


@cache
def _flask() -> tuple[Flask, InMemorySpanExporter]:
    app, blueprint = Flask("app"), Blueprint("v1", "v1", url_prefix="/v1")
    app.add_url_rule("/plain", view_func=lambda: "", endpoint="plain")
    app.add_url_rule("/both", view_func=lambda: "", endpoint="both", methods=["GET", "HEAD"])

    @app.get("/fails")
    def fails() -> str:
        raise ValueError(SECRET)

    blueprint.add_url_rule("/items/<item>", view_func=lambda item: item, endpoint="item")
    app.register_blueprint(blueprint)
    provider, exporter = recorded()
    FlaskInstrumentor.instrument_app(  # type: ignore[no-untyped-call]
        app, tracer_provider=provider, meter_provider=NoOpMeterProvider(), enable_commenter=False
    )
    return app, exporter


def contrib_flask(request: Request) -> Seen:
    app, exporter = _flask()
    raw = request.path + (f"?{request.query}" if request.query else "")
    environ = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "QUERY_STRING": request.query,
        "RAW_URI": raw,
        "SERVER_NAME": SERVER[0],
        "SERVER_PORT": str(SERVER[1]),
        "SERVER_PROTOCOL": f"HTTP/{request.protocol}",
        "REMOTE_ADDR": CLIENT,
        "REMOTE_PORT": str(PORT),
        "wsgi.url_scheme": request.scheme,
        **({"HTTP_HOST": request.host} if request.host else {}),
        **({"HTTP_USER_AGENT": request.user_agent} if request.user_agent else {}),
    }
    answer = app(environ, lambda *_: None)
    b"".join(answer)
    answer.close()  # type: ignore[attr-defined]
    return seen(exporter)


PACKAGES: dict[str, tuple[int, Callable[[Request], Seen]]] = {
    "fastapi": (0, contrib_fastapi),
    "fastapi itself": (0, native_fastapi),
    "flask": (1, contrib_flask),
}


class Difference(NamedTuple):
    """Where the kit says something else.

    Attributes:
        what: The attribute, or "name".
        packages: Than whom.
        cases: In which requests.
        why: The reason.
    """

    what: str
    packages: frozenset[str]
    cases: frozenset[str]
    why: str


ALL = frozenset(REQUESTS)
WRONG = frozenset(("wrong method", "unknown method", "lower-case method"))
NOT_SPLIT = frozenset(("port in Host", "upper-case Host", "IPv6 Host", "broken Host"))
NOT_SAID = frozenset(("no Host", "broken Host"))
FASTAPI, ITSELF, FLASK = (frozenset((name,)) for name in PACKAGES)
DIFFERENCES = [
    Difference(
        "url.query",
        FASTAPI | ITSELF | FLASK,
        frozenset(("query with secrets",)),
        "a query's values may be secrets: its names are told",
    ),
    Difference(
        "error.type",
        FASTAPI | FLASK,
        frozenset(("error",)),
        "the conventions ask for the exception's class; the packages only know the status",
    ),
    Difference(
        "server.address",
        FASTAPI,
        ALL,
        "the package tells the socket's address with its port; the conventions the Host header's",
    ),
    Difference(
        "server.port",
        FASTAPI | FLASK,
        ALL - NOT_SAID,
        "the packages tell the socket's port; the conventions that of the Host header",
    ),
    Difference(
        "server.address", FLASK, NOT_SPLIT, "the package tells the Host header as it was sent"
    ),
    Difference(
        "server.address", FLASK, frozenset(("no Host",)), "without one, the server says who it is"
    ),
    *(
        Difference(what, ITSELF, frozenset(("broken Host",)), "else the server says who it is")
        for what in ("server.address", "server.port")
    ),
    *(
        Difference(what, ITSELF, ALL, "FastAPI says nothing about the client")
        for what in ("client.address", "client.port")
    ),
    Difference(
        "user_agent.original",
        ITSELF,
        frozenset(("user agent", "bot", "test traffic")),
        "FastAPI says nothing about the client",
    ),
    Difference(
        "user_agent.synthetic.type",
        ITSELF,
        frozenset(("bot", "test traffic")),
        "FastAPI says nothing about the client",
    ),
    Difference(
        "http.request.method",
        ITSELF,
        frozenset(("lower-case method",)),
        "FastAPI knows a method by its case; the packages do not",
    ),
    Difference(
        "http.route", FLASK, WRONG, "a path has its route, whatever the method, as FastAPI says"
    ),
    Difference(
        "name",
        FLASK,
        frozenset(("unknown method",)),
        "the name of a path that has a route holds the route",
    ),
    Difference(
        "name", ITSELF, frozenset(("lower-case method",)), "FastAPI knows a method by its case"
    ),
    Difference(
        "name",
        FLASK,
        frozenset(("unknown path",)),
        "a client must not choose a span's name; the package takes the path",
    ),
]


def differing(theirs: Seen, mine: Seen) -> set[str]:
    keys = theirs.attributes.keys() | mine.attributes.keys()
    found = {key for key in keys if theirs.attributes.get(key) != mine.attributes.get(key)}
    return found | {"name"} if theirs.name != mine.name else found


@pytest.mark.parametrize("package", PACKAGES)
@pytest.mark.parametrize("case", REQUESTS)
def test_attribute_by_attribute(package: str, case: str) -> None:
    """A span says what the package says, but for the differences that are listed and wanted."""
    framework, their = PACKAGES[package]
    request = REQUESTS[case]

    theirs, mine = their(request), ours(request, framework)

    listed = {d.what for d in DIFFERENCES if package in d.packages and case in d.cases}
    assert differing(theirs, mine) == listed
    assert theirs.is_error == mine.is_error
    assert SECRET not in str(mine)


def test_both_frameworks_say_the_same() -> None:
    """Of one request, the kit says the same on each framework, but for how a route is spelt."""
    for request in REQUESTS.values():
        fastapi, flask = ours(request, 0), ours(request, 1)

        fastapi.attributes.pop("http.route", None)
        flask.attributes.pop("http.route", None)
        assert fastapi.attributes == flask.attributes


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        pytest.param(
            Call("GET", path="/" + "p" * 70_000),
            {"url.path": "/" + "p" * 1023},
            id="path",
        ),
        pytest.param(
            Call("GET", user_agent="u" * 70_000), {"user_agent.original": "u" * 256}, id="agent"
        ),
        pytest.param(Call("G" * 9000), {"http.request.method_original": "G" * 64}, id="method"),
        pytest.param(Call("GET", host="h" * 9000), {"server.address": "h" * 256}, id="host"),
    ],
)
def test_what_a_client_wrote_is_bounded(call: Call, expected: dict[str, str]) -> None:
    """No client makes a span long."""
    said = server_attributes(call, "")

    assert expected.items() <= said.items()


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("iris", ("iris", 80)),
        ("iris:", ("iris", 80)),
        ("127.0.0.1:8000", ("127.0.0.1", 8000)),
        ("[::1]", ("::1", 80)),
        ("[fe80::1%25eth0]:1", ("fe80::1%25eth0", 1)),
        ("iris:0x10", ("10.0.0.1", 8000)),
        ("iris:65536", ("10.0.0.1", 8000)),
        ("user@iris", ("10.0.0.1", 8000)),
        ("iris/path", ("10.0.0.1", 8000)),
        ("[::1", ("10.0.0.1", 8000)),
        ("::1", ("10.0.0.1", 8000)),
        (":80", ("10.0.0.1", 8000)),
        ("", ("10.0.0.1", 8000)),
        ("iris\n", ("10.0.0.1", 8000)),
    ],
)
def test_hosts(host: str, expected: tuple[str, int]) -> None:
    """A Host header is split, and one that is none gives way to what the server says."""
    said = server_attributes(Call("GET", host=host, server=SERVER), "")

    assert (said["server.address"], said["server.port"]) == expected


@pytest.mark.parametrize(
    ("client", "forwarded", "port"),
    [
        pytest.param("192.0.2.7", (), 40000, id="direct"),
        pytest.param("192.0.2.7", ("203.0.113.9",), 40000, id="nobody believes it"),
        pytest.param("203.0.113.9", ("203.0.113.9",), None, id="through a proxy"),
        pytest.param("2001:db8::/64", (), 40000, id="a network"),
    ],
)
def test_ports_of_clients(client: str, forwarded: tuple[str, ...], port: int | None) -> None:
    """The peer's port is told where the peer is the client."""
    call = Call("GET", peer=CLIENT, peer_port=PORT, forwarded=forwarded)

    said = server_attributes(call, client)

    assert (said["client.address"], said.get("client.port")) == (client, port)


def test_websockets() -> None:
    """A WebSocket has the name and attributes that FastAPI gives it."""
    call = Call("GET", path="/ws", scheme="ws", host="iris", is_websocket=True)

    assert span_name(call, "/ws") == "WS /ws"
    assert server_attributes(call, "") == {
        "network.protocol.name": "websocket",
        "server.address": "iris",
        "server.port": 80,
        "url.path": "/ws",
        "url.scheme": "ws",
    }
