"""A FastAPI service that knows nothing of its guard; the Flask twin answers the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from mlguard_fastapi import MLGuard


class Rows(BaseModel):
    instances: list[list[float]]


def bare() -> FastAPI:
    app = FastAPI()
    router = APIRouter(prefix="/v1")

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.post("/predict")
    async def predict(rows: Rows) -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in rows.instances]}

    @app.post("/twice")
    async def twice(rows: Rows) -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in rows.instances] * 2}

    @app.post("/broken")
    async def broken(rows: Rows) -> None:
        raise HTTPException(503)

    @app.post("/echo")
    async def echo(request: Request) -> dict[str, Any]:
        body = await request.body()
        return {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}

    @router.get("/items/{item}")
    def item(item: str) -> dict[str, str]:
        return {"item": item}

    @app.get("/boom")
    def boom() -> None:
        raise RuntimeError("secret feature value 42")

    @app.get("/stream")
    def stream() -> StreamingResponse:
        def chunks() -> Iterator[bytes]:
            yield from (b"one ", b"two ", b"three")

        return StreamingResponse(chunks(), media_type="text/plain")

    app.include_router(router)
    return app


def guarded(settings: Any) -> FastAPI:
    app = bare()
    guard = MLGuard(app, settings)

    @app.get("/me")
    async def me() -> dict[str, str | None]:
        caller = guard.caller()
        return {"subject": caller.subject if caller else None}

    @app.get("/me/public")
    async def nobody() -> dict[str, bool]:
        return {"nobody": guard.caller() is None}

    @app.post("/own")
    async def own(rows: Rows) -> dict[str, list[float]]:
        async with guard.inference("own", rows.instances) as call:
            call.version = "4-canary"
            call.predictions = [sum(row) for row in rows.instances]
        return {"predictions": call.predictions}

    @app.post("/own/sync")
    def own_sync(rows: Rows) -> dict[str, list[float]]:
        with guard.inference("own", rows.instances) as call:
            call.predictions = [sum(row) for row in rows.instances]
        return {"predictions": call.predictions}

    return app
