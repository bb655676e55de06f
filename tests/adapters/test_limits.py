"""Does guard.limit hold wherever it is put, and leave the app's own limiter alone?"""

from __future__ import annotations

import functools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from flask import Blueprint, Flask, request
from flask.views import MethodView
from flask_limiter import Limiter as FlaskLimiter
from slowapi import Limiter, _rate_limit_exceeded_handler
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware
from starlette.endpoints import HTTPEndpoint
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Mount, Route
from starlette.testclient import TestClient, WebSocketDenialResponse
from werkzeug.middleware.dispatcher import DispatcherMiddleware

import mlguard_fastapi as fastapi_adapter
import mlguard_flask as flask_adapter
from mlguard.testing import GuardTester
from tests.adapters.common import ROWS, settings
from tests.contract import test_fastapi as over_asgi
from tests.contract import test_flask as over_wsgi
from tests.contract.client import Client

Statuses = Callable[..., list[int]]


def chosen(**tables: Any) -> dict[str, Any]:
    """Settings whose quotas nobody meets here."""
    return settings(None, **{"quotas": {"requests": ["1000/hour"]}, **tables})


def fastapi_app(**tables: Any) -> tuple[FastAPI, fastapi_adapter.MLGuard]:
    app = FastAPI()
    return app, fastapi_adapter.MLGuard(app, chosen(**tables))


def flask_app(**tables: Any) -> tuple[Flask, flask_adapter.MLGuard]:
    app = Flask(__name__)
    return app, flask_adapter.MLGuard(app, chosen(**tables))


def asking(app: Any, guard: Any) -> Statuses:
    """Make a function that asks so many times and tells the statuses."""
    rehearsal = GuardTester(guard)
    client: Client = (over_asgi if isinstance(app, FastAPI) else over_wsgi).InProcess(app)

    def statuses(path: str, times: int, method: str = "GET", body: bytes = b"") -> list[int]:
        headers = [*rehearsal.headers().items(), ("Content-Type", "application/json")]
        return [client.ask(method, path, headers=headers, body=body).status for _ in range(times)]

    return statuses


APPS = pytest.mark.parametrize("make", [fastapi_app, flask_app], ids=["FastAPI", "Flask"])


# -- what may be declared ------------------------------------------------------------------------


async def _later(*_: Any) -> int:
    return 1


@APPS
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key_func": str}, "counts for the caller"),
        ({"deduct_when": bool}, "before the handler runs"),
        ({"on_breach": print}, "error_message"),
        ({"scope": "shared"}, r"\[quotas\]"),
        ({"shared": True}, r"\[quotas\]"),
        ({"meta_limits": ["1/day"]}, "longer windows"),
        ({"override_defaults": False}, "always holds"),
        ({"costs": 3}, "no costs"),
        ({"cost": _later}, "cost must not be async"),
        ({"exempt_when": _later}, "exempt_when must not be async"),
        ({"cost": lambda a, b: 1}, "cost must take"),
        ({"exempt_when": lambda a, b: True}, "exempt_when must take"),
        ({"exempt_when": True}, "exempt_when = True must be a function"),
        ({"error_message": _later}, "error_message must not be async"),
        ({"error_message": lambda limit: "no"}, "error_message must take 0"),
        ({"error_message": b"no"}, "error_message = b'no' must be text"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_options_that_are_not_honoured(make: Any, options: dict[str, Any], said: str) -> None:
    """What cannot be honoured is an error where it is written, which says what to do instead."""
    _, guard = make()

    with pytest.raises(TypeError, match=said):
        guard.limit("5/minute", **options)


@APPS
def test_a_key_function_by_position(make: Any) -> None:
    """slowapi's second argument is the key function: it is not taken for something else."""
    with pytest.raises(TypeError, match="no key_func"):
        make()[1].limit("5/minute", str)


@APPS
@pytest.mark.parametrize(
    ("rates", "options"),
    [
        ("", {}),
        ("five a minute", {}),
        ("0/minute", {}),
        ("5/minute;0/hour", {}),
        (";", {}),
        (f"{2**60}/minute", {}),
        ("5 per 9999999 years", {}),
        ("5/minute", {"cost": 0}),
        ("5/minute", {"cost": -1}),
        ("5/minute", {"cost": "3"}),
        ("5/minute", {"methods": "POST"}),
        ("5/minute", {"methods": []}),
    ],
    ids=str,
)
def test_declarations_that_make_no_sense(make: Any, rates: str, options: dict[str, Any]) -> None:
    """Rates that cannot be counted, and lists that hold for nothing, are errors at once."""
    with pytest.raises(ValueError):
        make()[1].limit(rates, **options)


@APPS
def test_what_is_no_handler(make: Any) -> None:
    """Neither a class nor a blueprint is a handler: the error says where to put it."""
    _, guard = make()

    for other in (MethodView, Blueprint("b", __name__)):
        with pytest.raises(TypeError, match="stands above a function"):
            guard.limit("5/minute")(other)


@APPS
@pytest.mark.parametrize("wrong", ["nonsense", "", "0/hour", None], ids=repr)
def test_rates_that_turn_out_wrong(make: Any, wrong: Any) -> None:
    """A function that tells nonsense fails the request: it does not lift the limit."""
    app, guard = make()
    told = iter(["2/hour", wrong, "2/hour"])
    app.get("/")(guard.limit(lambda: next(told))(lambda: "ok"))

    assert asking(app, guard)("/", 3) == [200, 500, 200]


@APPS
def test_messages_that_a_function_says(make: Any) -> None:
    """A refused client is told what error_message says when it is refused."""
    app, guard = make()
    app.get("/")(guard.limit("1/hour", error_message=lambda: "One an hour.")(lambda: "ok"))
    headers = list(GuardTester(guard).headers().items())
    client: Client = (over_asgi if isinstance(app, FastAPI) else over_wsgi).InProcess(app)
    answers = [client.ask("GET", "/", headers=headers) for _ in range(2)]

    assert [a.status for a in answers] == [200, 429]
    assert answers[1].json["title"] == "One an hour."


@APPS
def test_windows_as_long_as_each_other(make: Any) -> None:
    """Of two windows of one length the smaller holds, and a request is charged once."""
    app, guard = make()
    app.get("/")(guard.limit("9/hour;3/hour;3 per 60 minutes")(lambda: "ok"))

    assert asking(app, guard)("/", 4) == [200, 200, 200, 429]


@APPS
def test_outside_of_a_request(make: Any) -> None:
    """A limited function can be called by itself, as in a unit test, before the app is named."""
    adapter = fastapi_adapter if make is fastapi_app else flask_adapter
    for guard in (adapter.MLGuard(), make()[1]):
        limited = guard.limit("1/hour")(lambda: "ok")

        assert [limited(), limited()] == ["ok", "ok"]


# -- where it may stand --------------------------------------------------------------------------


@APPS
def test_partial_handlers(make: Any) -> None:
    """A handler may be a partial, below the limit or above it."""
    app, guard = make()

    def handler(word: str) -> str:
        return word

    above = guard.limit("1/hour")(functools.partial(handler, word="above"))
    below = functools.partial(guard.limit("1/hour")(handler), word="below")
    for path, view in (("/above", above), ("/below", below)):
        if isinstance(app, Flask):
            app.add_url_rule(path, path, view)
        else:
            app.add_api_route(path, view)
    ask = asking(app, guard)

    assert [ask("/above", 2), ask("/below", 2)] == [[200, 429]] * 2


def _retrying(function: Callable[[], Any]) -> Callable[[], Any]:
    def tried() -> Any:
        try:
            return function()
        except Exception:  # noqa: BLE001 - as people do
            return function()

    return tried


@APPS
def test_a_decorator_that_tries_again(make: Any) -> None:
    """What hides the declaration and swallows the refusal does not get the handler run."""
    app, guard = make()
    ran = []

    @guard.limit("1/hour")
    def handler() -> str:
        ran.append(1)
        return "ok"

    app.get("/")(_retrying(handler))

    assert asking(app, guard)("/", 3) == [200, 429, 429]
    assert len(ran) == 1


@APPS
def test_async_decorators_that_forget(make: Any) -> None:
    """An async handler whose declaration got lost is charged when it runs."""
    app, guard = make()

    @guard.limit("2/hour")
    async def handler() -> str:
        return "ok"

    async def forgotten() -> str:
        return await handler()

    app.get("/")(forgotten)

    assert asking(app, guard)("/", 3) == [200, 200, 429]


@APPS
def test_handlers_that_call_each_other(make: Any) -> None:
    """A handler that calls another one, which is limited, is charged for it."""
    app, guard = make()
    inner = guard.limit("3/hour")(guard.limit("2/hour")(lambda: "ok"))
    app.get("/")(guard.limit("9/hour")(lambda: inner()))

    assert asking(app, guard)("/", 3) == [200, 200, 429]


@APPS
def test_each_declaration_is_asked_once(make: Any) -> None:
    """Its functions are asked once for each request, exempt_when first, alone where it holds."""
    app, guard = make()
    asked = []

    def rates() -> str:
        asked.append("rates")
        return "5/minute;9/hour"

    def cost(*_: Any) -> int:
        asked.append("cost")
        return 1

    def exempt() -> bool:
        asked.append("exempt")
        return asked.count("exempt") > 1

    app.get("/")(guard.limit(rates, cost=cost, exempt_when=exempt)(lambda: "ok"))
    asking(app, guard)("/", 2)

    assert asked == ["exempt", "rates", "cost", "exempt"]


@APPS
def test_odd_costs_are_told_once(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A cost that makes no sense is logged, but not at each request, and not with its value."""
    app, guard = make()
    app.get("/")(guard.limit("9/hour", cost=lambda *_: "secret value")(lambda: "ok"))
    asking(app, guard)("/", 3)

    assert [r.getMessage() for r in caplog.records if "cost" in r.getMessage()] == [
        "the cost of limit 9/hour was a str: counted as 1"
    ]


@APPS
def test_methods_that_clients_invent(make: Any) -> None:
    """With per_method, methods that nobody knows share one bucket."""
    app, guard = make()
    view = guard.limit("2/hour", per_method=True)(lambda *_: PlainTextResponse("ok"))
    if isinstance(app, Flask):
        methods = [f"BREW{n}" for n in range(3)]
        app.add_url_rule(
            "/", "any", guard.limit("2/hour", per_method=True)(lambda: "ok"), methods=methods
        )
    else:
        app.router.routes.append(Route("/", view, methods=[f"BREW{n}" for n in range(3)]))
    ask = asking(app, guard)

    assert [ask("/", 1, f"BREW{n}") for n in range(3)] == [[200], [200], [429]]


# -- FastAPI -------------------------------------------------------------------------------------


def test_a_limit_is_a_dependency_too() -> None:
    """Depends(guard.limit(...)) limits each route of a router for itself, and asks no parameter."""
    app, guard = fastapi_app()
    router = APIRouter(dependencies=[Depends(guard.limit("2/hour"))])
    router.get("/a")(lambda: "a")
    router.get("/b", dependencies=[Depends(guard.limit("1/hour"))])(lambda: "b")
    app.include_router(router, prefix="/v1")
    app.include_router(router, prefix="/v2")
    ask = asking(app, guard)

    for version in ("/v1", "/v2"):
        assert ask(f"{version}/a", 3) == [200, 200, 429]
        assert ask(f"{version}/b", 2) == [200, 429]
    assert "parameters" not in app.openapi()["paths"]["/v1/a"]["get"]


def test_handshakes_are_limited() -> None:
    """A WebSocket is charged at its handshake, and refused there."""
    app, guard = fastapi_app()

    @app.websocket("/ws")
    @guard.limit("2/hour", cost=lambda connection: int(connection.query_params["n"]))
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    headers = GuardTester(guard).headers()
    client = TestClient(app)
    with client.websocket_connect("/ws?n=2", headers=headers):
        pass
    with pytest.raises(WebSocketDenialResponse) as refused:
        client.websocket_connect("/ws?n=1", headers=headers).__enter__()

    assert (refused.value.status_code, refused.value.json()["code"]) == (429, "rate_exceeded")


def test_mounted_routes_and_classes() -> None:
    """Routes of mounted apps, and methods of a class, are limited before they run."""
    app, guard = fastapi_app()

    class Endpoint(HTTPEndpoint):
        @guard.limit("1/hour")
        async def get(self, request: Request) -> JSONResponse:
            return JSONResponse({})

        async def post(self, request: Request) -> JSONResponse:
            return JSONResponse({})

    @guard.limit("2/hour")
    async def plain(request: Request) -> JSONResponse:
        return JSONResponse({})

    sub = FastAPI()
    sub.get("/things/{thing}")(guard.limit("2/hour")(lambda thing: thing))
    app.mount("/sub/{tenant}", sub)
    app.mount("/plain", Mount("/", routes=[Route("/x", plain), Route("/class", Endpoint)]))
    ask = asking(app, guard)

    assert ask("/sub/a/things/1", 1) + ask("/sub/b/things/2", 2) == [200, 200, 429]
    assert ask("/plain/x", 3) == [200, 200, 429]
    assert ask("/plain/class", 1) + ask("/plain/class", 1, "HEAD") == [200, 429]
    assert ask("/plain/class", 2, "POST") == [200, 200]


def test_slowapis_own_forms() -> None:
    """exempt_when may take the request, and rates may depend on who calls."""
    app, guard = fastapi_app()

    def told(key: str) -> str:
        return "2/hour" if key == "tester" else "1/hour"

    def exempt(request: Request) -> bool:
        return request.headers.get("x-probe") == "yes"

    @app.get("/")
    @guard.limit(told, exempt_when=exempt)
    async def handler() -> str:
        return "ok"

    rehearsal = GuardTester(guard)
    client = TestClient(app)

    def statuses(who: str, **headers: str) -> list[int]:
        known = rehearsal.headers(who)
        return [client.get("/", headers=known | headers).status_code for _ in range(3)]

    assert statuses("tester", **{"x-probe": "yes"}) == [200, 200, 200]
    assert statuses("tester") == [200, 200, 429]
    assert statuses("other") == [200, 429, 429]


def test_generators_are_limited() -> None:
    """A handler that yields keeps yielding, and is refused before it begins."""
    app, guard = fastapi_app()

    @guard.limit("1/hour")
    async def numbers() -> AsyncIterator[int]:
        yield 1
        yield 2

    @app.get("/")
    async def handler() -> list[int]:
        return [n async for n in numbers()]

    assert asking(app, guard)("/", 2) == [200, 429]


def test_beside_slowapi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's own slowapi goes on as it was, and knows nothing of the kit's limits."""
    monkeypatch.chdir(tmp_path)
    app, guard = fastapi_app()
    limiter = Limiter(lambda request: "all", key_style="endpoint", default_limits=["3/hour"])
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, _rate_limit_exceeded_handler)  # type: ignore[arg-type]
    app.add_middleware(SlowAPIMiddleware)

    @app.get("/theirs")
    async def theirs() -> str:
        return "ok"

    @app.get("/above")
    @limiter.limit("1/hour")
    @guard.limit("9/hour")
    async def above(request: Request) -> str:
        return "ok"

    @app.get("/below")
    @guard.limit("1/hour")
    @limiter.limit("2/hour")
    async def below(request: Request) -> str:
        return "ok"

    rehearsal = GuardTester(guard)
    client = TestClient(app)

    def answers(path: str, number: int) -> list[str]:
        found = [client.get(path, headers=rehearsal.headers()) for _ in range(number)]
        return [a.json() if a.status_code == 200 else a.json().get("code", "theirs") for a in found]

    assert answers("/theirs", 4) == ["ok"] * 3 + ["theirs"]
    assert answers("/above", 3) == ["ok", "theirs", "theirs"]
    assert answers("/below", 2) == ["ok", "rate_exceeded"]


# -- Flask ---------------------------------------------------------------------------------------


def test_views_that_are_classes() -> None:
    """A limit stands above a method, or among the decorators of the class."""
    app, guard = flask_app()

    class Method(MethodView):
        @guard.limit("1/hour")
        def get(self) -> str:
            return "ok"

        def post(self) -> str:
            return "ok"

    class Whole(MethodView):
        decorators: ClassVar[list[Any]] = [guard.limit("2/hour")]

        def get(self) -> str:
            return "ok"

        def post(self) -> str:
            return "ok"

    app.add_url_rule("/method", view_func=Method.as_view("method"))
    app.add_url_rule("/whole", view_func=Whole.as_view("whole"))
    ask = asking(app, guard)

    assert ask("/method", 1) + ask("/method", 1, "HEAD") == [200, 429]
    assert ask("/method", 2, "POST") == [200, 200]
    assert ask("/whole", 1) + ask("/whole", 2, "POST") == [200, 200, 429]


@pytest.mark.parametrize("route", [None, "/predict"], ids=["any route", "a model's route"])
def test_costs_that_read_the_body(route: str | None) -> None:
    """cost() may read what was sent: the quota of rows and the view still see all of it."""
    app = Flask(__name__)
    quotas = {"requests": ["1000/hour"], "rows": ["7/hour"]}
    guard = flask_adapter.MLGuard(app, settings(route, quotas=quotas))

    @app.post("/predict")
    @guard.limit("9/hour", cost=lambda: len(request.get_json()["instances"]))
    def predict() -> dict[str, Any]:
        return {"predictions": [sum(row) for row in request.get_json()["instances"]]}

    statuses = asking(app, guard)("/predict", 4, "POST", json.dumps(ROWS).encode())

    assert statuses == ([200, 200, 429, 429] if route else [200, 200, 200, 429])


def test_views_that_yield() -> None:
    """A view that is a generator streams, and is refused before its first byte."""
    app, guard = flask_app()

    @app.get("/")
    @guard.limit("1/hour")
    def stream() -> Iterator[str]:
        yield "one"

    assert asking(app, guard)("/", 2) == [200, 429]


def test_beside_flask_limiter() -> None:
    """The app's own flask-limiter goes on as it was, and knows nothing of the kit's limits."""
    app, guard = flask_app()
    limiter = FlaskLimiter(
        lambda: "all", app=app, default_limits=["3/hour"], storage_uri="memory://"
    )

    @app.get("/theirs")
    def theirs() -> str:
        return "ok"

    @app.get("/above")
    @limiter.limit("1/hour")
    @guard.limit("9/hour")
    def above() -> str:
        return "ok"

    @app.get("/below")
    @guard.limit("1/hour")
    @limiter.limit("2/hour")
    def below() -> str:
        return "ok"

    rehearsal = GuardTester(guard)
    client = app.test_client()

    def answers(path: str, number: int) -> list[str]:
        found = []
        for _ in range(number):
            with client.get(path, headers=rehearsal.headers()) as answer:
                is_ours = answer.mimetype == "application/problem+json"
                found.append(json.loads(answer.text)["code"] if is_ours else answer.text[:2])
        return found

    assert answers("/theirs", 4) == ["ok"] * 3 + ["<!"]
    assert answers("/above", 3) == ["ok", "<!", "<!"]
    assert answers("/below", 2) == ["ok", "rate_exceeded"]


# -- both, once more -----------------------------------------------------------------------------


@APPS
def test_files_of_the_environment_are_not_read(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a ./.env says to slowapi does not change a limit of the kit."""
    (tmp_path / ".env").write_text("RATELIMIT_ENABLED=false\nRATELIMIT_STORAGE_URL=redis://nowhere")
    monkeypatch.chdir(tmp_path)
    app, guard = make()
    app.get("/")(guard.limit("1/hour")(lambda: "ok"))

    assert asking(app, guard)("/", 2) == [200, 429]


@APPS
def test_routes_are_listed(make: Any) -> None:
    """Each route is listed with what its handler demands and declares."""
    app, guard = make()
    template = "/things/<thing>" if make is flask_app else "/things/{thing}"

    @app.get(template)
    @guard.requires("read")
    @guard.limit("5/minute;100/hour")
    @guard.limit("9/day", methods=["GET"])
    def thing(thing: str) -> str:
        return thing

    listed = {route.template: route for route in guard.routes()}

    assert listed[template].limits == ("9/day", "5/minute;100/hour")
    assert listed[template].scopes == {"read"}
    assert "GET" in listed[template].methods
    assert listed[template].is_guarded


@APPS
def test_limits_above_the_frameworks_decorator(make: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A limit that the framework was not given holds for nothing: the start tells of it."""
    app, guard = make()

    def wrong() -> str:
        return "wrong"

    guard.limit("5/minute")(app.get("/wrong")(wrong))
    right = guard.limit("6/minute")(lambda: "right")
    app.get("/right")(guard.limit("7/minute")(right))
    guard.check()

    (said,) = [r.getMessage() for r in caplog.records if "guard.limit" in r.getMessage()]
    assert said.startswith("guard.limit('5/minute') does not hold on /wrong: put it below")


def test_mounted_flask_apps_are_listed() -> None:
    """What is mounted beside is listed below its prefix; what was put around has no guard."""
    app, inner = Flask("outer"), Flask("inner")
    adapter = flask_adapter.MLGuard
    inner_guard = adapter(inner, chosen())
    inner.get("/x")(inner_guard.limit("5/minute")(lambda: "x"))

    def plain(environ: Any, start_response: Any) -> Any:
        return []

    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/inner": inner, "/plain": plain})  # type: ignore[method-assign]
    guard = adapter(app, chosen())
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/around": plain, "/own": inner})  # type: ignore[method-assign]
    listed = {route.template: route for route in guard.routes()}

    assert listed["/inner/x"].limits == listed["/own/x"].limits == ("5/minute",)
    assert listed["/plain"].is_guarded
    assert not listed["/around"].is_guarded
