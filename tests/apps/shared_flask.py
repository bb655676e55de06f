"""A Flask service whose models share routes, as they were before anybody guarded them."""

from __future__ import annotations

from typing import Any

from flask import Flask, request

from mlguard_flask import MLGuard


def _predictions(rows: Any) -> list[Any]:
    return [sum(row) if isinstance(row, list) else row for row in rows]


def bare() -> Flask:
    app = Flask(__name__)

    @app.post("/models/<name>/predict")
    def by_path(name: str) -> dict[str, Any]:
        return {"model": name, "predictions": _predictions(request.get_json()["instances"])}

    @app.post("/ask")
    @app.post("/chat")
    @app.post("/v1/chat")
    def by_name() -> dict[str, Any]:
        return {"predictions": _predictions(request.get_json()["instances"])}

    @app.post("/both")
    def both() -> dict[str, Any]:
        body = request.get_json()
        return {key: _predictions(body[key]) for key in ("left", "right") if key in body}

    return app


def guarded(settings: Any) -> Flask:
    app = bare()
    guard = MLGuard(app, settings)

    @app.post("/handler/<name>")
    def handler(name: str) -> dict[str, Any]:
        with guard.inference(name, [[1.0, 2.0]]) as call:
            call.predictions = [3.0]
        return {"predictions": call.predictions}

    return app
