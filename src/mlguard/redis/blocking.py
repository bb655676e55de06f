"""How is a server asked by a thread that waits?"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from redis.connection import Connection, SSLConnection

from mlguard.places import Node, Place
from mlguard.redis.asks import Answer, Ask, Command, Steps, Unreachable
from mlguard.redis.clocks import Clocks
from mlguard.redis.links import MOST_IDLE, REFUSALS, options, refusal, unreachable


class BlockingPool:
    """Connections of this process, each used by one thread at a time.

    Args:
        place: What the URL says.
        clocks: The clocks of the servers.
    """

    def __init__(self, place: Place, clocks: Clocks) -> None:
        self._place = place
        self._clocks = clocks
        self._pid = os.getpid()
        self._names = _Names()
        self._idle: dict[Node, deque[Any]] = defaultdict(deque)

    def drive(self, steps: Steps) -> Any:
        """Do what the steps ask for, and return what they return."""
        try:
            ask = next(steps)
            while True:
                try:
                    answer = self.ask(ask)
                except Unreachable as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    def ask(self, ask: Ask) -> Answer:
        """Ask a server; an `Unreachable` where it does not answer in time."""
        if self._pid != os.getpid():
            # What a parent made is the parent's.
            self._pid, self._names, self._idle = os.getpid(), _Names(), defaultdict(deque)
        try:
            link = self._idle[ask.node].pop()
        except IndexError:
            return self._ask_anew(ask)
        try:
            return self._exchange(link, ask)
        except Unreachable as error:
            if error.is_late:
                raise
            # The server was restarted: all that is old is useless.
            _close_all(self._idle.pop(ask.node, ()))
        return self._ask_anew(ask)

    def close(self) -> None:
        """Let the connections go."""
        idle, self._idle = self._idle, defaultdict(deque)
        for links in idle.values():
            _close_all(links)

    def _ask_anew(self, ask: Ask) -> Answer:
        kind: Any = _Secure if self._place.is_encrypted else _Plain
        link = kind(**options(self._place, ask.node))
        link.until, link.names = ask.until, self._names
        try:
            link.connect()
        except Exception as error:  # noqa: BLE001 - the package raises of all kinds
            link.disconnect()
            raise unreachable(error) from None
        if not ask.node.is_sentinel:
            answer = _exchange(link, [("TIME",)])
            try:
                self._clocks.greet(ask.node, answer)
            except Unreachable:
                link.disconnect()
                raise
        return self._exchange(link, ask)

    def _exchange(self, link: Any, ask: Ask) -> Answer:
        link.until = ask.until
        answer = _exchange(link, ask.commands(self._clocks.deadline(ask.node, ask.until)))
        idle = self._idle[ask.node]
        if len(idle) < MOST_IDLE:
            idle.append(link)
        else:
            link.disconnect()
        return answer


def _close_all(links: Any) -> None:
    while links:
        links.pop().disconnect()


def _exchange(link: Any, commands: Sequence[Command]) -> Answer:
    sent = time.monotonic()
    try:
        link.send_packed_command(link.pack_commands(commands), check_health=False)
        replies = [_reply(link) for _ in commands]
    except Exception as error:  # noqa: BLE001 - a junk answer is one of any kind
        link.disconnect()
        raise unreachable(error) from None
    except BaseException:
        link.disconnect()
        raise
    return Answer(replies, sent, time.monotonic())


def _reply(link: Any) -> Any:
    try:
        return link.read_response()
    except REFUSALS as error:
        return refusal(error)


class _Bare(Connection):
    """Connects in time, however many addresses a name has and however long they are looked up.

    Attributes:
        until: The end of that time, by time.monotonic.
        names: Looks addresses up.
    """

    until: float
    names: _Names

    def _connect(self) -> socket.socket:
        return self.names.connected(self.host, self.port, self.until)


class _Hurried:
    """A connection whose sends and receives end together at one moment."""

    until: float

    def _connect(self) -> Any:
        return _Socket(super()._connect(), self)  # type: ignore[misc]


class _Plain(_Hurried, _Bare):
    """Speaks without TLS."""


class _Secure(_Hurried, SSLConnection, _Bare):
    """Speaks with TLS."""


class _Socket:
    """A socket that waits no longer than its connection may."""

    def __init__(self, sock: Any, link: _Hurried) -> None:
        self._sock = sock
        self._link = link

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def recv(self, *args: Any) -> bytes:
        """Receive in time."""
        self._sock.settimeout(_left(self._link.until))
        return bytes(self._sock.recv(*args))

    def recv_into(self, *args: Any) -> int:
        """Receive in time."""
        self._sock.settimeout(_left(self._link.until))
        return int(self._sock.recv_into(*args))

    def sendall(self, data: Any) -> None:
        """Send in time."""
        self._sock.settimeout(_left(self._link.until))
        self._sock.sendall(data)


class _Names:
    """Looks up addresses in threads, as nothing else ends in time; once at a time for each name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sought: dict[tuple[str, int], Future[list[Any]]] = {}

    def connected(self, host: str, port: int, until: float) -> socket.socket:
        """Connect to the first address that answers; an OSError where none does in time."""
        addresses = self._looked_up(host, port, until)
        failure: OSError = OSError("no address")
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(_left(until) / (len(addresses) - number))
                sock.connect(address)
                sock.settimeout(_left(until))
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            except OSError as error:
                sock.close()
                failure = error
            else:
                return sock
        raise failure

    def _looked_up(self, host: str, port: int, until: float) -> list[Any]:
        try:
            return socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
            )
        except socket.gaierror:
            pass
        name = (host, port)
        with self._lock:
            sought = self._sought.get(name)
            if sought is None:
                sought = self._sought[name] = Future()
                threading.Thread(target=_look_up, args=(name, sought), daemon=True).start()
        try:
            return sought.result(_left(until))
        finally:
            if sought.done():
                self._sought.pop(name, None)


def _look_up(name: tuple[str, int], found: Future[list[Any]]) -> None:
    try:
        found.set_result(socket.getaddrinfo(*name, type=socket.SOCK_STREAM))
    except Exception as error:  # noqa: BLE001 - whoever waits is told
        found.set_exception(error)


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
