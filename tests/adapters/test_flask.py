"""Does the Flask adapter find its place, whatever the app is made of?"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from flask import Blueprint, Flask, Response, g, request
from flask.testing import FlaskClient
from flask.views import MethodView
from flask_cors import CORS
from opentelemetry import trace
from opentelemetry.instrumentation.flask import FlaskInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from mlguard.errors import InvalidSettings
from mlguard.testing import GuardTester
from mlguard_flask import MLGuard
from tests.adapters.common import ROWS, settings


def predict() -> dict[str, Any]:
    return {"predictions": [sum(row) for row in request.get_json()["instances"]]}


def guarded(app: Flask, chosen: Any = None) -> tuple[FlaskClient, GuardTester]:
    rehearsal = GuardTester(MLGuard(app, chosen or settings()))
    return app.test_client(), rehearsal


def app_with_predict() -> Flask:
    app = Flask(__name__)
    app.post("/predict")(predict)
    return app


def test_blueprints_are_guarded() -> None:
    """A model route of nested blueprints is guarded, and labelled by its rule."""
    app = Flask(__name__)
    outer, inner = Blueprint("o", __name__), Blueprint("i", __name__)
    inner.post("/predict/<variant>", endpoint="p")(lambda variant: predict())
    outer.register_blueprint(inner, url_prefix="/v2")
    app.register_blueprint(outer, url_prefix="/api")
    client, rehearsal = guarded(app, settings("/api/v2/predict/<variant>"))
    refused = client.post("/api/v2/predict/a", json=ROWS)
    answered = client.post("/api/v2/predict/a", json=ROWS, headers=rehearsal.headers())

    assert refused.json["code"] == "token_missing"
    assert answered.json == {"predictions": [3.0, 3.0, 3.0]}
    child, server = rehearsal.spans[-2:]
    assert server.name == "POST /api/v2/predict/<variant>"
    assert child.parent.span_id == server.context.span_id


def test_the_guard_stands_before_the_apps_own_functions() -> None:
    """A before_request function of the app never runs for a refused request, in either order."""
    app, ran = app_with_predict(), []
    app.before_request(lambda: ran.append("before"))
    client, rehearsal = guarded(app)
    app.before_request(lambda: ran.append("after"))
    client.post("/predict", json=ROWS)
    assert ran == []

    client.post("/predict", json=ROWS, headers=rehearsal.headers())
    assert ran == ["before", "after"]


@pytest.mark.parametrize("late", [False, True], ids=["guard last", "guard first"])
def test_refusals_pass_the_apps_middleware(*, late: bool) -> None:
    """CORS headers are on refusals, and answers are read before after_request changes them."""
    app = app_with_predict()

    def add_middleware() -> None:
        CORS(app, origins=["https://app.example.com"])
        app.after_request(scramble)

    def scramble(response: Response) -> Response:
        if response.status_code == 200:
            response.set_data(b"compressed")
        return response

    if not late:
        add_middleware()
    client, rehearsal = guarded(app)
    if late:
        add_middleware()
    origin = {"Origin": "https://app.example.com"}
    refused = client.post("/predict", json=ROWS, headers=origin)
    answered = client.post("/predict", json=ROWS, headers=origin | rehearsal.headers())

    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
    assert answered.data == b"compressed"
    assert rehearsal.metric("mlguard_inference_rows_total", model="sum", version="1") == 3


def test_preflights_are_answered_by_the_app() -> None:
    """A CORS preflight carries no token, needs none, and never reaches the view."""
    app = app_with_predict()
    CORS(app)
    client, _ = guarded(app)
    headers = {"Origin": "https://a.example.com", "Access-Control-Request-Method": "POST"}

    assert client.options("/predict", headers=headers).status_code == 200


def test_options_of_the_app_itself_are_guarded() -> None:
    """A view that serves OPTIONS itself is a view like any other."""
    app = app_with_predict()
    app.route("/own", methods=["OPTIONS"])(lambda: "ran")
    client, _ = guarded(app)

    assert client.options("/own").status_code == 401


def test_a_server_that_was_given_the_app_before_is_guarded() -> None:
    """What calls the app around the guard's outer layer meets the decision all the same."""
    app = app_with_predict()
    before = app.wsgi_app
    _, rehearsal = guarded(app)
    client = Client(before)

    assert client.post("/predict", json=ROWS).status_code == 401
    assert client.post("/predict", json=ROWS, headers=rehearsal.headers()).status_code == 200
    assert rehearsal.metric("http_server_active_requests") == 0


def test_an_app_that_forgets_its_functions_is_guarded() -> None:
    """Even without `before_request` no view runs undecided."""
    app = app_with_predict()
    client, rehearsal = guarded(app)
    client.get("/first")
    app.before_request_funcs.clear()

    assert client.post("/predict", json=ROWS).status_code == 401
    assert client.post("/predict", json=ROWS, headers=rehearsal.headers()).status_code == 200


def at_once(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"beside"]


def when_read(environ: Any, start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"beside"


@pytest.mark.parametrize("beside", [at_once, when_read])
def test_an_app_dispatched_beside_flask_needs_a_token(beside: Any) -> None:
    """What answers around Flask's own dispatch is decided at its first byte."""
    app = app_with_predict()
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/beside": beside})
    client, rehearsal = guarded(app)
    refused = client.get("/beside")

    assert (refused.status_code, refused.json["code"]) == (401, "token_missing")
    assert client.get("/beside", headers=rehearsal.headers()).data == b"beside"


def test_one_guard_is_of_one_app() -> None:
    """A second app would be decided by the first one's settings."""
    guard = MLGuard(app_with_predict(), settings())
    with pytest.raises(InvalidSettings, match="one app"):
        guard.init_app(app_with_predict())
    with pytest.raises(InvalidSettings, match="init_app"):
        MLGuard(settings=settings()).inference("sum", 1)


def test_static_files_need_a_token() -> None:
    """An endpoint named static is no exception."""
    client, _ = guarded(app_with_predict())

    assert client.get("/static/model.pkl").status_code == 401


def test_routes_added_after_the_guard_are_guarded() -> None:
    """A view that is registered later is denied like any other."""
    app = Flask(__name__)
    client, _ = guarded(app)
    app.post("/predict")(predict)

    assert client.post("/predict", json=ROWS).status_code == 401


def test_a_route_that_the_app_lacks_fails_the_first_call() -> None:
    """Every call fails with one message that names the route and the nearest one."""
    client, _ = guarded(app_with_predict(), settings("/predcit"))
    for _ in range(2):
        with pytest.raises(InvalidSettings, match=r"'/predcit'.*did you mean '/predict'\?"):
            client.get("/anything")


def test_streams_are_measured_to_their_last_byte() -> None:
    """The span and the latency of a stream end with it, and its own spans are inside."""
    app = app_with_predict()

    @app.get("/stream")
    def stream() -> Response:
        def chunks() -> Iterator[bytes]:
            for n in range(3):
                with trace.get_tracer("app", tracer_provider=provider).start_as_current_span("n"):
                    deadline = time.perf_counter() + 0.02
                    while time.perf_counter() < deadline:
                        pass
                yield b"%d" % n

        return Response(chunks())

    guard = MLGuard(app, settings())
    rehearsal = GuardTester(guard)
    provider: Any = guard.service.tracer_provider
    with app.test_client() as client:
        answer = client.get("/stream", headers=rehearsal.headers())
        assert answer.data == b"012"
    *children, server = rehearsal.spans

    assert [c.name for c in children] == ["n"] * 3
    assert {c.parent.span_id for c in children} == {server.context.span_id}
    assert server.end_time - server.start_time > 60e6  # nanoseconds
    labels = {"http_request_method": "GET", "http_response_status_code": "200"}
    name = "http_server_request_duration_seconds_sum"
    assert rehearsal.metric(name, http_route="/stream", **labels) > 0.06


def test_a_client_that_leaves_is_a_499() -> None:
    """A stream that the server closes before its end is not counted as a success."""
    app = app_with_predict()
    app.get("/stream")(lambda: Response(iter([b"a", b"b"])))
    client, rehearsal = guarded(app)
    answer = client.get("/stream", headers=rehearsal.headers())
    next(answer.iter_encoded())
    answer.close()

    labels = {"http_request_method": "GET", "http_route": "/stream"}
    name = "http_server_request_duration_seconds_count"
    assert rehearsal.metric(name, http_response_status_code="499", **labels) == 1
    assert rehearsal.metric("http_server_active_requests") == 0


def test_exceptions_leave_no_message_in_spans() -> None:
    """The message of an exception may quote the input: a span has its type only."""
    app = Flask(__name__)
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.post("/predict")
    def fail() -> None:
        raise ValueError("secret feature value 42")

    client, rehearsal = guarded(app)
    with pytest.raises(ValueError, match="42"):
        client.post("/predict", json=ROWS, headers=rehearsal.headers())
    child, server = rehearsal.spans

    assert "secret feature" not in child.to_json() + server.to_json()
    assert (server.attributes["error.type"], server.status.is_ok) == ("ValueError", False)
    labels = {"model": "sum", "version": "1", "error_type": "ValueError"}
    assert rehearsal.metric("mlguard_inference_errors_total", **labels) == 1


@pytest.mark.parametrize("late", [False, True], ids=["instrumented first", "guarded first"])
def test_an_instrumented_app_is_joined(*, late: bool) -> None:
    """Where the contrib instrumentation stands, there is one server span, its own."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = app_with_predict()
    instrument = FlaskInstrumentor()
    guard = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if late:
            guard = MLGuard(app, settings(tracing={"endpoint": "console"}))
        instrument.instrument_app(app, tracer_provider=provider)
    rehearsal = GuardTester(guard or MLGuard(app, settings()))
    app.test_client().post("/predict", json=ROWS, headers=rehearsal.headers())
    theirs = [s.name for s in exporter.get_finished_spans() if s.kind.name == "SERVER"]
    ours = [s.name for s in rehearsal.spans]

    assert (theirs, ours) == (["POST /predict"], ["inference sum"])


def test_proxy_fix_outside_is_welcome() -> None:
    """WSGI middleware around the guard keeps working."""
    app = app_with_predict()
    client, rehearsal = guarded(app)
    app.wsgi_app = ProxyFix(app.wsgi_app)

    assert client.post("/predict", json=ROWS, headers=rehearsal.headers()).status_code == 200


def test_two_apps_in_one_process_share_nothing() -> None:
    """Tokens, metrics and spans of one guarded app are not the other's."""
    (one, mine), (two, theirs) = (guarded(app_with_predict()) for _ in range(2))
    one.post("/predict", json=ROWS, headers=mine.headers())

    assert two.post("/predict", json=ROWS, headers=mine.headers()).status_code == 401
    assert theirs.metric("mlguard_inference_rows_total", model="sum", version="1") == 0
    assert [s.name for s in theirs.spans] == ["POST /predict"]


def test_the_context_of_a_request_ends_with_it() -> None:
    """After an answer no span and no caller are left behind in the thread."""
    app = app_with_predict()
    client, rehearsal = guarded(app)
    client.post("/predict", json=ROWS, headers=rehearsal.headers())

    assert not trace.get_current_span().get_span_context().is_valid
    assert app.extensions["mlguard"].caller() is None


def test_the_session_of_the_app_is_untouched() -> None:
    """g, teardown and the view's own context behave as without the kit."""
    app, seen = Flask(__name__), []
    app.before_request(lambda: setattr(g, "mine", 1))
    app.teardown_request(lambda error: seen.append(g.mine))
    app.get("/x")(lambda: {"mine": g.mine})
    client, rehearsal = guarded(app, settings(None))

    assert client.get("/x", headers=rehearsal.headers()).json == {"mine": 1}
    assert seen == [1]


def test_init_app_names_the_app_later() -> None:
    """MLGuard().init_app(app) is MLGuard(app)."""
    app = app_with_predict()
    guard = MLGuard(settings=settings())
    guard.init_app(app)
    GuardTester(guard)

    assert app.test_client().post("/predict", json=ROWS).status_code == 401


def test_scopes_of_views_that_are_classes() -> None:
    """guard.requires works on methods and in `decorators`, and under other error handlers."""
    app = Flask(__name__)
    guard = MLGuard(app, settings(None))
    blueprint = Blueprint("b", __name__)

    class Method(MethodView):
        @guard.requires("admin")
        def get(self) -> dict[str, bool]:
            return {"got": True}

        def post(self) -> dict[str, bool]:
            return {"posted": True}

    class Whole(MethodView):
        decorators: ClassVar[list[Any]] = [guard.requires("admin")]

        def get(self) -> dict[str, bool]:
            return {"got": True}

    @blueprint.errorhandler(Exception)
    def swallow(error: Exception) -> tuple[str, int]:
        return "swallowed", 418

    blueprint.add_url_rule("/whole", view_func=Whole.as_view("whole"))
    app.add_url_rule("/method", view_func=Method.as_view("method"))
    app.register_blueprint(blueprint)
    rehearsal = GuardTester(guard)
    client = app.test_client()
    lacking, granted = (rehearsal.headers(scopes=["predict", *s]) for s in ([], ["admin"]))

    assert client.get("/method", headers=lacking).status_code == 403
    assert client.post("/method", headers=lacking).json == {"posted": True}
    assert client.get("/whole", headers=lacking).status_code == 403
    assert client.get("/method", headers=granted).json == {"got": True}
    assert client.get("/whole", headers=granted).json == {"got": True}


def test_a_token_that_nobody_signed_revokes_nothing() -> None:
    """guard.revoke takes a whole token only where its issuer signed it."""
    app = Flask(__name__)
    guard = MLGuard(app, settings(None))
    rehearsal = GuardTester(guard)
    good = rehearsal.token(jti="one")
    forged = f"{good.rpartition('.')[0]}.{rehearsal.token(jti='two').rpartition('.')[2]}"

    with pytest.raises(ValueError, match="no key verifies the signature"):
        guard.revoke(token=forged)
    guard.revoke(token=good)

    client = app.test_client()
    answer = client.get("/", headers={"Authorization": f"Bearer {good}"})
    assert answer.json is not None
    assert answer.json["code"] == "token_revoked"


@pytest.mark.parametrize("order", ["before", "after"])
def test_apps_beside_flask(order: str, caplog: pytest.LogCaptureFixture) -> None:
    """An app that stood beside Flask before is guarded; one put around the guard is told of."""
    app = Flask(__name__)
    ran: list[str] = []

    def beside(environ: Any, start_response: Any) -> list[bytes]:
        ran.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"beside"]

    def put() -> None:
        app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/beside": beside})  # type: ignore[method-assign]

    if order == "before":
        put()
    rehearsal = GuardTester(MLGuard(app, settings(None)))
    if order == "after":
        put()
    client = app.test_client()
    client.get("/nowhere", headers=rehearsal.headers()).close()
    answer = client.get("/beside/x")

    if order == "before":
        assert (answer.status_code, ran) == (401, [])
        assert client.get("/beside/x", headers=rehearsal.headers()).data == b"beside"
    else:
        assert (answer.status_code, ran) == (200, ["/x"])
        assert "what is mounted at /beside is not guarded" in caplog.text


@pytest.mark.parametrize("first", ["/secret", "/public", "/nowhere"])
def test_each_dispatch_is_decided(first: str) -> None:
    """A request that is dispatched again, after a refusal or a public route, takes a token."""
    app = Flask(__name__)
    app.get("/secret", endpoint="secret")(lambda: "secret")
    app.get("/public", endpoint="public")(lambda: "public")
    inner = app.wsgi_app

    def twice(environ: Any, start_response: Any) -> Any:
        ignored = inner({**environ, "PATH_INFO": first}, lambda *_: None)
        getattr(ignored, "close", lambda: None)()
        return inner(environ, start_response)

    app.wsgi_app = twice  # type: ignore[method-assign]
    chosen = settings(None)
    chosen["auth"]["public"] = ["/public"]
    client, rehearsal = guarded(app, chosen)

    assert client.get("/secret").status_code == 401
    assert client.get("/secret", headers=rehearsal.headers()).data == b"secret"


def test_an_inner_guard_asks_where_the_outer_does_not() -> None:
    """A guarded app with [auth], mounted in one without, still takes a token."""
    outer, inner = Flask("outer"), Flask("inner")
    inner.get("/secret")(lambda: "secret")
    rehearsal = GuardTester(MLGuard(inner, settings(None)))
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": inner})  # type: ignore[method-assign]
    GuardTester(MLGuard(outer, {"service": {"name": "outer"}}))
    client = outer.test_client()

    assert client.get("/inner/secret").status_code == 401
    assert client.get("/inner/secret", headers=rehearsal.headers()).data == b"secret"


def test_what_stands_beside_a_mounted_app_is_decided_before() -> None:
    """Where something is dispatched beside a mounted app, the mount is decided as a whole."""
    ran = []

    def beside(environ: Any, start_response: Any) -> Any:
        ran.append(environ["PATH_INFO"])
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"beside"]

    outer, inner = Flask("outer"), Flask("inner")
    inner.get("/x")(lambda: "x")
    MLGuard(inner, settings(None))
    mounted = DispatcherMiddleware(inner, {"/beside": beside})
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": mounted})  # type: ignore[method-assign]
    client, rehearsal = guarded(outer, settings(None))
    refused = [client.get(path).status_code for path in ("/inner/x", "/inner/beside/y")]

    assert (refused, ran) == ([401, 401], [])
    for path, said in (("/inner/x", b"x"), ("/inner/beside/y", b"beside")):
        assert client.get(path, headers=rehearsal.headers()).data == said


def test_a_mounted_apps_routes_have_its_prefix() -> None:
    """What is public on the outer app is not public on an app that is mounted in it."""
    outer, inner = Flask("outer"), Flask("inner")
    for app in (outer, inner):
        app.get("/health")(lambda: "ok")
    MLGuard(inner, settings(None))
    outer.wsgi_app = DispatcherMiddleware(outer.wsgi_app, {"/inner": inner})  # type: ignore[method-assign]
    chosen = settings(None)
    chosen["auth"]["public"] = ["/health"]
    client, _ = guarded(outer, chosen)

    assert client.get("/health").status_code == 200
    assert client.get("/inner/health").status_code == 401
    # A prefix that the server sets for the whole service is not part of a route.
    assert client.get("/health", base_url="http://localhost/behind").status_code == 200
