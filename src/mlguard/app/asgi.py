"""How does a request pass an ASGI server's channels? Its first and its last byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from mlguard.app.asgi_messages import (
    EXCHANGE,
    ASGIApp,
    Message,
    Receive,
    Scope,
    Send,
    header,
    is_scrape,
    refusal,
    to_call,
    to_response,
)
from mlguard.app.drivers import adrive
from mlguard.app.service import Service
from mlguard.call_ids import HEADER
from mlguard.errors import MLGuardError
from mlguard.guard import Exchange, Guard, reset
from mlguard.tracing import attach, detach

HASTE = 0.005
"""Seconds in which no client is expected to leave: asking whether it did costs a little."""

PATIENCE = 1.0
"""Seconds for which the head of a stream waits for its first byte, which may be a refusal's."""

REDIRECTS = (301, 307, 308)
"""How routers answer a path that lacks its last slash."""

DRAINED = 64 * 1024
"""Bytes of a refused body that a server may read to keep the connection, as gunicorn does."""

_NAMES = {name: name.lower().encode() for name in ("RateLimit-Policy", "RateLimit", HEADER)}
_KEPT_HEADERS = (
    b"access-control-",
    b"vary",
)  # of an answer that is replaced: browsers read it then
_CLOSE = (b"connection", b"close")
_WITH_CONNECTIONS = ("1.0", "1.1")  # a field of these, which later versions forbid


class ASGIMiddleware:
    """The outermost layer: answers the scrape, opens and closes the exchange.

    Args:
        app: All of the app's middleware.
        service: Whose guard watches.
        start: Starts what runs beside the requests.
    """

    def __init__(self, app: ASGIApp, service: Service, start: Callable[[], None]) -> None:
        self.app = app
        self._service = service
        self._guard = service.guard
        self._path = service.settings.metrics.path
        self._fields = frozenset(name.encode() for name in service.tracing.fields)
        self._key_header = service.guard.parts.key_header.encode()
        self._start = start
        self._defers = opens_spans(app)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the scrape; watch everything else."""
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
            return
        if not self._service.started:
            await asyncio.to_thread(self._start)
        guard = self._guard
        if (known := scope.get(EXCHANGE)) is not None and guard.shares(known):
            with guard.handling(known):
                await self.app(scope, receive, send)
            return
        if scope["path"].endswith(self._path) and is_scrape(scope, self._path):
            await self._expose(scope, send)
            return
        exchange = scope[EXCHANGE] = guard.open(to_call(scope, self._fields, self._key_header))
        channels = _Channels(guard, exchange, scope, receive, send)
        context = None if self._defers else exchange.open_span()
        token = None if context is None else attach(context)
        current = guard.parts.current.set(exchange)
        try:
            if exchange.opened() is None:
                await self.app(scope, channels.receive, channels.send)
            else:
                await to_response(exchange, scope, channels.send)
        except BaseException as error:
            channels.failed(error)
            raise
        finally:
            if not exchange.has_ended:
                await channels.close()
            reset(guard.parts.current, current)
            if token is not None:
                detach(token)

    async def _expose(self, scope: Scope, send: Send) -> None:
        made = self._service.scrape(header(scope, b"accept"))
        page = made.result() if made.done() else await asyncio.wrap_future(made)
        headers = [(n.lower().encode(), v.encode()) for n, v in page.headers]
        await send({"type": "http.response.start", "status": page.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else page.body
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


def opens_spans(app: Any) -> bool:
    """Tell whether OpenTelemetry's middleware stands within, which opens the server spans."""
    while app is not None:
        if type(app).__module__ == "opentelemetry.instrumentation.asgi":
            return True
        app = getattr(app, "app", None)
    return False


class _Channels:
    """The server's two channels while one request lasts: what passes becomes events."""

    __slots__ = (
        "_drops",
        "_ends",
        "_exchange",
        "_guard",
        "_head",
        "_is_whole",
        "_messages",
        "_receive",
        "_receiving",
        "_releasing",
        "_scope",
        "_send",
        "_timer",
        "_unread",
    )

    def __init__(
        self, guard: Guard, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._guard = guard
        self._exchange = exchange
        self._scope = scope
        self._receive = receive
        self._send = send
        self._head: Message | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._releasing: asyncio.Task[None] | None = None
        self._drops = self._ends = False
        self._is_whole = not exchange.call.has_body
        self._receiving = 0
        self._unread: list[Message] = []
        self._messages = [0, 0]

    # ---- from the client

    async def receive(self) -> Message:
        if self._unread:
            message = self._unread.pop(0)
        else:
            self._receiving += 1
            try:
                message = await self._receive()
            finally:
                self._receiving -= 1
        kind = message["type"]
        if kind == "http.request":
            self._is_whole = not message.get("more_body", False)
        elif kind == "http.disconnect":
            if not self._ends:
                self._exchange.left()
        elif kind == "websocket.receive":
            self._messages[0] += 1
        return message

    def _has_left(self) -> bool:
        """Tell whether the client is gone, where the server knows and nobody waits to be told.

        A handler that does not stream never asks. One step of `receive` returns at once where
        there is something to tell, and is given up where there is not.
        """
        if self._receiving or not self._is_whole:
            return False
        for _ in range(2):  # an empty body may come first
            asking: Any = self._receive()
            try:
                asking.send(None)
            except StopIteration as done:
                message: Message = done.value
            except AttributeError:  # a server whose awaitables are no coroutines
                return False
            else:
                asking.close()
                return False
            if message["type"] == "http.disconnect":
                return True
            self._unread.append(message)
        return False

    # ---- to the client

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.body":
            await self._send_body(message)
        elif kind == "http.response.start":
            if self._is_undecided and await self._is_refused_late(message["status"]):
                await self._replace(message)
            else:
                self._hold_head(message)
        elif kind.startswith("websocket."):
            await self._send_websocket(message)
        else:
            if self._head is not None and kind != "http.response.debug":
                await self._send_head()
            if not self._drops:
                await self._send(message)

    @property
    def _is_undecided(self) -> bool:
        """Whether a router answers without a handler: 404, 405, redirects, files."""
        return not self._exchange.decided and self._exchange.dispatched

    async def _is_refused_late(self, status: int = 0) -> bool:
        exchange = self._exchange
        if status in REDIRECTS and exchange.skips_redirect(exchange.call.path):
            return False
        return await adrive(exchange.matched(exchange.unmatched)) is not None

    def _hold_head(self, message: Message) -> None:
        """Keep the head until a byte follows: until then a handler may be refused."""
        self._head = message
        if self._timer is None:
            for name, _ in message["headers"]:
                if name == b"content-length":
                    return  # its bytes are there
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(PATIENCE, self._release_head)

    def _release_head(self) -> None:
        self._releasing = asyncio.ensure_future(self._send_head())

    async def _send_head(self) -> None:
        message, self._head = self._head, None
        if message is None:
            return
        exchange = self._exchange
        if exchange.started(message["status"]) is not None:
            await self._replace(message)
            return
        if headers := exchange.headers:
            message["headers"] = sent = [*message["headers"]]
            for name, value in headers:
                sent.append((_NAMES[name], value.encode()))
        elif exchange.deny is not None:
            self._hang_up(message)
        try:
            await self._send(message)
        except BaseException as error:
            self._unsent(error)
            exchange.unsent()
            raise

    def _hang_up(self, start: Message) -> None:
        """Have a refused client stop sending: servers read to its end what nobody wants.

        RFC 9112 section 9.3: who does not read a body closes the connection.
        """
        if self._is_whole or self._scope.get("http_version") not in _WITH_CONNECTIONS:
            return
        length = self._exchange.call.content_length
        if (length or 0) > DRAINED or header(self._scope, b"transfer-encoding"):
            start["headers"] = [*start["headers"], _CLOSE]

    def _unsent(self, error: BaseException) -> None:
        if isinstance(error, OSError):  # as ASGI says it since 2.4: the client is gone
            self._exchange.left()

    async def _replace(self, message: Message) -> None:
        """Send the refusal in place of what the app answers."""
        exchange = self._exchange
        start, body = refusal(exchange, self._scope, "http.response")
        kept = [(n, v) for n, v in message["headers"] if n.lower().startswith(_KEPT_HEADERS)]
        start["headers"] += kept
        self._hang_up(start)
        if not exchange.has_begun:
            exchange.started(start["status"])
        await self._send(start)
        await self._send_body(body)
        self._drops = True

    async def _send_body(self, message: Message) -> None:
        if self._timer is not None:
            self._timer.cancel()
            if self._releasing is not None:
                await self._releasing
        exchange, more = self._exchange, message.get("more_body", False)
        if self._head is not None:
            if more and not message.get("body"):
                return
            await self._send_head()
        if self._drops:
            return
        if not more:
            if exchange.is_cut:
                self._drops = True  # as if it were whole, whatever a middleware makes of it
                return
            if exchange.seconds >= HASTE and self._has_left():
                exchange.left()
            self._ends = True
        elif message.get("body"):
            exchange.chunk()
        try:
            await self._send(message)
        except BaseException as error:
            self._unsent(error)
            raise
        if not more:
            exchange.ended()

    async def _send_websocket(self, message: Message) -> None:
        kind, exchange = message["type"], self._exchange
        if self._drops:
            return
        # A route without a gate; a socket that is closed before is refused already.
        if kind != "websocket.close" and self._is_undecided and await self._is_refused_late():
            self._drops = True
            await to_response(exchange, self._scope, self._send_refused)
            return
        if kind == "websocket.send":
            self._messages[1] += 1
        elif kind == "websocket.accept":
            exchange.started(101)
        elif kind == "websocket.http.response.start":
            exchange.started(message["status"])
        elif kind == "websocket.close" and not exchange.has_begun:
            exchange.started(403)  # what a server makes of it before it was accepted
        await self._send(message)

    async def _send_refused(self, message: Message) -> None:
        if not self._exchange.has_begun:
            self._exchange.started(message.get("status", 403))
        await self._send(message)

    # ---- at the end

    def failed(self, error: BaseException) -> None:
        """Take note of what the app raised, or that it was stopped as its client left."""
        self._head = None  # no byte followed: the server answers
        if isinstance(error, self._guard.parts.departures):
            self._exchange.left()
        else:
            self._exchange.failed(error)

    async def close(self) -> None:
        """End what is open."""
        if self._timer is not None:
            self._timer.cancel()
        if self._head is not None and not self._exchange.has_ended:
            await self._send_head()
        if self._exchange.call.is_websocket:
            self._exchange.exchanged(*self._messages)
        self._exchange.closed()
