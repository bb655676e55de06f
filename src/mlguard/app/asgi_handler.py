"""What stands around a handler of an ASGI app? What it is given and what it answers."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Awaitable, Generator, Sequence
from typing import Any

from mlguard.app.asgi_messages import ASGIApp, Message, Receive, Scope, Send, close, to_response
from mlguard.app.drivers import adrive
from mlguard.bodies import PassingBody
from mlguard.guard import BoundRoute, Exchange, HeldAnswer
from mlguard.messages import Cut, Deny
from mlguard.quotas import RouteLimit
from mlguard.tracing import attach, detach


class Handler:
    """What stands around the handlers of routes: none runs undecided.

    Args:
        answers: What a framework raises to answer, and not as something failed.
    """

    def __init__(self, answers: type[Exception]) -> None:
        self._answers = answers

    async def decide(
        self,
        exchange: Exchange,
        bound: BoundRoute,
        limits: Sequence[RouteLimit],
        handle: ASGIApp,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Let a route's handler answer, or answer in its place.

        Args:
            exchange: The request.
            bound: Its route.
            limits: What the handler declares.
            handle: The handler.
            scope: The request's.
            receive: The channel from the client.
            send: The channel to it.
        """
        exchange.request = scope
        body = None
        if bound.model is not None:
            body = Replay(receive, keeps=bound.observes)
            receive = body.receive
        decision = exchange.matched(bound, limits)
        if await adrive(decision, body.read if body else None) is None:
            if body is not None:
                body.passing = exchange.passing
            await self._hand_over(exchange, handle, scope, receive, send)
        else:
            await to_response(exchange, scope, send)

    async def _hand_over(
        self, exchange: Exchange, handle: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Let the handler answer; whatever becomes of a refusal there, it is one here."""
        run, token = exchange.run, None
        sending = ModelAnswer(exchange, scope, send) if run else Begun(send)
        exchange.depth += 1
        if run is not None:
            token = attach(run.context)
        try:
            await handle(scope, receive, sending)
        except Exception as error:
            deny = exchange.refusal_in(error)
            if deny is None:
                if not isinstance(error, self._answers):  # a 405
                    exchange.failed(error)
                raise
            await refuse(exchange, scope, sending, deny, error)
        finally:
            exchange.depth -= 1
            if token is not None:
                detach(token)


class Replay:
    """A request's body, read once for the decision and again by the handler.

    Args:
        receive: The server's.
        keeps: Whether the handler reads what was too large to be read here.

    Attributes:
        passing: Counts what the handler reads; None where nothing does.
    """

    __slots__ = ("_is_whole", "_keeps", "_kept", "_receive", "passing")

    def __init__(self, receive: Receive, *, keeps: bool = False) -> None:
        self._receive = receive
        self._keeps = keeps
        self._is_whole = False
        self.passing: PassingBody | None = None
        self._kept: list[Message] = []

    async def read(self, limit: int, seconds: float) -> bytes | Cut:
        """Read the whole body, of at most so many bytes and in so many seconds."""
        reading: Any = self._read(limit)
        try:
            waiting = reading.send(None)
        except StopIteration as done:  # it was all there
            body: bytes | Cut = done.value
            return body
        try:
            async with asyncio.timeout(seconds):
                return await _resumed(reading, waiting)  # type: ignore[no-any-return]
        except TimeoutError:
            return Cut.TOO_SLOW

    async def _read(self, limit: int) -> bytes | Cut:
        receive, kept = self._receive, self._kept
        size, more = 0, not self._is_whole
        while more and size <= limit:
            message = await receive()
            kept.append(message)
            if message["type"] != "http.request":
                return Cut.LEFT
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        if size > limit:
            if not self._keeps:
                kept.clear()  # nobody reads it
            return Cut.TOO_LARGE
        self._is_whole = True
        if len(kept) == 1:
            return kept[0].get("body", b"")  # type: ignore[no-any-return]
        return b"".join([each.get("body", b"") for each in kept])

    async def receive(self) -> Message:
        """Give the handler what was read, then what comes."""
        message = self._kept.pop(0) if self._kept else await self._receive()
        if self.passing is not None:
            self.passing.feed(message.get("body", b""))
        return message


class Begun:
    """A `send` that knows whether anything was sent.

    Args:
        send: The one below.
    """

    __slots__ = ("_send", "has_begun")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.has_begun = False

    def __call__(self, message: Message) -> Awaitable[None]:
        """Pass a message on."""
        self.has_begun = True
        return self._send(message)


async def refuse(
    exchange: Exchange, scope: Scope, send: Begun, deny: Deny, error: Exception
) -> None:
    """Answer for a handler that may not go on; what has begun to leave is cut off."""
    if not exchange.has_begun:
        if not send.has_begun:
            exchange.refuse(deny)
            await to_response(exchange, scope, send)
            return
        if scope["type"] == "http":
            exchange.replace(deny)
            await send({"type": "http.response.body", "body": b""})
            return
    exchange.cut_off(deny)
    if scope["type"] != "websocket":
        raise error
    await close(deny, send)


class ModelAnswer(Begun):
    """What a model's handler answers, on its way out: read, where the settings say so."""

    __slots__ = ("_drops", "_exchange", "_held", "_messages", "_scope", "_status")

    def __init__(self, exchange: Exchange, scope: Scope, send: Send) -> None:
        super().__init__(send)
        self._exchange = exchange
        self._scope = scope
        self._status = 200
        self._held: HeldAnswer | None = None
        self._drops = False
        self._messages: list[Message] = []

    async def __call__(self, message: Message) -> None:
        """Pass a message on; the last one ends the route's inference."""
        kind = message["type"]
        if self._drops:
            return
        if kind == "http.response.start":
            self._status = message["status"]
            if self._exchange.passing is not None and await self._withhold():
                return
            self._held = self._exchange.held_answer(*_kind(message["headers"]))
            if self._held is not None:
                self._messages = [message]
                return
        elif kind == "http.response.body":
            more = message.get("more_body", False)
            if self._held is not None:
                self._messages.append(message)
                if await self._keep(message, more=more):
                    return
            elif not more:
                self._exchange.end_run(self._status)
        for kept in self._messages or (message,):
            self.has_begun = True
            await self._send(kept)
        self._messages = []

    async def _keep(self, message: Message, *, more: bool) -> bool:
        """Read what is held once it is whole; say whether nothing of it is to be sent."""
        held, self._held = self._held, None
        if held is None or not held.add(message.get("body", b"")):
            if not more:
                self._exchange.end_run(self._status)
            return False
        if more:
            self._held = held
            return True
        withheld = await adrive(held.settle(self._status))
        if withheld is not None:
            await self._refuse(withheld)
        return withheld is not None

    async def _withhold(self) -> bool:
        """Have the rows of a passing body paid for; say whether the answer is withheld."""
        withheld = await adrive(self._exchange.settle_passing(self._status))
        self._drops = withheld is not None
        if withheld is not None:
            await self._refuse(withheld)
        return self._drops

    async def _refuse(self, withheld: Deny) -> None:
        self._exchange.refuse(withheld)
        await to_response(self._exchange, self._scope, self._send)


def _kind(headers: Any) -> tuple[str, int | None]:
    """Read the type and the length of an answer."""
    kind, length = "", None
    for name, value in headers:
        if name == b"content-type":
            kind = value.decode("latin-1")
        elif name == b"content-length":
            length = int(value)
    return kind, length


@types.coroutine
def _resumed(begun: Any, waiting: Any) -> Generator[Any, Any, Any]:
    """Await what was begun by hand, and waits for something."""
    yield waiting
    return (yield from begun)
