"""How is a body posted within a time that no server can stretch?"""

from __future__ import annotations

import gzip
import io
import socket
import ssl
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from mlguard import __version__
from mlguard.tracing.variables import Receiver, basic

_MOST_ANSWER = 64 * 1024  # bytes of an answer that are read, to keep its connection
_HEADERS = {
    "content-type": "application/x-protobuf",
    "user-agent": f"mlguard/{__version__}",
}


class PostResult(NamedTuple):
    """What a receiver answered.

    Attributes:
        status: The HTTP status.
        retry_after: Seconds after which it wants to be asked again, None where it says nothing.
    """

    status: int
    retry_after: float | None = None


class Poster:
    """Posts to one receiver, by one thread at a time; another may stop it at any moment."""

    def __init__(self, receiver: Receiver, timer: Callable[[], float] = time.monotonic) -> None:
        self._receiver = receiver
        self._timer = timer
        self._connection: HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._deadline = 0.0
        self._is_stopped = False
        self._headers = {**_HEADERS, **receiver.headers}
        self._target = ""

    def post(self, body: bytes, seconds: float) -> PostResult:
        """Post a body.

        Name resolution is the system's, which takes its own time.

        Raises:
            OSError: The receiver was not reached, or not in time.
            HTTPException: What it answered is no HTTP.
        """
        self._deadline = self._timer() + seconds
        body = self._compressed(body)
        is_kept = self._connection is not None and self._connection.sock is not None
        try:
            return self._ask(body)
        except TimeoutError:
            raise
        except (OSError, HTTPException):
            if not is_kept:
                raise
        return self._ask(body)  # a kept connection may have been closed meanwhile

    def stop(self) -> None:
        """Post nothing any more, and end what another thread is posting."""
        self._is_stopped = True
        found = self._socket
        if found is not None:
            with suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)

    def _ask(self, body: bytes) -> PostResult:
        try:
            connection = self._connected()
            connection.request("POST", self._target, body, self._headers)
            with connection.getresponse() as response:
                answer = PostResult(response.status, _retry_after(response))
                is_whole = len(response.read(_MOST_ANSWER)) < _MOST_ANSWER
        except BaseException:
            self._drop()
            raise
        if not is_whole:
            self._drop()
        return answer

    def _connected(self) -> HTTPConnection:
        if self._connection is None:
            self._connection = self._made()
        connection = self._connection
        connection.timeout = self._left()
        if connection.sock is None:
            connection.connect()
        self._socket = connection.sock
        connection.sock.settimeout(self._left())
        return connection

    def _made(self) -> HTTPConnection:
        to = self._receiver
        url = urlsplit(to.url)
        self._target = url._replace(scheme="", netloc="").geturl() or "/"
        proxy = urlsplit(to.proxy)
        user, _, place = proxy.netloc.rpartition("@")
        credentials = {"Proxy-Authorization": basic(user)} if user else {}
        host, port = (proxy.hostname, proxy.port) if place else (url.hostname, url.port)
        connection: Any
        if url.scheme == "https":
            connection = HTTPSConnection(host or "", port, context=_trust(to))
            if place:
                connection.set_tunnel(url.hostname, url.port or 443, credentials)
        else:
            connection = HTTPConnection(host or "", port)
            if place:
                self._target = to.url
                self._headers |= credentials
        connection.response_class = partial(_Response, self._left)
        connection._create_connection = self._dialled  # so that `stop` ends a connect as well
        made: HTTPConnection = connection
        return made

    def _dialled(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Connect as socket.create_connection does, within the time that is left in all."""
        error: OSError = OSError("no address")
        for family, kind, protocol, _name, place in socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM
        ):
            opened = socket.socket(family, kind, protocol)
            self._socket = opened
            try:
                opened.settimeout(self._left())
                opened.connect(place)
            except OSError as failed:
                opened.close()
                error = failed
            else:
                return opened
        raise error

    def _left(self) -> float:
        left = self._deadline - self._timer()
        if left <= 0 or self._is_stopped:
            raise TimeoutError("no time left")
        return left

    def _drop(self) -> None:
        connection, self._connection, self._socket = self._connection, None, None
        if connection is not None:
            connection.close()

    close = _drop

    def _compressed(self, body: bytes) -> bytes:
        if self._receiver.compression == "none":
            return body
        self._headers["content-encoding"] = self._receiver.compression
        if self._receiver.compression == "gzip":
            return gzip.compress(body, compresslevel=6)
        return zlib.compress(body)


class _Response(HTTPResponse):
    """An answer that is read within the time that is left in all, not anew for each byte."""

    def __init__(self, left: Callable[[], float], sock: socket.socket, *args: Any, **more: Any):
        super().__init__(sock, *args, **more)
        raw = self.fp.detach()  # which keeps the socket open
        self.fp = io.BufferedReader(_Bounded(left, sock, raw))


class _Bounded(io.RawIOBase):
    def __init__(self, left: Callable[[], float], sock: socket.socket, raw: io.RawIOBase) -> None:
        self._left = left
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


def _trust(receiver: Receiver) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=receiver.certificate)
    if receiver.client_certificate:
        context.load_cert_chain(receiver.client_certificate, receiver.client_key)
    return context


def _retry_after(response: HTTPResponse) -> float | None:
    """Read Retry-After where it says seconds (RFC 9110 section 10.2.3)."""
    text = (response.getheader("retry-after") or "").strip()
    return float(text) if text.isdecimal() and len(text) < 6 else None
