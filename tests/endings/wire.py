"""What does a client get, byte by byte, and how does it leave?"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

_PATIENCE = 12.0  # seconds without a byte after which a client gives up


@dataclass(frozen=True)
class Got:
    """What a client got.

    Attributes:
        status: The HTTP status, 0 where the server broke off before one.
        headers: In order, names in lower case.
        body: The bytes, without the frames of chunks.
        is_whole: Whether the server said that this is the end: by the last chunk or by the length
            that it had announced. None where only the end of the connection can say it.
    """

    status: int = 0
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    is_whole: bool | None = False


class Wire:
    """One connection with one request on it."""

    def __init__(
        self, url: str, method: str, path: str, headers: Mapping[str, str], body: bytes = b""
    ) -> None:
        where = urlsplit(url)
        self._is_head = method == "HEAD"
        self._socket = socket.create_connection((where.hostname, where.port), timeout=_PATIENCE)
        self._raw = b""
        sent = {"Host": where.netloc, "Connection": "close", **headers}
        if body:
            sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", *(f"{n}: {v}" for n, v in sent.items()), "", ""]
        self._socket.sendall("\r\n".join(lines).encode() + body)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def until(self, text: bytes) -> bool:
        """Read until that was sent; False where the server ended before."""
        while text not in self._raw:
            if not self._receive():
                return False
        return True

    def leave(self) -> None:
        """Close the connection, and drop what the server still sends."""
        self._socket.close()

    def reset(self) -> None:
        """Break the connection off, as a client that dies."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def rest(self) -> Got:
        """Read to the end."""
        while self._receive():
            pass
        return self.so_far()

    def so_far(self) -> Got:
        """Say what was sent until now."""
        head, found, body = self._raw.partition(b"\r\n\r\n")
        if not found:
            return Got()
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        headers = [(name.strip().lower(), value.strip()) for name, _, value in pairs]
        return Got(int(first.split()[1]), headers, *self._body(dict(headers), body))

    def _receive(self) -> bytes:
        data = b""
        with contextlib.suppress(OSError):
            data = self._socket.recv(65536)
        self._raw += data
        return data

    def _body(self, headers: Mapping[str, str], body: bytes) -> tuple[bytes, bool | None]:
        if self._is_head:
            return body, True
        if headers.get("transfer-encoding", "").lower() == "chunked":
            return _dechunked(body)
        if "content-length" in headers:
            return body, len(body) == int(headers["content-length"])
        return body, None


def _dechunked(framed: bytes) -> tuple[bytes, bool]:
    body = b""
    while framed:
        size, _, framed = framed.partition(b"\r\n")
        length = int(size or b"0", 16)
        if not length:
            return body, True
        body, framed = body + framed[:length], framed[length + 2 :]
    return body, False
