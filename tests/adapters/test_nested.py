"""Is a guarded Flask app in a guarded FastAPI app watched once, while a service moves over?"""

from __future__ import annotations

import contextvars
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask, Response, request, stream_with_context
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix

import mlguard_fastapi as fastapi_adapter
import mlguard_flask as flask_adapter
from mlguard.guard import watched
from mlguard.testing import GuardTester
from tests.adapters.common import ROWS, settings

Bridge = Callable[[Any], Any]


def _starlette(app: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from starlette.middleware.wsgi import WSGIMiddleware
    return WSGIMiddleware(app)


def _a2wsgi(app: Any) -> Any:
    return pytest.importorskip("a2wsgi").WSGIMiddleware(app)


@pytest.fixture(params=[_starlette, _a2wsgi], ids=["starlette", "a2wsgi"])
def bridge(request: pytest.FixtureRequest) -> Bridge:
    found: Bridge = request.param
    return found


def legacy(chosen: Any = None) -> tuple[Flask, flask_adapter.MLGuard]:
    """The service as it was."""
    app = Flask(__name__)
    untraced = {name: table for name, table in settings().items() if name != "tracing"}
    guard = flask_adapter.MLGuard(app, chosen or untraced)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return {"predictions": [sum(row) for row in request.get_json()["instances"]]}

    @app.get("/items/<item>")
    @guard.limit("2/hour")
    def item(item: str) -> dict[str, Any]:
        caller = guard.caller()
        return {"item": item, "caller": caller.subject if caller else None}

    @app.post("/stream")
    def stream() -> Response:
        def chunks() -> Iterator[str]:
            caller = guard.caller()
            yield "one "
            yield caller.subject if caller else "nobody"

        return Response(stream_with_context(chunks()))

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("secret")

    return app, guard


def mounted(
    app: Any, bridge: Bridge, chosen: Any = None, prefix: str = "/legacy"
) -> tuple[TestClient, GuardTester, fastapi_adapter.MLGuard]:
    """The service that it moves to."""
    outer = FastAPI()
    outer.mount(prefix, bridge(app))
    guard = fastapi_adapter.MLGuard(outer, chosen or settings("/legacy/predict"))
    return TestClient(outer, raise_server_exceptions=False), GuardTester(guard), guard


def test_counted_once(bridge: Bridge) -> None:
    """The outer guard decides, charges and counts, by the inner route below the mount."""
    app, guard = legacy()
    inner = GuardTester(guard)
    client, outer, _ = mounted(app, bridge)
    refused = client.post("/legacy/predict", json=ROWS)
    answer = client.post("/legacy/predict", json=ROWS, headers=outer.headers())

    assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
    assert answer.json() == {"predictions": [3.0] * 3}
    assert len(answer.headers.get_list("ratelimit")) == 1
    assert '"requests-3600";r=29' in answer.headers["ratelimit"]
    assert '"rows-3600";r=97' in answer.headers["ratelimit"]
    rows = "mlguard_inference_rows_total"
    assert outer.metric(rows, model="sum", version="1") == 3
    assert inner.metric(rows, model="sum", version="1") == 0
    name = "http_server_request_duration_seconds_count"
    labels = {"http_request_method": "POST", "http_response_status_code": "200"}
    assert outer.metric(name, http_route="/legacy/predict", **labels) == 1
    assert inner.metric(name, http_route="/predict", **labels) == 0
    for side in (inner, outer):
        assert side.metric("http_server_active_requests") == 0


def test_the_span_is_the_servers(bridge: Bridge) -> None:
    """What was decided stands on the server's span; the inference is below it, in one trace."""
    app, guard = legacy(settings())
    inner = GuardTester(guard)
    client, outer, _ = mounted(app, bridge)
    client.post("/legacy/predict", json=ROWS, headers=outer.headers())
    server = next(s for s in outer.spans if s.kind.name == "SERVER")
    inference = next(s for s in outer.spans if s.name == "inference sum")

    assert (server.attributes or {})["mlguard.decision"] == "allow"
    assert inference.context.trace_id == server.context.trace_id
    assert inner.spans == []


def test_limits_and_callers(bridge: Bridge) -> None:
    """Limits of the inner app are charged by the outer, and its guard knows the caller."""
    app, _ = legacy()
    client, outer, _ = mounted(app, bridge)
    answers = [client.get(f"/legacy/items/{n}", headers=outer.headers("eve")) for n in range(3)]

    assert [a.status_code for a in answers] == [200, 200, 429]
    assert answers[0].json() == {"item": "0", "caller": "eve"}
    assert answers[2].json()["code"] == "rate_exceeded"


def test_prefixes_with_parameters(bridge: Bridge) -> None:
    """What a mount's parameter says makes neither a label nor a bucket."""
    app, _ = legacy()
    client, outer, guard = mounted(app, bridge, settings(None), "/of/{tenant}")
    asked = ["a", "b", "c"]
    answers = [client.get(f"/of/{t}/items/1", headers=outer.headers()) for t in asked]

    assert [a.status_code for a in answers] == [200, 200, 429]
    assert outer.metric(
        "http_server_request_duration_seconds_count",
        http_route="/of/{tenant}/items/<item>",
        http_request_method="GET",
        http_response_status_code="200",
    ) == 2  # fmt: skip
    listed = {r.template: r for r in guard.routes()}
    assert listed["/of/{tenant}/items/<item>"].limits == ("2/hour",)
    assert "/of/{tenant}/predict" in listed


def test_streams_are_settled(bridge: Bridge) -> None:
    """A model's stream is whole, knows its caller and is counted when it has ended."""
    app, _ = legacy()
    chosen = settings("/legacy/stream")
    del chosen["models"][0]["outputs"]
    client, outer, _ = mounted(app, bridge, chosen)
    answer = client.post("/legacy/stream", json=ROWS, headers=outer.headers("eve"))

    assert answer.text == "one eve"
    assert outer.metric("mlguard_inference_rows_total", model="sum", version="1") == 3


@pytest.mark.parametrize("path", ["/legacy/nowhere", "/legacy/boom", "/legacy", "/legacy/"])
def test_nothing_passes_without_a_token(bridge: Bridge, path: str) -> None:
    """Paths that lead nowhere, or fail, take a token too, and end."""
    app, _ = legacy()
    client, outer, _ = mounted(app, bridge)

    assert client.get(path).status_code == 401
    assert client.get(path, headers=outer.headers()).status_code in (404, 500)
    assert outer.metric("http_server_active_requests") == 0


def test_middleware_that_answers_itself(bridge: Bridge) -> None:
    """What a middleware around Flask answers is refused at its first byte."""

    class Around:
        def __init__(self, app: Any) -> None:
            self.app = app

        def __call__(self, environ: Any, start_response: Any) -> Any:
            if environ["PATH_INFO"] == "/secret":
                start_response("200 OK", [("Content-Type", "text/plain")])
                return [b"secret"]
            return self.app(environ, start_response)

    app, _ = legacy()
    client, outer, _ = mounted(ProxyFix(Around(app)), bridge)
    refused = client.get("/legacy/secret")

    assert (refused.status_code, refused.json()["code"]) == (401, "token_missing")
    assert client.get("/legacy/secret", headers=outer.headers()).text == "secret"
    assert client.get("/legacy/items/1", headers=outer.headers()).status_code == 200


def test_what_stands_beside_is_decided_before(bridge: Bridge) -> None:
    """Where something is dispatched beside the Flask app, the mount is decided as a whole."""
    ran = []

    def beside(environ: Any, start_response: Any) -> Any:
        ran.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"beside"]

    app, _ = legacy()
    client, outer, _ = mounted(
        DispatcherMiddleware(app, {"/beside": beside}), bridge, settings(None)
    )

    assert client.get("/legacy/beside/x").status_code == 401
    assert ran == []
    assert client.get("/legacy/beside/x", headers=outer.headers()).text == "beside"


def test_a_flask_app_without_a_guard(bridge: Bridge) -> None:
    """A Flask app that has no guard is decided at its mount, as any app is."""
    app = Flask(__name__)
    app.get("/x")(lambda: "x")
    client, outer, guard = mounted(app, bridge, settings(None))

    assert client.get("/legacy/x").status_code == 401
    assert client.get("/legacy/x", headers=outer.headers()).text == "x"
    assert "/legacy" in {r.template for r in guard.routes()}


def test_the_watch_does_not_leak(bridge: Bridge) -> None:
    """What a view does itself, in threads too, is not the request that is watched around it."""
    app, inner = legacy()
    other, third = legacy()
    seen: list[Any] = []

    @app.get("/leaks")
    def leaks() -> str:
        def elsewhere() -> None:
            seen.append(watched.get())
            seen.append(other.test_client().get("/items/1").status_code)

        elsewhere()
        thread = threading.Thread(target=contextvars.copy_context().run, args=(elsewhere,))
        thread.start()
        thread.join()
        return "ok"

    for guard in (inner, third):
        GuardTester(guard)
    client, outer, _ = mounted(app, bridge, settings(None))
    with client:
        for _ in range(2):
            assert client.get("/legacy/leaks", headers=outer.headers()).text == "ok"
        assert client.get("/legacy/leaks").status_code == 401

    assert seen == [None, 401] * 4
    assert watched.get() is None


def test_an_inner_guard_asks_where_the_outer_does_not(bridge: Bridge) -> None:
    """A guarded Flask app with [auth], mounted in an app without, still takes a token."""
    app, guard = legacy()
    inner = GuardTester(guard)
    client, _, _ = mounted(app, bridge, {"service": {"name": "outer"}})

    assert client.get("/legacy/items/1").status_code == 401
    assert client.get("/legacy/items/1", headers=inner.headers("eve")).json()["caller"] == "eve"


def test_a_model_that_the_mounted_app_lacks() -> None:
    """The start fails where the settings name a route that the mounted app has not."""
    app, _ = legacy()
    _, _, guard = mounted(app, _starlette, settings("/legacy/predicts"))

    with pytest.raises(fastapi_adapter.InvalidSettings, match="/legacy/predict"):
        guard.check()
