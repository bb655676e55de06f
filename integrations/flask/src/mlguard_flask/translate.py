"""How do WSGI's words and the core's correspond?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Any

from flask import Response
from werkzeug.exceptions import ClientDisconnected, RequestEntityTooLarge
from werkzeug.wsgi import get_input_stream

from mlguard.guard import Exchange
from mlguard.messages import Call

Environ = dict[str, Any]
WSGI = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

EXCHANGE = "mlguard.exchange"
"""Where a request's exchange stands in its environ."""

ROOT = "mlguard.root"
"""Where the outermost guarded app is mounted, by the server."""

PREFIX = "mlguard.prefix"
"""Where the app is mounted in an app that is guarded around it; missing where there is none."""

STREAMED = "mlguard.streamed"
"""Whether the answer's bytes come while the server sends them."""

FAILED = "mlguard.failed"
"""The exception that Flask turned into a 500, None where there was none."""


def to_call(environ: Environ) -> Call:
    """Read a request; WSGI has joined doubled headers with commas."""
    authorization = environ.get("HTTP_AUTHORIZATION")
    forwarded = environ.get("HTTP_X_FORWARDED_FOR")
    length = environ.get("CONTENT_LENGTH") or ""
    return Call(
        method=environ["REQUEST_METHOD"],
        peer=environ.get("REMOTE_ADDR") or "",
        forwarded=(forwarded,) if forwarded else (),
        authorization=(authorization,) if authorization is not None else (),
        user_agent=environ.get("HTTP_USER_AGENT", ""),
        content_length=int(length) if length.isascii() and length.isdigit() else None,
        query=environ.get("QUERY_STRING", ""),
    )


def to_response(exchange: Exchange) -> Response:
    """Write the refusal."""
    status, headers, body = exchange.answer()
    return Response(body, status=status, headers=list(headers))


def read_body(environ: Environ, limit: int) -> bytes | None:
    """Read the whole body and leave it to the handler; None where it is larger than the limit."""
    chunks: list[bytes] = []
    size = 0
    try:
        stream = get_input_stream(environ, max_content_length=limit + 1)
        while chunk := stream.read(65536):
            chunks.append(chunk)
            size += len(chunk)
            if size > limit:
                return None
        environ["wsgi.input_terminated"] = True
    except RequestEntityTooLarge:
        return None
    except ClientDisconnected:
        # The handler finds fewer bytes than announced, as it would have without us.
        environ["wsgi.input_terminated"] = False
    body = b"".join(chunks)
    environ["wsgi.input"] = BytesIO(body)
    return body


def is_scrape(environ: Environ, path: str) -> bool:
    """Tell Prometheus's request, below whatever the app is mounted at."""
    return environ["PATH_INFO"] == path and environ["REQUEST_METHOD"] in ("GET", "HEAD")
