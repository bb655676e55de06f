"""Flask apps whose views are refused, and which catch whatever they can."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import flask_restful
import flask_restx
from flask import Blueprint, Flask, Response, abort, stream_with_context
from flask.views import MethodView
from werkzeug.exceptions import HTTPException

from mlguard_flask import MLGuard
from tests.endings.flask_app import settings


def guarded() -> Flask:
    app = Flask(__name__)
    guard = MLGuard(app, settings())

    @app.get("/health")
    @app.get("/again")
    def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/spend")
    def spend() -> dict[str, bool]:
        with guard.inference("own", 10):
            return {"ok": True}

    views(app, guard)
    streams(app, guard)
    return app


def views(app: Flask, guard: MLGuard) -> None:
    def caught(view: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(view)
        def catching() -> Any:
            try:
                return view()
            except Exception:  # noqa: BLE001 - what libraries do
                abort(500)

        return catching

    def refused() -> dict[str, bool]:
        with guard.inference("own", 1):
            return {"ok": True}

    async def ask() -> None:
        async with guard.inference("own", 1):
            pass

    class View(MethodView):
        def get(self) -> dict[str, bool]:
            return refused()

    blueprint = Blueprint("own", __name__, url_prefix="/blueprint")

    @blueprint.errorhandler(Exception)
    def own_error(error: Exception) -> tuple[dict[str, str], int]:
        return {"error": "own"}, 500

    app.get("/plain")(refused)
    app.add_url_rule("/class", view_func=View.as_view("class"))
    app.add_url_rule("/decorated", "decorated", caught(refused))
    blueprint.add_url_rule("/plain", "plain", refused)
    app.register_blueprint(blueprint)

    @app.get("/group")
    async def group() -> dict[str, bool]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())
        return {"ok": True}


def streams(app: Flask, guard: MLGuard) -> None:
    def chunks(before: tuple[bytes, ...]) -> Iterator[bytes]:
        yield from before
        with guard.inference("own", 1):
            yield b"two"

    @app.get("/stream/unsent")
    def unsent() -> Response:
        return Response(chunks(()), mimetype="text/plain")

    @app.get("/stream/unsent/context")
    def unsent_in_context() -> Response:
        return Response(stream_with_context(chunks(())), mimetype="text/plain")

    @app.get("/stream/empty")
    def empty() -> Response:
        return Response(chunks((b"",)), mimetype="text/plain")

    @app.get("/stream/sent")
    def sent() -> Response:
        return Response(chunks((b"one",)), mimetype="text/plain")


def _own_error(error: Exception) -> tuple[dict[str, str], int]:
    return {"error": "own"}, 500


def catchall() -> Flask:
    app = guarded()
    app.register_error_handler(Exception, _own_error)
    return app


def http_handler() -> Flask:
    app = guarded()
    app.register_error_handler(HTTPException, _own_error)
    return app


def _resource(app: Flask, kind: Any) -> Any:
    guard: MLGuard = app.extensions["mlguard"]

    class Asked(kind):  # type: ignore[misc]
        def get(self) -> dict[str, bool]:
            with guard.inference("own", 1):
                return {"ok": True}

    return Asked


def restx() -> Flask:
    app = guarded()
    api = flask_restx.Api(app, doc=False)
    api.add_resource(_resource(app, flask_restx.Resource), "/resource")
    return app


def restful() -> Flask:
    app = guarded()
    api = flask_restful.Api(app, catch_all_404s=True)
    api.add_resource(_resource(app, flask_restful.Resource), "/resource")
    return app


class Switch:
    """Serves each app below its name, as a server of its own would."""

    def __init__(self, apps: dict[str, Any]) -> None:
        self._apps = apps

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        name, _, rest = environ["PATH_INFO"][1:].partition("/")
        return self._apps[name]({**environ, "PATH_INFO": f"/{rest}"}, start_response)


app = Switch(
    {
        "plain": guarded(),
        "catchall": catchall(),
        "http_handler": http_handler(),
        "restx": restx(),
        "restful": restful(),
    }
)
