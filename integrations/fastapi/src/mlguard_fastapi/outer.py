"""What happens at the first and at the last byte?"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard.errors import MLGuardError
from mlguard.guard import Exchange
from mlguard_fastapi.translate import EXCHANGE, to_call

if TYPE_CHECKING:
    from mlguard_fastapi.guard import MLGuard


class Outer:
    """The outermost layer: answers the scrape, opens and closes the exchange.

    Args:
        app: All of the app's middleware.
        guard: Whose service watches.
    """

    def __init__(self, app: ASGIApp, guard: MLGuard) -> None:
        self.app = app
        self._guard = guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the scrape; watch everything else."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif EXCHANGE in scope:  # a guarded app mounted in a guarded app is watched once
            await self.app(scope, receive, send)
        elif self._is_scrape(scope):
            await self._expose(scope, send)
        else:
            await self._watch(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._guard.started:
            await asyncio.to_thread(self._guard.start)
        exchange = self._guard.service.guard.open(to_call(scope))
        scope[EXCHANGE] = exchange
        watched = _Watched(exchange, receive, send)
        try:
            await self.app(scope, watched.receive, watched.send)
        finally:
            watched.end()

    def _is_scrape(self, scope: Scope) -> bool:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return False
        path: str = scope["path"]
        return (
            path.removeprefix(scope.get("root_path", ""))
            == self._guard.service.settings.metrics.path
        )

    async def _expose(self, scope: Scope, send: Send) -> None:
        if not self._guard.started:
            await asyncio.to_thread(self._guard.start)
        accept = next((v for n, v in scope["headers"] if n == b"accept"), b"").decode("latin-1")
        status, kind, text = await asyncio.to_thread(self._guard.service.expose, accept)
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else text
        await send({"type": "http.response.body", "body": body})

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Start with the app and stop with it; what is wrong fails the start with one message."""
        wrong: MLGuardError | None = None

        async def starting(message: Message) -> None:
            nonlocal wrong
            if message["type"] == "lifespan.startup.complete":
                try:
                    await asyncio.to_thread(self._guard.start)
                except MLGuardError as error:
                    wrong = error
                    raise
            elif message["type"] == "lifespan.startup.failed" and wrong is not None:
                message = {**message, "message": str(wrong)}  # in place of a traceback
            await send(message)

        try:
            await self.app(scope, receive, starting)
        finally:
            await asyncio.to_thread(self._guard.service.close)


class _Watched:
    """The server's two channels while one request lasts."""

    def __init__(self, exchange: Exchange, receive: Receive, send: Send) -> None:
        self._exchange = exchange
        self._receive = receive
        self._send = send
        self._status = 500
        self._left = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] in ("http.disconnect", "websocket.disconnect"):
            self._left = True
        return message

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("http.response.start", "websocket.http.response.start"):
            self._status = message["status"]
            self._add_headers(message)
        await self._send(message)
        if kind == "websocket.accept":
            self._exchange.close(101)
        elif kind == "http.response.body" and not message.get("more_body", False):
            self._exchange.close(self._status)

    def end(self) -> None:
        """Close what is open: the client left, the app failed, the handshake was refused."""
        deny = self._exchange.deny
        status = deny.status if deny else 499 if self._left else self._status
        self._exchange.close(status)

    def _add_headers(self, message: Message) -> None:
        if self._exchange.deny is None and self._exchange.headers:
            ours = [(n.lower().encode(), v.encode()) for n, v in self._exchange.headers]
            message["headers"] = [*message.get("headers", ()), *ours]
