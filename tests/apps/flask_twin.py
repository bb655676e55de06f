"""A Flask service that knows nothing of its guard; the FastAPI twin answers the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Flask, Response, abort, request

from mlguard_flask import MLGuard


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


def guarded(settings: Any) -> Flask:
    app = bare()
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
