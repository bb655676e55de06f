"""What happens at the first and at the last byte?"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlguard.errors import MLGuardError
from mlguard.guard import Exchange
from mlguard.runtime.service import Service
from mlguard.tracing import peer
from mlguard_fastapi.translate import EXCHANGE, is_scrape, peer_of, to_call


class Outer:
    """The outermost layer: answers the scrape, opens and closes the exchange.

    Args:
        app: All of the app's middleware.
        service: Whose guard watches.
        start: Starts what runs beside the requests.
    """

    def __init__(self, app: ASGIApp, service: Service, start: Callable[[], None]) -> None:
        self.app = app
        self._service = service
        self._start = start

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the scrape; watch everything else."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if not self._service.started:
            await asyncio.to_thread(self._start)
        if self._service.guard.shares(scope.get(EXCHANGE)):
            with self._service.guard.handling(scope[EXCHANGE]):
                await self.app(scope, receive, send)
        elif is_scrape(scope, self._service.settings.metrics.path):
            await self._expose(scope, send)
        else:
            await self._watch(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        guard = self._service.guard
        exchange = scope[EXCHANGE] = guard.open(to_call(scope))
        watched = _Watched(exchange, receive, send)
        try:
            with peer(trusted=guard.proxies.trusts(peer_of(scope))):
                await self.app(scope, watched.receive, watched.send)
        finally:
            watched.end()

    async def _expose(self, scope: Scope, send: Send) -> None:
        accept = next((v for n, v in scope["headers"] if n == b"accept"), b"").decode("latin-1")
        status, kind, text = await asyncio.to_thread(self._service.expose, accept)
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
                    await asyncio.to_thread(self._start)
                except MLGuardError as error:
                    wrong = error
                    raise
            elif message["type"] == "lifespan.startup.failed" and wrong is not None:
                message = {**message, "message": str(wrong)}  # in place of a traceback
            elif message["type"].startswith("lifespan.shutdown"):
                # Before the server hears of it: then the process ends.
                await asyncio.to_thread(self._service.close)
            await send(message)

        await self.app(scope, receive, starting)


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
        elif kind == "websocket.close":
            self._exchange.close(403)  # what a server makes of it before it was accepted
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
