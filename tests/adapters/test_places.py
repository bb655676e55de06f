"""Which routes does each adapter list, on which hosts, and what does it find around the guard?"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from flask import Flask
from flask.views import MethodView
from prometheus_client import CollectorRegistry, make_asgi_app, make_wsgi_app
from prometheus_fastapi_instrumentator import Instrumentator
from prometheus_flask_exporter import PrometheusMetrics
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.middleware.shared_data import SharedDataMiddleware

import mlguard_fastapi as fastapi_adapter
import mlguard_flask as flask_adapter
from mlguard.errors import InvalidSettings
from mlguard.routes.coverage import Coverage
from mlguard.routes.route import Route
from mlguard.routes.surroundings import Around
from tests.adapters.common import settings

ADMIN = "admin.example.org"
ALONE: dict[str, Any] = {"service": {"host_file": False}, "tracing": None}


def predict() -> dict[str, Any]:
    return {}


def plain(environ: Any, start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"plain"]


def fast(**tables: Any) -> tuple[FastAPI, fastapi_adapter.MLGuard]:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    return app, fastapi_adapter.MLGuard(app, settings(**ALONE, **tables))


def flask(*, app: Flask | None = None, **tables: Any) -> tuple[Flask, flask_adapter.MLGuard]:
    app = app or Flask(__name__, static_folder=None)
    return app, flask_adapter.MLGuard(app, settings(**ALONE, **tables))


def listed(routes: Iterable[Route]) -> set[str]:
    return {route.shown for route in routes}


def stopped(guard: Any) -> str:
    """Say why an app does not start."""
    with pytest.raises(InvalidSettings) as caught:
        guard.check()
    return str(caught.value)


def unmade(make: Callable[[], Any]) -> str:
    """Say why no guard can be made for an app."""
    with pytest.raises(InvalidSettings) as caught:
        make()
    return str(caught.value)


class TestHosts:
    def test_of_fastapi(self) -> None:
        """Routes below a host are listed with it, those of mounts and plain apps below it too."""
        app, guard = fast(route=None)
        inner, deep = FastAPI(openapi_url=None), FastAPI(openapi_url=None)
        router = APIRouter(prefix="/v1")
        router.get("/status")(predict)
        inner.include_router(router)
        deep.get("/x")(predict)
        inner.mount("/deep", deep)
        app.get("/v1/status")(predict)
        app.host("{sub}.example.org", inner)
        app.host(ADMIN, PlainTextResponse("a page"))

        found = listed(guard.routes())

        assert found == {
            "/v1/status",
            "{sub}.example.org/v1/status",
            "{sub}.example.org/deep/x",
            f"{ADMIN}/",
        }

    def test_of_a_flask_app_on_a_host(self) -> None:
        """A guarded Flask app that is mounted on a host is listed there by its own routes."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from starlette.middleware.wsgi import WSGIMiddleware
        app, guard = fast(route=None)
        legacy, _ = flask(route=None)
        legacy.get("/x")(predict)
        inner = FastAPI(openapi_url=None)
        inner.mount("/legacy", WSGIMiddleware(legacy))
        app.host(ADMIN, inner)

        assert listed(guard.routes()) == {f"{ADMIN}/legacy/x"}

    @pytest.mark.parametrize("matching", ["host", "subdomain"])
    def test_of_flask(self, matching: str) -> None:
        """Flask's routes are listed with the host or the subdomain that they ask for."""
        options: dict[str, Any] = {f"{matching}_matching": True}
        app, guard = flask(app=Flask(__name__, static_folder=None, **options), route=None)
        app.get("/x", endpoint="any")(predict)
        app.get("/x", endpoint="one", **{matching: "eu"})(predict)
        app.get("/x", endpoint="some", **{matching: "<tenant>"})(predict)

        assert listed(guard.routes()) == {"/x", "eu/x", "<tenant>/x"}

    def test_what_is_public_on_fastapi(self) -> None:
        """The same template on another host is not public by a name without one."""
        auth = settings()["auth"]
        app, guard = fast(route=None, auth={**auth, "public": ["/status"]})
        inner = FastAPI(openapi_url=None)
        for each in (app, inner):
            each.get("/status")(predict)
        app.host(ADMIN, inner)

        assert "auth.public = '/status': the app has it on several hosts" in stopped(guard)
        _, better = fast(route=None, auth={**auth, "public": [f"{ADMIN}/status"]})
        better._app.router.routes.extend(app.router.routes)
        better.check()

    def test_what_is_public_on_flask(self) -> None:
        """The same on Flask."""
        auth = settings()["auth"]

        def made(public: str) -> flask_adapter.MLGuard:
            app = Flask(__name__, static_folder=None, host_matching=True)
            app.get("/status", endpoint="a", host="a.example.org")(predict)
            app.get("/status", endpoint="b", host=ADMIN)(predict)
            return flask(app=app, route=None, auth={**auth, "public": [public]})[1]

        assert "write 'a.example.org/status' or 'admin.example.org/status'" in stopped(
            made("/status")
        )
        made(f"{ADMIN}/status").check()

    def test_at_the_root(self) -> None:
        """What is mounted at the root is spelt "/", and can be named."""
        auth = {**settings()["auth"], "public": ["/"]}
        app, guard = fast(route=None, auth=auth)
        app.mount("/", PlainTextResponse("a page"))

        guard.check()

        assert listed(guard.routes()) == {"/"}


class TestTwins:
    def test_on_fastapi(self) -> None:
        """A handler below two routes, of which one has a model, is found below its decorators."""
        app, guard = fast()
        app.post("/predict")(predict)
        app.post("/limited")(guard.limit("5/minute")(predict))
        router = APIRouter(prefix="/v1")
        router.post("/predict")(predict)
        app.include_router(router)
        app.post("/other")(lambda: "other")

        found = Coverage(guard.service.settings, guard.routes()).unmodelled_twins()

        assert [said.partition(" ")[0] for said in found] == ["/limited", "/v1/predict"]

    def test_on_flask(self) -> None:
        """The same on Flask, whether the endpoint is one or two; two views of a class are two."""
        app, guard = flask()
        app.post("/predict")(predict)
        app.post("/alias")(predict)
        app.post("/limited", endpoint="limited")(guard.limit("5/minute")(predict))
        for name in ("a", "b"):
            app.add_url_rule(f"/{name}", view_func=MethodView.as_view(name))

        found = Coverage(guard.service.settings, guard.routes()).unmodelled_twins()

        assert [said.partition(" ")[0] for said in found] == ["/alias", "/limited"]

    def test_are_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """The start warns of them, and of what stands around the guard."""
        app, _ = flask()
        app.post("/predict")(predict)
        app.post("/alias")(predict)
        around = SharedDataMiddleware(app.wsgi_app, {"/files": "/nowhere"})
        app.wsgi_app = around  # type: ignore[method-assign]

        with caplog.at_level(logging.WARNING, "mlguard"):
            app.test_client().get("/x").close()

        assert "/alias has the handler of /predict, but no model, so" in caplog.text
        assert "SharedDataMiddleware stands around the guard, and what it answers" in caplog.text


class TestAroundFlask:
    def test_nothing(self) -> None:
        """A guard that is outermost has nothing around it, nor has one in known middlewares."""
        app, guard = flask()
        app.post("/predict")(predict)

        assert list(guard.around()) == []
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
        assert list(guard.around()) == []

    def test_socket_io(self) -> None:
        """Socket.IO's middleware answers its path undecided where it came after the guard."""
        extension = pytest.importorskip("flask_socketio", reason="Flask-SocketIO is not installed")
        app, guard = flask()
        extension.SocketIO(app, async_mode="threading")
        early = Flask(__name__, static_folder=None)
        extension.SocketIO(early, async_mode="threading")

        (found,) = guard.around()

        assert found == Around("flask_socketio._SocketIOMiddleware", "/socket.io")
        assert list(flask(app=early)[1].around()) == []

    def test_a_dispatcher(self) -> None:
        """What is mounted around the guard is found, but what has a guard of its own."""
        app, guard = flask()
        other, _ = flask()
        app.wsgi_app = DispatcherMiddleware(  # type: ignore[method-assign]
            app.wsgi_app, {"/old": plain, "/new": other, "/proxied": ProxyFix(other)}
        )

        name = "werkzeug.middleware.dispatcher.DispatcherMiddleware"
        assert list(guard.around()) == [Around(name, "/old")]
        assert Coverage(guard.service.settings, guard.routes(), guard.around()).ways_around() == []
        assert [r.template for r in guard.routes() if not r.is_guarded] == ["/old"]

    def test_a_function(self) -> None:
        """A middleware that is a function is named, however it holds what is inside."""
        app, guard = flask()
        inner = app.wsgi_app

        def maintenance(environ: Any, start_response: Any) -> Any:
            return inner(environ, start_response)

        app.wsgi_app = maintenance  # type: ignore[method-assign]

        (found,) = guard.around()

        assert found.name.endswith("test_a_function.maintenance")
        assert found.prefix is None

    def test_a_guard_that_is_hidden(self) -> None:
        """Where the guard is not found inside, what hides it is named."""
        app, guard = flask()
        app.wsgi_app = plain  # type: ignore[method-assign]

        assert list(guard.around()) == [Around(f"{__name__}.plain", None)]

    @pytest.mark.parametrize("order", ["inside", "around"])
    def test_a_mounted_exporter(self, order: str) -> None:
        """A page of metrics where the kit's is stops the start, on whichever side it is mounted."""
        app = Flask(__name__, static_folder=None)
        app.post("/predict")(predict)

        def mount() -> None:
            page = make_wsgi_app(CollectorRegistry())
            app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/metrics": page})  # type: ignore[method-assign]

        if order == "inside":
            mount()
            said = unmade(lambda: flask(app=app))
        else:
            _, guard = flask(app=app)
            mount()
            said = stopped(guard)

        expected = {
            "inside": "is already a route of the app, made by prometheus_client; choose another",
            "around": "DispatcherMiddleware answers there too; choose another",
        }
        assert expected[order] in said

    def test_middleware_that_answers_prometheus(self) -> None:
        """A middleware inside that answers where the kit's page is would never be seen."""
        app = Flask(__name__, static_folder=None)
        app.post("/predict")(predict)
        app.wsgi_app = Exporter(ProxyFix(app.wsgi_app))  # type: ignore[method-assign]

        said = unmade(lambda: flask(app=app))

        assert f"{__name__}.Exporter answers there too; choose another" in said

    @pytest.mark.parametrize("path", ["/metrics", "/prom"])
    def test_prometheus_flask_exporter(self, path: str) -> None:
        """Its own page stops the start at the kit's path, and is told at another."""
        app, guard = flask()
        app.post("/predict")(predict)
        PrometheusMetrics(app, path=path, registry=CollectorRegistry())

        if path == "/metrics":
            assert "route of the app, made by prometheus_flask_exporter; choose" in stopped(guard)
        else:
            guard.check()
            (said,) = Coverage(guard.service.settings, guard.routes()).other_pages()
            assert said.startswith("/prom shows the metrics of prometheus_flask_exporter")


class Exporter:
    """A middleware that answers Prometheus itself, as asgi-prometheus's does."""

    def __init__(self, app: Any, metrics_url: str = "/metrics") -> None:
        self.app = app
        self.metrics_url = metrics_url

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.app(scope, receive, send)


async def dispatch(request: Any, call_next: Any) -> Any:
    return await call_next(request)


class TestAroundFastAPI:
    def test_nothing(self) -> None:
        """Middleware that is added to the app stands inside, whenever it came."""
        app, guard = fast()
        app.post("/predict")(predict)
        app.add_middleware(CORSMiddleware)
        app.add_middleware(BaseHTTPMiddleware, dispatch=dispatch)

        assert list(guard.around()) == []
        with TestClient(app):
            assert list(guard.around()) == []

    def test_a_layer(self) -> None:
        """What is put around the built middleware is named, by its function if that decides."""
        app, guard = fast()
        app.post("/predict")(predict)
        with TestClient(app):
            app.middleware_stack = CORSMiddleware(app.middleware_stack)  # type: ignore[arg-type]
            app.middleware_stack = BaseHTTPMiddleware(app.middleware_stack, dispatch)
            app.middleware_stack = Exporter(app.middleware_stack, "/prom")

            found = list(guard.around())

        assert found == [
            Around(f"{__name__}.Exporter", "/prom"),
            Around(f"{__name__}.dispatch", None),
        ]

    def test_socket_io(self) -> None:
        """Socket.IO's app around the built middleware is named with its path."""
        socketio = pytest.importorskip("socketio", reason="python-socketio is not installed")
        app, guard = fast()
        app.post("/predict")(predict)
        with TestClient(app):
            server = socketio.AsyncServer(async_mode="asgi")
            app.middleware_stack = socketio.ASGIApp(server, app.middleware_stack)

            assert list(guard.around()) == [Around("socketio.asgi.ASGIApp", "/socket.io")]

    @pytest.mark.parametrize("options", [{}, {"metrics_url": "/prom"}], ids=["default", "given"])
    def test_middleware_that_answers_prometheus(self, options: dict[str, str]) -> None:
        """The kit's page would hide that of a middleware: where both have one path, none starts."""
        app, guard = fast()
        app.post("/predict")(predict)
        app.add_middleware(Exporter, **options)

        if options:
            guard.check()
        else:
            assert f"{__name__}.Exporter answers there too; choose another" in stopped(guard)

    def test_a_mounted_exporter(self) -> None:
        """A page that is mounted where the kit's is stops the start, and is told elsewhere."""
        app, guard = fast()
        app.post("/predict")(predict)
        app.mount("/prom", make_asgi_app(CollectorRegistry()))

        guard.check()
        (said,) = Coverage(guard.service.settings, guard.routes()).other_pages()
        app.mount("/metrics", make_asgi_app(CollectorRegistry()))

        assert said.startswith("/prom shows the metrics of prometheus_client")
        assert "route of the app, made by prometheus_client" in stopped(guard)

    def test_instrumentator(self) -> None:
        """The instrumentator's page stops the start at the kit's path."""
        app, guard = fast()
        app.post("/predict")(predict)
        Instrumentator(registry=CollectorRegistry()).instrument(app).expose(app)

        assert "made by prometheus_fastapi_instrumentator; choose another" in stopped(guard)

    def test_starlette_exporter(self) -> None:
        """starlette_exporter's page does too."""
        exporter = pytest.importorskip(
            "starlette_exporter", reason="starlette_exporter is not installed"
        )
        app, guard = fast()
        app.post("/predict")(predict)
        app.add_middleware(exporter.PrometheusMiddleware)
        app.add_route("/metrics", exporter.handle_metrics)

        assert "made by starlette_exporter; choose another" in stopped(guard)
