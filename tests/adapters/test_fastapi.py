"""Does the FastAPI adapter find its place, whatever the app is made of?"""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import PlainTextResponse, StreamingResponse
from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from mlguard.errors import InvalidSettings, Refused
from mlguard.testing import GuardTester
from mlguard_fastapi import MLGuard
from tests.adapters.common import ROWS, settings


def predict(body: dict[str, Any]) -> dict[str, Any]:
    return {"predictions": [sum(row) for row in body["instances"]]}


def guarded(app: FastAPI, chosen: Any = None) -> tuple[TestClient, GuardTester]:
    rehearsal = GuardTester(MLGuard(app, chosen or settings()))
    return TestClient(app, raise_server_exceptions=False), rehearsal


def existing_app() -> FastAPI:
    """An app as people write them: routers in routers, a mounted sub-app, a stream."""
    app, outer, inner = FastAPI(), APIRouter(prefix="/api"), APIRouter(prefix="/v2")
    sub = FastAPI()

    @inner.post("/predict/{variant}")
    def variant_predict(variant: str, body: dict[str, Any]) -> dict[str, Any]:
        return predict(body)

    @sub.post("/predict")
    async def sub_predict(body: dict[str, Any]) -> dict[str, Any]:
        return predict(body)

    @sub.get("/things/{thing}")
    async def thing(thing: str) -> dict[str, str]:
        return {"thing": thing}

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"a"
            yield b"b"

        return StreamingResponse(chunks())

    app.mount("/sub/{tenant}", sub)
    app.mount("/plain", Mount("/", routes=[Route("/x", lambda r: PlainTextResponse("x"))]))
    outer.include_router(inner)
    app.include_router(outer)
    return app


EXISTING = [
    ("/api/v2/predict/{variant}", "/api/v2/predict/a"),
    ("/sub/{tenant}/predict", "/sub/acme/predict"),
]


@pytest.mark.parametrize(("route", "path"), EXISTING)
def test_routers_and_mounts_are_guarded(route: str, path: str) -> None:
    """A model route behind routers or mounts is guarded, and labelled by its template."""
    app = existing_app()
    client, rehearsal = guarded(app, settings(route))
    with client:
        refused = client.post(path, json=ROWS)
        answered = client.post(path, json=ROWS, headers=rehearsal.headers())

    assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
    assert answered.json() == {"predictions": [3.0, 3.0, 3.0]}
    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 3
    labels = {"http_request_method": "POST", "http_response_status_code": "200"}
    name = "http_server_request_duration_seconds_count"
    assert rehearsal.metric(name, http_route=route, **labels) == 1


@pytest.mark.parametrize(("route", "path"), EXISTING)
def test_the_server_span_has_the_whole_template(route: str, path: str) -> None:
    """The span's route is the template with every prefix, its child is the inference."""
    client, rehearsal = guarded(existing_app(), settings(route))
    with client:
        client.post(path, json=ROWS, headers=rehearsal.headers())
    child, server = rehearsal.spans

    assert (server.name, server.attributes["http.route"]) == (f"POST {route}", route)
    assert child.name == "inference sum"
    assert child.parent.span_id == server.context.span_id


@pytest.mark.parametrize(
    "path", ["/sub/acme/things/1", "/sub/acme/none", "/plain/x", "/plain/none", "/stream", "/docs"]
)
def test_nothing_passes_without_a_token(path: str) -> None:
    """Every path of every mounted app needs a token, whether or not it exists."""
    client, rehearsal = guarded(existing_app(), settings("/sub/{tenant}/predict"))
    with client:
        assert client.get(path).status_code == 401
        assert client.get(path, headers=rehearsal.headers()).status_code in (200, 404)


def test_slash_redirects_are_denied_first() -> None:
    """A redirect would tell which routes exist."""
    app = existing_app()
    client, rehearsal = guarded(app, settings("/sub/{tenant}/predict"))

    assert client.get("/stream/", follow_redirects=False).status_code == 401
    known = client.get("/stream/", headers=rehearsal.headers(), follow_redirects=False)
    assert known.status_code == 307


@pytest.mark.parametrize("late", [False, True], ids=["guard last", "guard first"])
def test_refusals_pass_the_apps_middleware(*, late: bool) -> None:
    """CORS headers are on refusals, and answers are read before compression, in either order."""
    app = FastAPI()

    def add_middleware() -> None:
        app.add_middleware(CORSMiddleware, allow_origins=["https://app.example.com"])
        app.add_middleware(GZipMiddleware, minimum_size=1)
        app.post("/predict")(predict)

    if not late:
        add_middleware()
    client, rehearsal = guarded(app)
    if late:
        add_middleware()
    origin = {"Origin": "https://app.example.com", "Accept-Encoding": "gzip"}
    refused = client.post("/predict", json=ROWS, headers=origin)
    answered = client.post("/predict", json=ROWS, headers=origin | rehearsal.headers())

    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
    assert answered.headers["content-encoding"] == "gzip"
    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 3


def test_preflights_are_answered_by_the_app() -> None:
    """A CORS preflight carries no token and needs none."""
    app = FastAPI()
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])
    app.post("/predict")(predict)
    client, _ = guarded(app)
    headers = {"Origin": "https://a.example.com", "Access-Control-Request-Method": "POST"}

    assert client.options("/predict", headers=headers).status_code == 200


def test_routes_added_while_serving_are_guarded() -> None:
    """A route that comes after the start is denied before its handler runs."""
    app, router, ran = FastAPI(), APIRouter(), []
    app.post("/predict")(predict)
    app.include_router(router, prefix="/r")
    client, _ = guarded(app)
    with client:
        client.get("/first")
        app.get("/late")(lambda: ran.append("app"))
        router.get("/late")(lambda: ran.append("router"))
        statuses = [client.get(path).status_code for path in ("/late", "/r/late")]

    assert (statuses, ran) == ([401, 401], [])


def test_a_router_included_twice_keeps_its_templates_apart() -> None:
    """One router under two prefixes is two routes."""
    app, router = FastAPI(), APIRouter()
    router.post("/predict")(predict)
    app.include_router(router, prefix="/a")
    app.include_router(router, prefix="/b")
    client, rehearsal = guarded(app, settings("/a/predict"))
    for path in ("/a/predict", "/b/predict"):
        assert client.post(path, json=ROWS, headers=rehearsal.headers()).status_code == 200

    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 3


def test_a_route_that_the_app_lacks_fails_the_start() -> None:
    """The lifespan fails with one message that names the route and the nearest one."""
    app = FastAPI()
    app.post("/predict")(predict)
    client, _ = guarded(app, settings("/predcit"))

    with pytest.raises(InvalidSettings, match=r"'/predcit'.*did you mean '/predict'\?"):
        app.state.mlguard.check()
    with pytest.raises(InvalidSettings, match="did you mean"), client:
        pass


def test_a_taken_metrics_path_fails_the_start() -> None:
    """A route of the app is never hidden by the scrape."""
    app = FastAPI()
    app.post("/predict")(predict)
    guarded(app)
    app.get("/metrics")(lambda: "mine")

    with pytest.raises(InvalidSettings, match=r"metrics\.path = '/metrics'"):
        app.state.mlguard.check()
    with pytest.raises(InvalidSettings, match=r"metrics\.path = '/metrics'"):
        guarded(app)  # where it is there already, at once


def test_the_apps_lifespan_still_runs() -> None:
    """Start and stop of the app are its own."""
    seen = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        seen.append("start")
        yield
        seen.append("stop")

    app = FastAPI(lifespan=lifespan)
    app.post("/predict")(predict)
    client, _ = guarded(app)
    with client:
        assert seen == ["start"]
    assert seen == ["start", "stop"]


def test_the_caller_is_a_dependency_in_the_openapi_document() -> None:
    """Depends(guard.caller) shows as HTTP bearer, which gives Swagger UI its button."""
    app = FastAPI()
    guard = MLGuard(app, settings(None))

    @app.get("/me")
    def me(caller: Any = Depends(guard.caller)) -> dict[str, str]:
        return {"me": caller.subject}

    rehearsal = GuardTester(guard)
    client = TestClient(app)
    document = app.openapi()

    assert client.get("/me", headers=rehearsal.headers("dora")).json() == {"me": "dora"}
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert document["paths"]["/me"]["get"]["security"] == [{"HTTPBearer": []}]


def test_scopes_are_a_dependency_too() -> None:
    """`Depends(guard.requires(...))` demands scopes of all routes of a router, at no cost."""
    app = FastAPI()
    chosen = settings(None)
    chosen["auth"]["public"] = ["/admin/reload"]  # what demands scopes is not public
    guard = MLGuard(app, chosen)
    router = APIRouter(prefix="/admin", dependencies=[Depends(guard.requires("admin", "ops"))])

    @router.get("/reload")
    async def reload() -> dict[str, bool]:
        return {"reloaded": True}

    app.include_router(router)
    rehearsal = GuardTester(guard)
    client = TestClient(app)
    lacking = client.get("/admin/reload", headers=rehearsal.headers(scopes=["predict", "admin"]))
    granted = client.get(
        "/admin/reload", headers=rehearsal.headers(scopes=["predict", "admin", "ops"])
    )

    assert (lacking.status_code, lacking.json()["code"]) == (403, "scope_missing")
    assert "ratelimit" not in lacking.headers  # decided before anything was charged
    assert granted.json() == {"reloaded": True}
    assert "r=29;" in granted.headers["ratelimit"]  # the refused one was not charged
    document = client.get("/openapi.json", headers=rehearsal.headers()).json()
    assert document["paths"]["/admin/reload"]["get"]["security"] == [{"HTTPBearer": []}]


@pytest.mark.parametrize("scopes", [(), ("",), ("two words",), ('quote"',), (None,)], ids=repr)
def test_scopes_that_no_token_can_hold(scopes: Any) -> None:
    """What could never be granted is an error where it is written."""
    guard = MLGuard(FastAPI(), settings(None))

    with pytest.raises(ValueError, match="must be one or more words"):
        guard.requires(*scopes)


def test_a_guarded_function_outside_of_a_request() -> None:
    """Where nobody asks, nobody is granted anything."""
    guard = MLGuard(FastAPI(), settings(None))

    @guard.requires("admin")
    def reload() -> bool:
        return True

    with pytest.raises(Refused):
        reload()


def test_blocking_inference_on_the_event_loop_is_an_error_that_says_so() -> None:
    """In async code the blocking form is refused, whatever the store."""
    app = FastAPI()
    guard = MLGuard(app, settings(None))

    @app.get("/wrong")
    async def wrong() -> None:
        with guard.inference("sum", 1):
            pass

    rehearsal = GuardTester(guard)

    with pytest.raises(Exception, match=r"async with guard\.inference"):
        TestClient(app).get("/wrong", headers=rehearsal.headers())


def test_websockets_are_denied_before_they_are_accepted() -> None:
    """A handshake without a token is refused; with one it is accepted."""
    app = FastAPI()
    router = APIRouter(prefix="/ws")

    @router.websocket("/{room}")
    async def talk(socket: WebSocket, room: str) -> None:
        await socket.accept()
        await socket.send_text(room)
        await socket.close()

    app.include_router(router)
    client, rehearsal = guarded(app, settings(None))

    with pytest.raises(Exception) as refused, client.websocket_connect("/ws/a"):
        pass
    assert "WebSocketD" in type(refused.value).__name__
    with client.websocket_connect("/ws/a", headers=rehearsal.headers()) as socket:
        assert socket.receive_text() == "a"
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()


def test_background_tasks_do_not_count_as_latency() -> None:
    """The request ends at its last byte, not after its background tasks."""
    app, seen = FastAPI(), []
    app_metric: list[Callable[[], float]] = []

    @app.post("/predict")
    def predict_and_work(body: dict[str, Any], tasks: BackgroundTasks) -> dict[str, Any]:
        tasks.add_task(lambda: seen.append(app_metric[0]()))
        return predict(body)

    client, rehearsal = guarded(app)
    labels = {"http_request_method": "POST", "http_route": "/predict"}
    name = "http_server_request_duration_seconds_count"
    app_metric.append(lambda: rehearsal.metric(name, http_response_status_code="200", **labels))
    client.post("/predict", json=ROWS, headers=rehearsal.headers())

    assert seen == [1.0]


def test_an_instrumented_app_is_joined() -> None:
    """Where the contrib instrumentation stands already, there is one server span, its own."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = FastAPI()
    app.post("/predict")(predict)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FastAPIInstrumentor.instrument_app(app, tracer_provider=provider)
    client, rehearsal = guarded(app)
    client.post("/predict", json=ROWS, headers=rehearsal.headers())
    servers = [s for s in exporter.get_finished_spans() if s.kind.name == "SERVER"]

    assert len(servers) == 1
    assert servers[0].attributes["mlguard.decision"] == "allow"
    assert [s.name for s in rehearsal.spans] == ["inference sum"]
    assert rehearsal.spans[0].context.trace_id == servers[0].context.trace_id


def test_a_provider_given_to_the_app_is_joined() -> None:
    """FastAPI(telemetry={"tracer_provider": ...}) takes all spans of the request."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = FastAPI(telemetry={"tracer_provider": provider, "operation_spans": False})
    if not hasattr(app, "_native_telemetry"):
        pytest.skip("this FastAPI has no telemetry of its own")
    app.post("/predict")(predict)
    client, rehearsal = guarded(app)
    client.post("/predict", json=ROWS, headers=rehearsal.headers())

    assert [s.name for s in exporter.get_finished_spans()] == ["inference sum", "POST /predict"]


def test_two_apps_in_one_process_share_nothing() -> None:
    """Tokens, quotas, metrics and spans of one guarded app are not the other's."""
    apps = [FastAPI(), FastAPI()]
    for app in apps:
        app.post("/predict")(predict)
    (one, mine), (two, theirs) = (guarded(app) for app in apps)
    one.post("/predict", json=ROWS, headers=mine.headers())

    assert two.post("/predict", json=ROWS, headers=mine.headers()).status_code == 401
    assert theirs.metric("mlguard_inference_rows_total", model="sum", version="1") == 0
    assert [s.name for s in theirs.spans] == ["POST /predict"]


def test_a_guarded_app_mounted_in_a_guarded_app_is_counted_once() -> None:
    """The outer guard decides; nothing is charged or counted twice."""
    outer, inner = FastAPI(), FastAPI()
    inner.post("/predict")(predict)
    inner_guard = GuardTester(MLGuard(inner, settings()))
    outer.mount("/inner", inner)
    client, rehearsal = guarded(outer, settings("/inner/predict"))
    answer = client.post("/inner/predict", json=ROWS, headers=rehearsal.headers())

    assert answer.status_code == 200
    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 3
    assert inner_guard.metric("mlguard_inference_rows_total", model="sum", version="1") == 0


def test_a_refusal_in_a_handler_costs_a_request() -> None:
    """Where guard.inference refuses, the request is charged, and none of the rows."""
    app = FastAPI()
    chosen = settings(quotas={"requests": ["10/hour"], "rows": ["100/hour"]})
    chosen["models"].append({"name": "other"})
    guard = MLGuard(app, chosen)

    @app.post("/predict")
    async def answer(body: dict[str, Any]) -> dict[str, Any]:
        async with guard.inference("other", 1000):
            return predict(body)

    rehearsal = GuardTester(guard)
    client = TestClient(app)
    refused = client.post("/predict", json=ROWS, headers=rehearsal.headers())
    beyond = client.get("/nowhere", headers=rehearsal.headers())

    assert (refused.status_code, refused.json()["code"]) == (422, "batch_exceeds_quota")
    assert '"requests-3600";r=8' in beyond.headers["ratelimit"]
    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 0


def test_the_inner_guard_knows_the_outer_caller() -> None:
    """In a guarded app mounted in a guarded app, caller() and inference() are the outer's."""
    outer, inner = FastAPI(), FastAPI()
    guard = MLGuard(inner, settings(None))

    @inner.get("/me")
    async def me() -> dict[str, Any]:
        async with guard.inference("sum", 60):
            return {"subject": getattr(guard.caller(), "subject", None)}

    GuardTester(guard)
    outer.mount("/inner", inner)
    client, rehearsal = guarded(outer, settings(None))
    answers = [client.get("/inner/me", headers=rehearsal.headers("eve")) for _ in range(2)]

    assert [a.status_code for a in answers] == [200, 429]
    assert answers[0].json() == {"subject": "eve"}


def test_a_middleware_with_a_scope_of_its_own_opens_no_door() -> None:
    """A scope that lost what the outer layer put there meets the decision all the same."""
    app = FastAPI()

    class Fresh:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            kept = {k: v for k, v in scope.items() if not k.startswith("mlguard")}
            await self.inner(kept, receive, send)

    app.post("/predict")(predict)
    app.add_middleware(Fresh)
    client, rehearsal = guarded(app)

    assert client.post("/predict", json=ROWS).status_code == 401
    assert client.post("/predict", json=ROWS, headers=rehearsal.headers()).status_code == 200


@pytest.mark.parametrize("path", ["/nowhere", "/closing"])
def test_websockets_that_are_closed_are_no_server_error(path: str) -> None:
    """A handshake that the app or the router closes is a 403, as servers make of it."""
    app = FastAPI()

    @app.websocket("/closing")
    async def closing(socket: WebSocket) -> None:
        await socket.close()

    client, rehearsal = guarded(app, settings(None))
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect(path, headers=rehearsal.headers()),
    ):
        pass
    found = rehearsal._service.metrics.snapshot()
    statuses = {
        s["labels"]["http_response_status_code"]
        for f in found
        for s in f["samples"]
        if "http_response_status_code" in s["labels"]
    }

    assert statuses == {"403"}


def test_streams_are_not_held_back() -> None:
    """The first chunk is with the server before the second is made."""
    app, seen = FastAPI(), []
    app.post("/predict")(predict)

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[bytes]:
            for n in range(3):
                seen.append(f"made {n}")
                yield b"%d" % n

        return StreamingResponse(chunks())

    _, rehearsal = guarded(app)
    headers = [(n.lower().encode(), v.encode()) for n, v in rehearsal.headers().items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": "1.1",
        "method": "GET", "path": "/stream", "query_string": b"", "headers": headers,
        "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request"}

    async def send(message: Any) -> None:
        if message.get("body"):
            seen.append(f"sent {message['body'].decode()}")

    asyncio.run(app(scope, receive, send))

    assert seen == ["made 0", "sent 0", "made 1", "sent 1", "made 2", "sent 2"]


def test_large_batches_are_counted() -> None:
    """Bodies that are parsed off the event loop, in and out, are counted like any other."""
    app = FastAPI()
    app.post("/predict")(predict)
    client, rehearsal = guarded(app, settings(quotas={"rows": ["1000000/hour"]}))
    rows = {"instances": [[1.5, 2.5]] * 40_000}
    response = client.post("/predict", json=rows, headers=rehearsal.headers())

    assert response.status_code == 200
    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 40_000


def test_init_app_names_the_app_later() -> None:
    """MLGuard().init_app(app) is MLGuard(app)."""
    app = FastAPI()
    app.post("/predict")(predict)
    guard = MLGuard(settings=settings())
    guard.init_app(app)

    assert TestClient(app).post("/predict", json=ROWS).status_code == 401


class _Twice:
    """A middleware that dispatches each request twice: on its path, and on another."""

    def __init__(self, app: ASGIApp, first: str) -> None:
        self.app = app
        self.first = first

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def nowhere(message: Message) -> None:
            pass

        if scope["type"] == "http":
            await self.app({**scope, "path": self.first}, receive, nowhere)
        await self.app(scope, receive, send)


@pytest.mark.parametrize("first", ["/secret", "/public", "/nowhere"])
def test_each_dispatch_is_decided(first: str) -> None:
    """A request that is dispatched again, after a refusal or a public route, takes a token."""
    app = FastAPI()

    @app.get("/secret")
    async def secret() -> str:
        return "secret"

    @app.get("/public")
    async def public() -> str:
        return "public"

    app.add_middleware(_Twice, first=first)
    chosen = settings(None)
    chosen["auth"]["public"] = ["/public"]
    client, rehearsal = guarded(app, chosen)

    assert client.get("/secret").status_code == 401
    assert client.get("/secret", headers=rehearsal.headers()).json() == "secret"


async def _socket_app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "secret"})
        await send({"type": "websocket.close"})


@pytest.mark.parametrize("place", ["default", "mounted default"])
def test_sockets_that_no_route_serves(place: str) -> None:
    """An app that answers where no route matches takes a token, over WebSockets too."""
    app = FastAPI()
    if place == "default":
        app.router.default = _socket_app
    else:
        app.mount("/sub", Router(default=_socket_app))
    client, rehearsal = guarded(app, settings(None))
    path = "/sub/x" if place == "mounted default" else "/x"

    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)):
        client.websocket_connect(path).__enter__()
    with client.websocket_connect(path, headers=rehearsal.headers()) as socket:
        assert socket.receive_text() == "secret"


def test_a_route_that_takes_anothers_place() -> None:
    """A route put into another's place while serving is decided at its first byte."""
    app = FastAPI()
    app.add_api_websocket_route("/ws", _socket)
    client, rehearsal = guarded(app, settings(None))
    client.get("/nowhere")
    app.router.routes[-1] = WebSocketRoute("/ws", _socket)

    with pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)):
        client.websocket_connect("/ws").__enter__()
    with client.websocket_connect("/ws", headers=rehearsal.headers()) as socket:
        assert socket.receive_text() == "secret"


async def _socket(socket: WebSocket) -> None:
    await socket.accept()
    await socket.send_text("secret")
    await socket.close()


def test_an_inner_guard_asks_where_the_outer_does_not() -> None:
    """A guarded app with [auth], mounted in one without, still takes a token."""
    outer, inner = FastAPI(), FastAPI()

    @inner.get("/secret")
    async def secret() -> str:
        return "secret"

    rehearsal = GuardTester(MLGuard(inner, settings(None)))
    outer.mount("/inner", inner)
    GuardTester(MLGuard(outer, {"service": {"name": "outer"}}))
    client = TestClient(outer)

    assert client.get("/inner/secret").status_code == 401
    assert client.get("/inner/secret", headers=rehearsal.headers()).json() == "secret"


LARGE, SMALL = [(b"content-length", b"8000000")], [(b"content-length", b"8000")]
BY_CHUNKS = [(b"transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    ("version", "headers", "closes"),
    [
        pytest.param("1.1", LARGE, True, id="large"),
        pytest.param("1.1", BY_CHUNKS, True, id="by chunks"),
        pytest.param("1.1", SMALL, False, id="small"),
        pytest.param("1.1", [], False, id="none"),
        pytest.param("2", LARGE, False, id="large, on HTTP/2"),
    ],
)
@pytest.mark.parametrize("path", ["/predict", "/nowhere"])
def test_what_nobody_reads(
    path: str, version: str, headers: list[tuple[bytes, bytes]], closes: bool
) -> None:
    """A server is told to close the connection on which a refused client sends a large body."""
    app = FastAPI()
    app.post("/predict")(predict)
    guarded(app)
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.4"}, "http_version": version,
        "method": "POST", "path": path, "query_string": b"", "headers": headers,
        "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1),
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("the body is not read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))

    assert sent[0]["status"] == 401
    assert ((b"connection", b"close") in sent[0]["headers"]) == closes


def test_a_large_body_that_was_read() -> None:
    """The connection stays where a refused body was read to its end."""
    app = FastAPI()
    app.post("/predict")(predict)
    client, rehearsal = guarded(app, {**settings(), "quotas": {"rows": ["2/day"]}})
    body = {"instances": [[1.0]] * 20_000}

    answer = client.post("/predict", json=body, headers=rehearsal.headers())

    assert answer.json()["code"] == "batch_exceeds_quota"
    assert "connection" not in answer.headers
