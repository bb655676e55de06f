"""How do ASGI's words and the core's correspond?"""

from __future__ import annotations

from contextvars import ContextVar

from starlette.types import Message, Receive, Scope, Send

from mlguard.guard import Exchange
from mlguard.messages import Call, Deny

EXCHANGE = "mlguard.exchange"
"""Where a request's exchange stands in its scope."""

HANDLED: ContextVar[Scope | None] = ContextVar("mlguard_handled", default=None)
"""The scope of the request that is being handled: no handler need name a parameter for it."""


def to_call(scope: Scope) -> Call:
    """Read a request or handshake; headers may be missing, doubled or no UTF-8."""
    found: dict[bytes, list[str]] = {b"authorization": [], b"x-forwarded-for": []}
    single: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        if name in found:
            found[name].append(value.decode("latin-1"))
        elif name in (b"content-length", b"user-agent"):
            single[name] = value.decode("latin-1")
    length = single.get(b"content-length", "")
    return Call(
        method=scope.get("method", "GET"),
        peer=peer_of(scope),
        forwarded=tuple(found[b"x-forwarded-for"]),
        authorization=tuple(found[b"authorization"]),
        user_agent=single.get(b"user-agent", ""),
        content_length=int(length) if length.isascii() and length.isdigit() else None,
        query=scope.get("query_string", b"").decode("latin-1"),
    )


def peer_of(scope: Scope) -> str:
    """Tell who opened the connection, "" where the server does not say."""
    client = scope.get("client")
    return client[0] if client else ""


def is_scrape(scope: Scope, path: str) -> bool:
    """Tell Prometheus's request, below whatever the app is mounted at."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    asked: str = scope["path"]
    return asked.removeprefix(scope.get("root_path", "")) == path


async def to_response(exchange: Exchange, scope: Scope, send: Send) -> None:
    """Send the refusal; a WebSocket gets it in the handshake, else close code 1008."""
    status, headers, body = exchange.answer()
    raw = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            if exchange.deny:
                await close(exchange.deny, send)
            return
    if scope.get("method") == "HEAD":
        body = b""
    await send({"type": f"{kind}.start", "status": status, "headers": raw})
    await send({"type": f"{kind}.body", "body": body})


async def close(deny: Deny, send: Send) -> None:
    """End a WebSocket for a reason that its client can tell apart (RFC 6455 section 7.4.1)."""
    await send({"type": "websocket.close", "code": 1008, "reason": deny.code})


class Replay:
    """A request's body, read once for the decision and again by the handler.

    Args:
        receive: The server's.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._kept: list[Message] = []

    async def read(self, limit: int) -> bytes | None:
        """Read the whole body; None where it is larger than so many bytes."""
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await self._receive()
            self._kept.append(message)
            more = message["type"] == "http.request" and message.get("more_body", False)
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                return None
        return b"".join(chunks)

    async def receive(self) -> Message:
        """Give the handler what was read, then what comes."""
        return self._kept.pop(0) if self._kept else await self._receive()
