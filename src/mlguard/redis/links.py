"""How is one server talked to? Without a word about whether anybody waits for it."""

from __future__ import annotations

import os
import socket
import ssl
import time
import weakref
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, TypeAlias

from mlguard.ledger import StoreUnavailable
from mlguard.redis.resp import Command, Replies, packed

LATE = "no answer in time"
PIECE = 64 * 1024  # bytes that are received at once

_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}
_TRUE = ("1", "true", "yes")


class Unreachable(StoreUnavailable):
    """A server did not answer.

    Args:
        reason: In plain words, without a secret.
        is_late: Whether all the time was spent.
        was_sent: Whether it was sent what it was asked, and so may have done it.
    """

    def __init__(self, reason: str, *, is_late: bool = False, was_sent: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.is_late = is_late
        self.was_sent = was_sent


class Talk(NamedTuple):
    """Asks a carrier to send something and then to receive something, which it sends back.

    Attributes:
        sock: Through which socket, which never blocks.
        data: What to send.
        until: When it is too late, by time.monotonic; then an `Unreachable` is thrown in.
    """

    sock: socket.socket
    data: bytes
    until: float


class Wait(NamedTuple):
    """Asks a carrier to wait for a connection, which it sends back.

    Attributes:
        ready: The connection.
        until: When it is too late, by time.monotonic; then an `Unreachable` is thrown in.
    """

    ready: Future[Link]
    until: float


Steps: TypeAlias = "Generator[Talk | Wait, Any, Any]"
"""What is to be done with sockets, one after another; returns what comes of it."""


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        replies: One for each command; an ErrorReply where it is an error.
        sent: When the commands left, by time.monotonic.
        received: When all replies were there.
    """

    replies: Sequence[Any]
    sent: float
    received: float


class Link:
    """A connection to one server, used by one at a time, whether that waits or awaits.

    Args:
        sock: The socket.
        tls: What makes TLS of it.
        host: Whom the certificate must name.
    """

    def __init__(self, sock: socket.socket, tls: ssl.SSLContext | None, host: str) -> None:
        self._sock = sock
        self._replies = Replies()
        self._reading = self._replies.read(0)
        self._came, self._leaves = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if tls is not None:
            self._tls = tls.wrap_bio(self._came, self._leaves, server_hostname=host)
        # Not `__del__`, before which a socket of the same garbage may complain of being open.
        weakref.finalize(self, sock.close).atexit = False

    def shake_hands(self, until: float) -> Steps:
        """Agree upon TLS, where it is spoken."""
        if self._tls is None:
            return
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._came.write((yield from self._talk(self._leaves.read(), until)))
            else:
                return

    def exchange(self, commands: Sequence[Command], until: float) -> Steps:
        """Send commands and return their answer; an `Unreachable` where there is none."""
        self._reading, sent = self._replies.read(len(commands)), time.monotonic()
        next(self._reading)
        replies = yield from self._read(packed(commands), until)
        return Answer(replies, sent, time.monotonic())

    def rest(self, until: float) -> Steps:
        """Return the replies that come too late for an exchange that was given up."""
        return (yield from self._read(b"", until))

    @property
    def is_usable(self) -> bool:
        """Whether it is open, and nobody said anything unasked."""
        self._sock.setblocking(False)
        try:
            unasked = self._sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        # With TLS a server may hand out tickets at any time.
        return bool(unasked) and self._tls is not None

    @property
    def is_quiet(self) -> bool:
        """Whether all that came was read."""
        return self._replies.is_read

    def close(self) -> None:
        """Let it go without a goodbye, for which one might have to wait."""
        self._sock.close()

    def _read(self, data: bytes, until: float) -> Steps:
        try:
            while True:
                self._reading.send((yield from self._receive(data, until)))
                data = b""
        except StopIteration as read:
            return read.value
        except ValueError:
            raise Unreachable("it does not answer as Redis does") from None

    def _receive(self, data: bytes, until: float) -> Steps:
        if self._tls is None:
            return (yield from self._talk(data, until))
        if data:
            self._tls.write(data)
        while True:
            try:
                if read := self._tls.read(PIECE):
                    return read
            except ssl.SSLWantReadError:
                self._came.write((yield from self._talk(self._leaves.read(), until)))
            else:
                raise Unreachable("it closed the connection")

    def _talk(self, data: bytes, until: float) -> Steps:
        received = yield Talk(self._sock, data, until)
        if not received:
            raise Unreachable("it closed the connection")
        return received


def tls_context(options: Mapping[str, str]) -> ssl.SSLContext:
    """Make what TLS is spoken with; an authority that is named replaces the system's."""
    demand = options.get("ssl_cert_reqs", "required")
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
    checks = options.get("ssl_check_hostname", str(demand == "required")).lower() in _TRUE
    context.check_hostname = checks and demand != "none"
    context.verify_mode = _VERIFY[demand]
    if "ssl_certfile" in options:
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


def unreachable(error: Exception) -> Unreachable:
    """Say what went wrong, in words that hold nothing of what was sent or set."""
    if isinstance(error, Unreachable):
        return error
    if isinstance(error, TimeoutError):
        return Unreachable(LATE, is_late=True)
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(f"its certificate is not trusted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return Unreachable("it does not speak TLS as it should")
    if isinstance(error, socket.gaierror | UnicodeError):
        return Unreachable("its name is not known")
    if isinstance(error, OSError) and error.errno:
        return Unreachable(os.strerror(error.errno))
    return Unreachable("it closed the connection")
