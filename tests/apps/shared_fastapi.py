"""A FastAPI service whose models share routes, as they were before anybody guarded them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from mlguard_fastapi import MLGuard


def _predictions(rows: Any) -> list[Any]:
    return [sum(row) if isinstance(row, list) else row for row in rows]


def bare() -> FastAPI:
    app = FastAPI()

    @app.post("/models/{name}/predict")
    async def by_path(name: str, request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"model": name, "predictions": _predictions(body["instances"])}

    @app.post("/ask")
    @app.post("/chat")
    @app.post("/v1/chat")
    async def by_name(request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"predictions": _predictions(body["instances"])}

    @app.post("/both")
    async def both(request: Request) -> dict[str, Any]:
        body = await request.json()
        return {key: _predictions(body[key]) for key in ("left", "right") if key in body}

    return app


def guarded(settings: Any) -> FastAPI:
    app = bare()
    guard = MLGuard(app, settings)

    @app.post("/handler/{name}")
    async def handler(name: str) -> dict[str, Any]:
        async with guard.inference(name, [[1.0, 2.0]]) as call:
            call.predictions = [3.0]
        return {"predictions": call.predictions}

    return app
