"""What does a server span say?

The attributes of opentelemetry-instrumentation-fastapi and -flask with the stable conventions
(https://opentelemetry.io/docs/specs/semconv/http/http-spans/), the same on each framework. Where
the packages and the conventions disagree, the conventions hold; tests list where.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from mlguard.messages import Call

LONGEST_PATH = 1024  # characters
LONGEST = 256  # characters of what else a client wrote
_LONGEST_METHOD = 64
_LONGEST_QUERY = 4096  # characters of which the names are looked for
_METHODS = {
    method: method
    for method in (
        "CONNECT",
        "DELETE",
        "GET",
        "HEAD",
        "OPTIONS",
        "PATCH",
        "POST",
        "PUT",
        "QUERY",
        "TRACE",
    )
}
_OTHER = "_OTHER"
_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_PARAMETERS = re.compile("[^&]+").finditer
# RFC 3986 section 3.2: a name or an IPv4 address, an IPv6 address in brackets; a port.
_HOST = re.compile(
    r"(?:([A-Za-z0-9._~%!$&'()*+,;=-]+)|\[([0-9A-Fa-f:.]+(?:%[^\]]*)?)\])(?::([0-9]{0,5}))?"
).fullmatch
# https://opentelemetry.io/docs/specs/semconv/registry/attributes/user-agent/
_SYNTHETIC = {"alwayson": "test", "googlebot": "bot", "bingbot": "bot"}


def span_name(call: Call, template: str = "") -> str:
    """Name a server span: the method, and the route where one matched."""
    if call.is_websocket:
        method = "WS"
    else:
        method = _METHODS.get(call.method) or _METHODS.get(
            call.method[:_LONGEST_METHOD].upper(), "HTTP"
        )
    return f"{method} {template}" if template else method


def server_attributes(call: Call, client: str) -> dict[str, Any]:
    """Tell what is known of a request when it begins, each value within a bound.

    Args:
        call: The request.
        client: Its address, found through trusted proxies; "" where nobody says.
    """
    scheme = call.scheme
    said: dict[str, Any] = {"url.scheme": scheme}
    if call.is_websocket:
        said["network.protocol.name"] = "websocket"
    else:
        _say_method(said, call.method)
        if call.protocol:
            said["network.protocol.version"] = call.protocol[:LONGEST]
    address = (_address(call.host) if call.host else None) or call.server
    if address is not None:
        name, port = address
        said["server.address"] = name
        if port := port or _PORTS.get(scheme):
            said["server.port"] = port
    said["url.path"] = call.path[:LONGEST_PATH]
    if call.query:
        said["url.query"] = redacted(call.query)
    if client:
        said["client.address"] = client
        # Behind a proxy, the peer's port is the proxy's.
        if call.peer_port and (client == call.peer or not call.forwarded):
            said["client.port"] = call.peer_port
    if call.user_agent:
        agent = said["user_agent.original"] = call.user_agent[:LONGEST]
        lower = agent.lower()
        for name, kind in _SYNTHETIC.items():
            if name in lower:
                said["user_agent.synthetic.type"] = kind
                break
    return said


def answer_attributes(template: str, status: int | None, error_type: str | None) -> dict[str, Any]:
    """Tell what is known of a request when it ends.

    Args:
        template: The route; "" where none matched.
        status: The answer's, None without one, as a WebSocket has none.
        error_type: The class of the exception, None without one.
    """
    said: dict[str, Any] = {}
    if template:
        said["http.route"] = template
    if status is not None:
        said["http.response.status_code"] = status
        if status >= 500:
            said["error.type"] = str(status)
    if error_type is not None:
        said["error.type"] = error_type
    return said


def redacted(query: str) -> str:
    """Keep the names of a query's parameters, of a bounded length, and none of their values."""
    shown = ""
    for found in _PARAMETERS(query[:_LONGEST_QUERY]):
        name, equals, _ = found[0].partition("=")
        shown += f"&{name}=REDACTED" if equals else "&REDACTED"
        if len(shown) > LONGEST:
            break
    return shown[1 : LONGEST + 1]


def _say_method(said: dict[str, Any], method: str) -> None:
    known = _METHODS.get(method)
    if known is None:
        known = _METHODS.get(method[:_LONGEST_METHOD].upper(), _OTHER)
        said["http.request.method_original"] = method[:_LONGEST_METHOD]
    said["http.request.method"] = known


@lru_cache(256)
def _address(host: str) -> tuple[str, int | None] | None:
    """Split a Host header (RFC 9110 section 7.2); None where it is none."""
    found = _HOST(host[:LONGEST])
    if found is None:
        return None
    name, bracketed, port = found.groups()
    number = int(port) if port else None
    if number is not None and number > 0xFFFF:
        return None
    return (name or bracketed).lower(), number
