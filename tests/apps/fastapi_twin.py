"""A FastAPI service that knows nothing of its guard; the Flask twin answers the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import (
    APIRouter,
    BackgroundTasks,
    FastAPI,
    HTTPException,
    Request,
    WebSocket,
    WebSocketDisconnect,
)
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from mlguard_fastapi import MLGuard
from tests.apps.decorators import forgetful


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


def extended(settings: Any) -> FastAPI:
    """Add what the contract of authentication asks for."""
    app = guarded(settings)
    guard: MLGuard = app.state.mlguard
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_methods=["*"], allow_headers=["*"]
    )
    done: list[str | None] = []
    mounted = {"runs": 0}

    def name() -> str | None:
        caller = guard.caller()
        return caller.subject if caller else None

    @app.get("/whoami")
    async def whoami() -> dict[str, str | None]:
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
    async def own_sum(rows: Rows) -> dict[str, list[float]]:
        async with guard.inference("sum", rows.instances) as call:
            call.predictions = [sum(row) for row in rows.instances]
        return {"predictions": call.predictions}

    @app.get("/revoke")
    async def revoke(jti: str | None = None, subject: str | None = None) -> dict[str, bool]:
        guard.revoke(jti=jti, subject=subject, issuer="https://login.example.com/")
        return {"revoked": True}

    @app.get("/later")
    async def later(tasks: BackgroundTasks) -> dict[str, bool]:
        async def work() -> None:
            async with guard.inference("own", 2) as call:
                call.version = "later"
            done.append(name())

        tasks.add_task(work)
        return {"later": True}

    @app.get("/later/done")
    def later_done() -> dict[str, list[str | None]]:
        return {"callers": done}

    @app.api_route("/head", methods=["GET", "HEAD"])
    def head() -> dict[str, bool]:
        return {"head": True}

    @app.options("/options")
    def options() -> dict[str, bool]:
        return {"options": True}

    async def beside(scope: Scope, receive: Receive, send: Send) -> None:
        mounted["runs"] = 0 if scope["path"].endswith("/reset") else mounted["runs"] + 1
        await JSONResponse({**mounted, "caller": name()})(scope, receive, send)

    app.mount("/mounted", beside)

    @app.websocket("/ws")
    async def ws(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_json({"caller": name()})
        try:
            while True:
                rows = await socket.receive_json()
                async with guard.inference("own", rows) as call:
                    call.predictions = [sum(row) for row in rows]
                await socket.send_json({"predictions": call.predictions})
        except WebSocketDisconnect:
            pass

    @app.websocket("/ws/admin")
    @guard.requires("admin")
    async def ws_admin(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    return app


def limited(settings: Any) -> FastAPI:
    """Add what the contract of limits asks for."""
    app = guarded(settings)
    guard: MLGuard = app.state.mlguard
    app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["*"])

    def is_friend() -> bool:
        caller = guard.caller()
        return caller is not None and caller.subject.startswith("friend")

    def weight(request: Request) -> Any:
        given = request.query_params["cost"]
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

    @app.get("/limited/items/{item}")
    @guard.limit("3/hour")
    def limited_item(item: str) -> dict[str, str]:
        return {"item": item}

    @app.get("/limited/each")
    @app.post("/limited/each")
    @guard.limit("2/hour", per_method=True)
    def each() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/limited/posts")
    @app.post("/limited/posts")
    @guard.limit("2/hour", methods=["post"])
    def posts() -> dict[str, bool]:
        return {"ok": True}

    @app.api_route("/limited/head", methods=["GET", "HEAD"])
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

    @app.get("/limited/friends/odd")
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
    def limited_stream() -> StreamingResponse:
        return StreamingResponse(iter([b"one ", b"two"]), media_type="text/plain")

    @app.post("/limited/predict")
    @guard.limit("2/hour")
    async def limited_predict(rows: Rows) -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in rows.instances]}

    for name in ("a", "b"):
        app.get(f"/limited/made/{name}")(make(name))
    router = APIRouter()
    router.get("/limited/twice")(make("twice"))
    for prefix in ("/v1", "/v2"):
        app.include_router(router, prefix=prefix)
    return app
