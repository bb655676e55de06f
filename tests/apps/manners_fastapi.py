"""A FastAPI service with manners of its own: pages for people, browsers, its own errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse

from mlguard_fastapi import MLGuard

EXPOSED = ["RateLimit", "RateLimit-Policy", "Retry-After", "MLGuard-Call-ID", "WWW-Authenticate"]


def bare() -> FastAPI:
    app = FastAPI()
    app.add_middleware(
        CORSMiddleware,
        allow_origins=["https://app.example.com"],
        allow_methods=["POST"],
        allow_headers=["Authorization", "Content-Type"],
        expose_headers=EXPOSED,
    )
    mounted = FastAPI()

    @mounted.get("/page")
    async def mounted_page() -> str:
        return "mounted"

    @app.get("/private/")
    @app.get("/ui/")
    @app.get("/ui/page")
    async def page() -> str:
        return "page"

    @app.get("/uix")
    async def beside() -> str:
        return "beside"

    @app.get("/files/{path:path}")
    async def files(path: str) -> str:
        return path

    @app.post("/ui/predict")
    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"predictions": [sum(row) for row in body["instances"]]}

    app.mount("/ui/app", mounted)
    app.mount("/ui/plain", PlainTextResponse("plain"))
    return app


def guarded(settings: Any) -> tuple[FastAPI, MLGuard]:
    app = bare()
    guard = MLGuard(app, settings)

    @app.get("/admin")
    @guard.requires("admin")
    async def admin() -> str:
        return "admin"

    @app.get("/limited")
    @guard.limit("1/hour")
    async def limited() -> str:
        return "limited"

    @app.post("/own")
    async def own(request: Request) -> dict[str, Any]:
        rows = (await request.json())["instances"]
        async with guard.inference("own", rows) as call:
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    return app, guard
