"""A guarded FastAPI app with every way to end; `flask_app` is its twin."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, WebSocket
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard_fastapi import MLGuard
from tests.endings import gates


class Rows(BaseModel):
    instances: list[list[float]]


class Below:
    """Puts a BaseHTTPMiddleware around the requests under one prefix only."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._below = app, BaseHTTPMiddleware(app, dispatch=_pass_on)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        below = scope["type"] == "http" and scope["path"].startswith("/below")
        await (self._below if below else self._app)(scope, receive, send)


async def _pass_on(request: Any, call_next: Any) -> Any:
    return await call_next(request)


class Deaf:
    """A server whose `send` fails: at the answer's beginning, or after its first bytes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fails = {"/deaf/start": "http.response.start", "/deaf/body": "http.response.body"}
        failing = fails.get(scope.get("path", ""))

        async def failing_send(message: Message) -> None:
            if message["type"] == failing:
                raise OSError("the transport is closed")
            await send(message)

        await self._app(scope, receive, failing_send if failing else send)


def settings() -> Any:
    return json.loads(Path(os.environ["ENDINGS_SETTINGS"]).read_text())


def build(prepare: Callable[[FastAPI], object] | None = None) -> FastAPI:
    """Build the app, prepared by something before the guard comes."""
    app = FastAPI()
    if prepare is not None:
        prepare(app)
    MLGuard(app, settings())
    app.add_middleware(Below)
    answers(app)
    streams(app)
    sockets(app)
    app.mount("/mounted", mounted())
    return app


def answers(app: FastAPI) -> None:
    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/again")
    @app.api_route("/ok", methods=["GET", "HEAD"])
    async def ok() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/aborted")
    async def aborted() -> None:
        raise HTTPException(409)

    @app.get("/broken")
    async def broken() -> None:
        raise LookupError("secret-42")

    @app.get("/slow")
    async def slow(gate: str) -> dict[str, bool]:
        await gates.await_(gate)
        return {"ok": True}

    @app.get("/slow/thread")
    def slow_thread(gate: str) -> dict[str, bool]:
        gates.wait(gate)
        return {"ok": True}

    @app.post("/predict")
    async def predict(rows: Rows) -> dict[str, list[float]]:
        if not rows.instances[0]:
            raise LookupError("secret-42")
        return {"predictions": [sum(row) for row in rows.instances]}

    @app.get("/deaf/start")
    @app.get("/deaf/body")
    async def deaf() -> dict[str, bool]:
        return {"ok": True}


def streams(app: FastAPI) -> None:
    async def held(gate: str) -> AsyncIterator[bytes]:
        yield b"one"
        await gates.await_(gate)
        yield b"two"

    async def endless(gate: str) -> AsyncIterator[bytes]:
        yield b"one"
        await gates.await_(gate)
        async for block in gates.aflood():
            yield block

    async def failing(before: tuple[bytes, ...]) -> AsyncIterator[bytes]:
        for chunk in before:
            yield chunk
        raise LookupError("secret-42")

    async def closing(gate: str) -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await gates.await_(gate)
            async for block in gates.aflood() if "-left-" in gate else _nothing():
                yield block
        finally:
            yield b"two"

    @app.get("/stream")
    @app.get("/below/stream")
    async def stream(gate: str) -> StreamingResponse:
        return StreamingResponse(held(gate), media_type="text/plain")

    @app.get("/endless")
    @app.get("/below/endless")
    async def endlessly(gate: str) -> StreamingResponse:
        return StreamingResponse(endless(gate), media_type="text/plain")

    @app.get("/closing")
    async def closes(gate: str) -> StreamingResponse:
        return StreamingResponse(closing(gate), media_type="text/plain")

    @app.get("/fails/late")
    async def late() -> StreamingResponse:
        return StreamingResponse(failing((b"one",)), media_type="text/plain")

    @app.get("/fails/first")
    async def first() -> StreamingResponse:
        return StreamingResponse(failing(()), media_type="text/plain")

    @app.get("/fails/empty")
    async def empty() -> StreamingResponse:
        return StreamingResponse(failing((b"",)), media_type="text/plain")


async def _nothing() -> AsyncIterator[bytes]:
    for block in ():
        yield block


def sockets(app: FastAPI) -> None:
    @app.websocket("/ws/{room}")
    async def echo(socket: WebSocket, room: str) -> None:
        await socket.accept()
        async for text in socket.iter_text():
            if text == "break":
                raise LookupError("secret-42")
            await socket.send_text(text)

    @app.websocket("/closed/{room}")
    async def refused(socket: WebSocket, room: str) -> None:
        await socket.close()


def mounted() -> FastAPI:
    app = FastAPI()

    @app.get("/items/{item}")
    async def item(item: str) -> dict[str, str]:
        return {"item": item}

    return app
