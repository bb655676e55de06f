"""What do ASGI's messages say, and how are ours written?"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from mlguard.guard import Exchange
from mlguard.messages import Call, Deny

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
ASGIApp: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

EXCHANGE = "mlguard.exchange"
"""Where a request's exchange stands in its scope."""

LONGEST_QUERY = 1024 * 1024  # bytes of one that are kept; longer ones are refused

_BODILESS = ("GET", "HEAD", "OPTIONS")
_LONGEST_NUMBER = 20  # digits


def to_call(scope: Scope, fields: frozenset[bytes], key_header: bytes = b"") -> Call:
    """Read a request or handshake; headers may be missing, doubled or no UTF-8.

    Args:
        scope: The request's.
        fields: The names of the headers that continue a trace.
        key_header: The name of the header that carries API keys, b"" for none of its own.
    """
    headers = scope["headers"]
    said = dict(headers)  # of a doubled one, the last
    host = said.get(b"host", b"").decode("latin-1")
    agent = said.get(b"user-agent", b"").decode("latin-1")
    authorization = _each(headers, said, b"authorization")
    forwarded = _each(headers, said, b"x-forwarded-for")
    api_key = _each(headers, said, key_header) if key_header else ()
    carrier = None if fields.isdisjoint(said) else _carrier(headers, said, fields)
    length = said.get(b"content-length", b"")
    announced = int(length[:_LONGEST_NUMBER]) if length.isdigit() else None
    client = scope.get("client")
    is_websocket = scope["type"] == "websocket"
    method = "GET" if is_websocket else scope["method"]
    path, query = scope["path"], scope.get("query_string", b"")
    return Call(
        method,
        path,
        query[:LONGEST_QUERY].decode("latin-1"),
        scope.get("scheme") or ("ws" if is_websocket else "http"),
        host,
        scope.get("server"),
        scope.get("http_version", ""),
        client[0] if client else "",
        client[1] if client else None,
        forwarded,
        authorization,
        agent,
        announced,
        method not in _BODILESS or bool(announced) or b"transfer-encoding" in said,
        len(path) + len(query),
        max(
            map(len, (host, agent, *authorization, *forwarded, *api_key, *(carrier or {}).values()))
        ),
        carrier,
        is_websocket,
        api_key,
        _first(headers, said, b"content-type"),
    )


def _first(headers: Any, said: dict[bytes, bytes], name: bytes) -> str:
    """Read a header; of a doubled one the first, as Starlette does."""
    if name not in said:
        return ""
    if len(said) == len(headers):
        return said[name].decode("latin-1")
    return _each(headers, said, name)[0]


def _each(headers: Any, said: dict[bytes, bytes], name: bytes) -> tuple[str, ...]:
    """Read a header, each time that it was sent."""
    if name not in said:
        return ()
    if len(said) == len(headers):
        return (said[name].decode("latin-1"),)
    return tuple(value.decode("latin-1") for found, value in headers if found == name)


def _carrier(headers: Any, said: dict[bytes, bytes], fields: frozenset[bytes]) -> dict[str, str]:
    """Read what continues a trace, doubled ones joined."""
    names = fields.intersection(said)
    return {n.decode("latin-1"): ",".join(_each(headers, said, n)) for n in names}


def is_scrape(scope: Scope, path: str) -> bool:
    """Tell Prometheus's request, below whatever the app is mounted at."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return False
    asked: str = scope["path"]
    return asked.endswith(path) and asked.removeprefix(scope.get("root_path", "")) == path


def header(scope: Scope, name: bytes) -> str:
    """Read one header, "" without it."""
    return next((v for n, v in scope["headers"] if n == name), b"").decode("latin-1")


async def to_response(exchange: Exchange, scope: Scope, send: Send) -> None:
    """Send the refusal; a WebSocket gets it in the handshake, else close code 1008."""
    kind = "http.response"
    if scope["type"] == "websocket":
        kind = "websocket.http.response"
        if kind not in scope.get("extensions", {}):
            if exchange.deny:
                await close(exchange.deny, send)
            return
    start, body = refusal(exchange, scope, kind)
    await send(start)
    await send(body)


def refusal(exchange: Exchange, scope: Scope, kind: str) -> tuple[Message, Message]:
    """Write the refusal's two messages."""
    status, headers, body = exchange.answer()
    raw = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
    if scope.get("method") == "HEAD":
        body = b""
    start = {"type": f"{kind}.start", "status": status, "headers": raw}
    return start, {"type": f"{kind}.body", "body": body}


async def close(deny: Deny, send: Send) -> None:
    """End a WebSocket for a reason that its client can tell apart (RFC 6455 section 7.4.1)."""
    await send({"type": "websocket.close", "code": 1008, "reason": deny.code})
