"""A Flask service with manners of its own: pages for people, browsers, its own errors."""

from __future__ import annotations

from typing import Any

from flask import Flask, request
from flask_cors import CORS
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.wrappers import Response

from mlguard_flask import MLGuard

EXPOSED = ["RateLimit", "RateLimit-Policy", "Retry-After", "MLGuard-Call-ID", "WWW-Authenticate"]


def bare() -> Flask:
    app = Flask(__name__)
    CORS(
        app,
        origins=["https://app.example.com"],
        methods=["POST"],
        allow_headers=["Authorization", "Content-Type"],
        expose_headers=EXPOSED,
    )
    mounted = Flask("mounted")

    @mounted.get("/page")
    def mounted_page() -> Any:
        return app.json.response("mounted")

    @app.get("/private/", endpoint="private")
    @app.get("/ui/", endpoint="start")
    @app.get("/ui/page")
    def page() -> Any:
        return app.json.response("page")

    @app.get("/uix")
    def beside() -> Any:
        return app.json.response("beside")

    @app.get("/files/<path:path>")
    def files(path: str) -> Any:
        return app.json.response(path)

    @app.post("/ui/predict", endpoint="below")
    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return {"predictions": [sum(row) for row in request.get_json()["instances"]]}

    beside_app = {"/ui/app": mounted, "/ui/plain": Response("plain")}
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, beside_app)  # type: ignore[method-assign]
    return app


def guarded(settings: Any) -> tuple[Flask, MLGuard]:
    app = bare()
    guard = MLGuard(app, settings)

    @app.get("/admin")
    @guard.requires("admin")
    def admin() -> Any:
        return app.json.response("admin")

    @app.get("/limited")
    @guard.limit("1/hour")
    def limited() -> Any:
        return app.json.response("limited")

    @app.post("/own")
    def own() -> dict[str, Any]:
        rows = request.get_json()["instances"]
        with guard.inference("own", rows) as call:
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    return app, guard
