"""A Flask service that knows nothing of its guard; the FastAPI twin answers the same."""

from __future__ import annotations

import contextvars
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

from flask import Blueprint, Flask, Response, abort, request
from flask_cors import CORS
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from mlguard_flask import MLGuard
from tests.apps.decorators import forgetful


def _rows() -> list[list[float]]:
    body = request.get_json()
    rows = body.get("instances") if isinstance(body, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, list) for r in rows):
        abort(400)
    if not all(isinstance(v, int | float) for row in rows for v in row):
        abort(400)
    return rows


def bare() -> Flask:
    app = Flask(__name__)
    blueprint = Blueprint("v1", __name__, url_prefix="/v1")

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/predict")
    def predict() -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in _rows()]}

    @app.post("/twice")
    def twice() -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in _rows()] * 2}

    @app.post("/broken")
    def broken() -> None:
        _rows()
        abort(503)

    @app.post("/echo")
    def echo() -> dict[str, Any]:
        body = request.stream.read()
        return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

    @blueprint.get("/items/<item>")
    def item(item: str) -> dict[str, str]:
        return {"item": item}

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("secret feature value 42")

    @app.get("/stream")
    def stream() -> Response:
        def chunks() -> Iterator[bytes]:
            yield from (b"one ", b"two ", b"three")

        return Response(chunks(), mimetype="text/plain")

    app.register_blueprint(blueprint)
    return app


def guarded(settings: Any, app: Flask | None = None) -> Flask:
    app = app or bare()
    guard = MLGuard(app, settings)

    @app.get("/me")
    def me() -> dict[str, str | None]:
        caller = guard.caller()
        return {"subject": caller.subject if caller else None}

    @app.get("/me/public")
    def nobody() -> dict[str, bool]:
        return {"nobody": guard.caller() is None}

    @app.post("/own")
    async def own() -> dict[str, list[float]]:
        rows = _rows()
        async with guard.inference("own", rows) as call:
            call.version = "4-canary"
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    @app.post("/own/sync")
    def own_sync() -> dict[str, list[float]]:
        rows = _rows()
        with guard.inference("own", rows) as call:
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    return app


def extended(settings: Any) -> Flask:
    """Add what the contract of authentication asks for."""
    app = bare()
    mounted = {"runs": 0}
    done: list[str | None] = []

    def beside(environ: Any, start_response: Any) -> Any:
        mounted["runs"] = 0 if environ["PATH_INFO"].endswith("/reset") else mounted["runs"] + 1
        return jsonify_bytes({**mounted, "caller": name()})(environ, start_response)

    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/mounted": beside})  # type: ignore[method-assign]
    app = guarded(settings, app)
    guard: MLGuard = app.extensions["mlguard"]
    CORS(app)

    def name() -> str | None:
        caller = guard.caller()
        return caller.subject if caller else None

    @app.get("/whoami")
    def whoami() -> dict[str, str | None]:
        caller = guard.caller()
        assert caller is not None
        return {"issuer": caller.issuer, "subject": caller.subject, "tenant": caller.tenant}

    @app.get("/admin")
    @guard.requires("admin")
    async def admin() -> dict[str, bool]:
        return {"admin": True}

    @app.get("/admin/sync")
    @app.get("/health/admin")
    @guard.requires("admin")
    def admin_sync() -> dict[str, bool]:
        return {"admin": True}

    @app.get("/admin/odd")
    @forgetful
    @guard.requires("admin")
    def admin_odd() -> dict[str, bool]:
        return {"admin": True}

    @app.post("/own/sum")
    def own_sum() -> dict[str, list[float]]:
        rows = _rows()
        with guard.inference("sum", rows) as call:
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    @app.get("/revoke")
    def revoke() -> dict[str, bool]:
        wanted = request.args
        guard.revoke(
            jti=wanted.get("jti"),
            subject=wanted.get("subject"),
            issuer="https://login.example.com/",
        )
        return {"revoked": True}

    @app.get("/later")
    def later() -> dict[str, bool]:
        def work() -> None:
            with guard.inference("own", 2) as call:
                call.version = "later"
            done.append(name())

        # A thread that is given the request's context variables, as asyncio.to_thread does.
        threading.Thread(target=contextvars.copy_context().run, args=(work,)).start()
        return {"later": True}

    @app.get("/later/done")
    def later_done() -> dict[str, list[str | None]]:
        return {"callers": done}

    @app.get("/head")
    def head() -> dict[str, bool]:
        return {"head": True}

    @app.route("/options", methods=["OPTIONS"])
    def options() -> dict[str, bool]:
        return {"options": True}

    return app


def limited(settings: Any) -> Flask:
    """Add what the contract of limits asks for."""
    app = guarded(settings)
    guard: MLGuard = app.extensions["mlguard"]
    CORS(app)

    def is_friend() -> bool:
        caller = guard.caller()
        return caller is not None and caller.subject.startswith("friend")

    def weight() -> Any:
        given = request.args["cost"]
        return int(given) if given.lstrip("-").isdigit() else given

    def make(name: str) -> Callable[[], dict[str, str]]:
        @guard.limit("2/hour")
        def made() -> dict[str, str]:
            return {"made": name}

        return made

    @app.get("/limited")
    @guard.limit("3/hour")
    async def plain() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/sync")
    @guard.limit("3/hour")
    def sync() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/odd")
    @forgetful
    @guard.limit("3/hour")
    def odd() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/open")
    @guard.limit("3/hour")
    def anyone() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/crowd")
    @guard.limit("10/hour")
    def crowd() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/windows")
    @guard.limit("5/hour;3 per 2 hours")
    def windows() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/stacked")
    @guard.limit("3/hour", cost=2)
    @guard.limit("3/hour")
    def stacked() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/items/<item>")
    @guard.limit("3/hour")
    def limited_item(item: str) -> dict[str, str]:
        return {"item": item}

    @app.route("/limited/each", methods=["GET", "POST"])
    @guard.limit("2/hour", per_method=True)
    def each() -> dict[str, bool]:
        return {"ok": True}

    @app.route("/limited/posts", methods=["GET", "POST"])
    @guard.limit("2/hour", methods=["post"])
    def posts() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/head")
    @guard.limit("2/hour", per_method=True, methods=["GET"])
    def limited_head() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/weighed")
    @guard.limit("10/hour", cost=weight)
    def weighed() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/friends")
    @guard.limit("2/hour", exempt_when=is_friend)
    def friends() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/friends/odd", endpoint="odd friends")
    @forgetful
    @guard.limit("2/hour", exempt_when=is_friend)
    def odd_friends() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/told")
    @guard.limit(lambda: "2/hour;100/day", error_message="Two an hour, please.")
    def told() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/admin")
    @guard.limit("2/hour")
    @guard.requires("admin")
    def limited_admin() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/stream")
    @guard.limit("2/hour")
    def limited_stream() -> Response:
        return Response(iter([b"one ", b"two"]), mimetype="text/plain")

    @app.post("/limited/predict")
    @guard.limit("2/hour")
    async def limited_predict() -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in _rows()]}

    for name in ("a", "b"):
        app.get(f"/limited/made/{name}", endpoint=f"made {name}")(make(name))
    blueprint = Blueprint("twice", __name__)
    blueprint.get("/limited/twice", endpoint="twice")(make("twice"))
    for prefix in ("/v1", "/v2"):
        app.register_blueprint(blueprint, url_prefix=prefix, name=prefix[1:] + "twice")
    return app


def jsonify_bytes(content: Any) -> Response:
    return Response(json.dumps(content), mimetype="application/json")
