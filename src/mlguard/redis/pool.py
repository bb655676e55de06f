"""Which connections are there, and who gets one?"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from mlguard import forks
from mlguard.redis import waits
from mlguard.redis.clocks import Clocks
from mlguard.redis.links import Answer, Link, Steps, Unreachable, Wait, tls_context, unreachable
from mlguard.redis.resp import Command, ErrorReply
from mlguard.redis_url import Node, RedisURL

_MOST_IDLE = 32
_MOST_OPENING = 8  # of one server at a time
_MOST_LATE = 32  # whose answers are waited for although nobody does any longer
_OPENING = 5.0  # seconds
_LATE = 30.0


class Pool:
    """Connections of this process, shared by all of its threads and event loops.

    They are made by threads of their own, in their own time: who needs one waits for it no longer
    than for an answer, and finds it ready the next time.

    Args:
        place: What the URL says.
        clocks: The clocks of the servers.
    """

    def __init__(self, place: RedisURL, clocks: Clocks) -> None:
        self._place = place
        self._clocks = clocks
        self._tls: ssl.SSLContext | None = None
        self._idle: dict[Node, deque[Link]] = {}
        self._begin()
        forks.in_child(self, Pool._begin)

    def ask(
        self,
        node: Node,
        commands: Callable[[str], Sequence[Command]],
        until: float,
        late: Callable[[Sequence[Any]], None] | None = None,
    ) -> Steps:
        """Ask one server, in one round trip, and return its `Answer`.

        Args:
            node: The server.
            commands: Makes the commands, given the time by the server's clock until which they
                count, in microseconds.
            until: When the answer is late, by time.monotonic.
            late: Told, in some thread, the replies that came when nobody waited any longer.

        Raises:
            Unreachable: It did not answer in time.
        """
        link = self._idle_one(node)
        if link is None:
            link = yield from self._opened(node, until)
        elif not self._idle[node] and not node.is_sentinel:
            self._open_ahead(node)  # who comes meanwhile need not wait
        asked = commands(self._clocks.deadline(node, until))
        try:
            answer = yield from link.exchange(asked, until)
        except Unreachable as error:
            if error.is_late and late is not None:
                self._hear_late(link, late)
            else:
                link.close()
                self._drop(node)
            raise Unreachable(error.reason, is_late=error.is_late, was_sent=True) from None
        except BaseException:
            link.close()
            raise
        self._give(node, link)
        return answer

    def close(self) -> None:
        """Let the connections go."""
        self._is_closed = True
        for node in list(self._idle):
            self._drop(node)

    def _begin(self) -> None:
        """Begin, also in a fork's child: what a parent made is the parent's."""
        for node in list(self._idle):
            self._drop(node)
        self._lock, self._making = threading.Lock(), threading.Lock()
        self._idle = defaultdict(deque)
        self._waiting: dict[Node, deque[Future[Link]]] = defaultdict(deque)
        self._opening: dict[Node, int] = defaultdict(int)
        self._late = 0
        self._is_closed = False

    def _idle_one(self, node: Node) -> Link | None:
        idle = self._idle[node]
        while idle:
            try:
                link = idle.pop()
            except IndexError:
                break
            if link.is_usable:
                return link
            link.close()
        return None

    def _opened(self, node: Node, until: float) -> Steps:
        """Wait for a connection: a new one, or one that others do not need any longer."""
        ready: Future[Link] = Future()
        with self._lock:
            self._waiting[node].append(ready)
            is_needed = self._opening[node] < min(len(self._waiting[node]), _MOST_OPENING)
            self._opening[node] += is_needed
        if is_needed:
            threading.Thread(target=self._open, args=(node,), daemon=True).start()
        try:
            return (yield Wait(ready, until))
        except BaseException:
            if not ready.cancel() and ready.exception() is None:  # it came at this moment
                self._give(node, ready.result())
            raise

    def _open_ahead(self, node: Node) -> None:
        with self._lock:
            is_needed = not self._opening[node] and not self._is_closed
            self._opening[node] += is_needed
        if is_needed:
            threading.Thread(target=self._open, args=(node,), daemon=True).start()

    def _open(self, node: Node) -> None:
        link: Link | None = None
        try:
            tls = self._context()
            sock = socket.create_connection((node.host, node.port), _OPENING)
            link = Link(sock, tls, node.host)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            waits.drive(self._greet(link, node, time.monotonic() + _OPENING))
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            if link is not None:
                link.close()
            self._fail(node, unreachable(error))
        else:
            self._give(node, link)
        finally:
            with self._lock:
                self._opening[node] -= 1

    def _context(self) -> ssl.SSLContext | None:
        if not self._place.is_encrypted:
            return None
        with self._making:
            self._tls = self._tls or tls_context(self._place.options)
            return self._tls

    def _greet(self, link: Link, node: Node, until: float) -> Steps:
        yield from link.shake_hands(until)
        commands = greeting(self._place, node)
        if not commands:
            return
        answer: Answer = yield from link.exchange(commands, until)
        for reply in answer.replies:
            if isinstance(reply, ErrorReply):
                raise Unreachable(reply.reason)
        if not node.is_sentinel:
            self._clocks.greet(node, answer)

    def _give(self, node: Node, link: Link) -> None:
        """Give a connection to who waits for one, or keep it."""
        with self._lock:
            waiting, idle = self._waiting[node], self._idle[node]
            is_kept = link.is_quiet and not self._is_closed
            while is_kept and waiting:
                ready = waiting.popleft()
                if ready.set_running_or_notify_cancel():
                    ready.set_result(link)
                    return
            if is_kept and len(idle) < _MOST_IDLE:
                idle.append(link)
                return
        link.close()

    def _fail(self, node: Node, error: Unreachable) -> None:
        """Tell all who wait for a connection that there is none."""
        with self._lock:
            waiting = self._waiting.pop(node, deque())
        for ready in waiting:
            if ready.set_running_or_notify_cancel():
                ready.set_exception(Unreachable(error.reason, is_late=error.is_late))

    def _drop(self, node: Node) -> None:
        """Close what is idle: where one connection broke, the server was restarted."""
        idle = self._idle.pop(node, deque())
        while idle:
            idle.pop().close()

    def _hear_late(self, link: Link, late: Callable[[Sequence[Any]], None]) -> None:
        """Have an answer read that nobody waits for any longer."""

        def hear() -> None:
            try:
                late(waits.drive(link.rest(time.monotonic() + _LATE)))
            except Unreachable:
                pass
            finally:
                link.close()
                with self._lock:
                    self._late -= 1

        with self._lock:
            is_heard = self._late < _MOST_LATE
            self._late += is_heard
        if not is_heard:
            link.close()
            return
        threading.Thread(target=hear, daemon=True).start()


def greeting(place: RedisURL, node: Node) -> list[Command]:
    """Return what a new connection says first."""
    options = place.options
    commands: list[Command] = []
    user, password = options.get("username"), options.get("password")
    if node.knows_password and (user or password):
        commands.append(("AUTH", *([user] if user else []), password or ""))
    if node.is_sentinel:
        return commands
    if options.get("db", "0") not in ("", "0"):
        commands.append(("SELECT", options["db"]))
    if name := options.get("client_name"):
        commands.append(("CLIENT", "SETNAME", name))
    return [*commands, ("TIME",)]
