"""FastAPI apps whose handlers are refused, and which catch whatever they can."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import anyio
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from mlguard_fastapi import MLGuard
from tests.endings.fastapi_app import settings


def guarded() -> FastAPI:
    app = FastAPI()
    guard = MLGuard(app, settings())

    @app.get("/health")
    @app.get("/again")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.get("/spend")
    async def spend() -> dict[str, bool]:
        async with guard.inference("own", 10):
            return {"ok": True}

    views(app, guard)
    groups(app, guard)
    streams(app, guard)
    return app


def views(app: FastAPI, guard: MLGuard) -> None:
    def caught(view: Callable[[], Any]) -> Callable[[], Any]:
        @functools.wraps(view)
        async def catching() -> Any:
            try:
                return await view()
            except Exception as error:
                raise HTTPException(500, "something went wrong") from error

        return catching

    def session() -> Iterator[None]:
        try:
            yield
        except Exception as error:
            raise HTTPException(500, "rolled back") from error

    @app.get("/plain")
    async def plain() -> dict[str, bool]:
        async with guard.inference("own", 1):
            return {"ok": True}

    @app.get("/thread")
    def thread() -> dict[str, bool]:
        with guard.inference("own", 1):
            return {"ok": True}

    @app.get("/decorated")
    @caught
    async def decorated() -> dict[str, bool]:
        return await plain()

    @app.get("/dependency", dependencies=[Depends(session)])
    async def dependent() -> dict[str, bool]:
        return await plain()


def groups(app: FastAPI, guard: MLGuard) -> None:
    async def ask() -> None:
        async with guard.inference("own", 1):
            pass

    @app.get("/group")
    async def group() -> dict[str, bool]:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask())
        return {"ok": True}

    @app.get("/group/anyio")
    async def anyio_group() -> dict[str, bool]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
        return {"ok": True}


def streams(app: FastAPI, guard: MLGuard) -> None:
    async def chunks(before: tuple[bytes, ...]) -> AsyncIterator[bytes]:
        for chunk in before:
            yield chunk
        async with guard.inference("own", 1):
            yield b"two"

    def thread_chunks() -> Iterator[bytes]:
        with guard.inference("own", 1):
            yield b"two"

    @app.get("/stream/unsent")
    async def unsent() -> StreamingResponse:
        return StreamingResponse(chunks(()), media_type="text/plain")

    @app.get("/stream/unsent/thread")
    async def unsent_thread() -> StreamingResponse:
        return StreamingResponse(thread_chunks(), media_type="text/plain")

    @app.get("/stream/empty")
    async def empty() -> StreamingResponse:
        return StreamingResponse(chunks((b"",)), media_type="text/plain")

    @app.get("/stream/sent")
    async def sent() -> StreamingResponse:
        return StreamingResponse(chunks((b"one",)), media_type="text/plain")


async def _own_error(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"error": "own"}, 500)


def catchall() -> FastAPI:
    app = guarded()
    app.add_exception_handler(Exception, _own_error)
    return app


def http_handler() -> FastAPI:
    app = guarded()
    app.add_exception_handler(StarletteHTTPException, _own_error)
    return app


def middleware() -> FastAPI:
    app = guarded()

    @app.middleware("http")
    async def catch(request: Request, call_next: Any) -> Any:
        try:
            return await call_next(request)
        except Exception:  # noqa: BLE001 - what libraries do
            return JSONResponse({"error": "own"}, 500)

    return app


class Switch:
    """Serves each app below its name, as a server of its own would."""

    def __init__(self, apps: dict[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        name, _, rest = scope["path"][1:].partition("/")
        path = {"path": f"/{rest}", "raw_path": f"/{rest}".encode()}
        await self._apps[name]({**scope, **path}, receive, send)


async def _live(receive: Receive, send: Send) -> None:
    for said in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{said}.complete"})


app = Switch(
    {
        "plain": guarded(),
        "catchall": catchall(),
        "http_handler": http_handler(),
        "middleware": middleware(),
    }
)
