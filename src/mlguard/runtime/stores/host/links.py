"""How is the host's ledger asked, over one connection?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
import weakref
from itertools import count
from typing import Any, NamedTuple

from mlguard.host.folder import Folder
from mlguard.host.private import verify
from mlguard.host.processes import Process
from mlguard.ledger import StoreUnavailable
from mlguard.runtime.stores.host.wire import (
    CHALLENGE,
    DONE,
    MAX_FRAME,
    MAX_GREETING,
    PROOF,
    SOCKET,
    Frames,
    Junk,
    encode,
    framed,
    is_proven,
    proof,
    read,
    write,
)

_SLACK = 0.02  # seconds in which an answer may come back that was given in time
_CLOSE = 0.01  # seconds that a wait may be longer
_READ = 2**16  # bytes
_MAX_UNSENT = 2**20  # bytes that may wait for a ledger that does not read


class Unsent(ConnectionError):
    """The ledger has left before it was asked."""


class Place(NamedTuple):
    """Where a ledger is asked, and by whom.

    Attributes:
        folder: Where it listens.
        holder: Who holds what is charged in flight.
    """

    folder: Folder
    holder: str

    def reach(self) -> tuple[str, Greeting]:
        """Return the socket's path and what is said first; an OSError says why it is no good."""
        verify(self.folder.path)
        return str(self.folder.path / SOCKET), Greeting(self.folder.authkey(), self.holder)


class Greeting:
    """The worker's part of a greeting.

    Attributes:
        service: The name that the ledger gave; None before it has proved that it is one.
    """

    def __init__(self, key: bytes, holder: str) -> None:
        process = Process.of(os.getpid())
        self._key = key
        self._hello = encode([holder, process.pid, process.started])
        self._ours = os.urandom(CHALLENGE)
        self._theirs = b""
        self.service: str | None = None

    def take(self, frame: bytes) -> bytes:
        """Return what is to be said to a frame; a Junk where it proves nothing."""
        if not self._theirs:
            if len(frame) != CHALLENGE:
                raise Junk("no challenge")
            self._theirs = frame
            proved = proof(self._key, "worker", frame, self._ours + self._hello)
            return framed(self._ours + proved + self._hello)
        given, name = frame[:PROOF], frame[PROOF:]
        if not is_proven(self._key, "ledger", self._ours, self._theirs + name, given):
            raise Junk("a proof that is wrong")
        self.service = name.decode("utf-8", "surrogatepass")
        return b""


class Link:
    """A connection for one call at a time, which blocks.

    Args:
        place: Where, and who asks.
        deadline: When to give up, by the monotonic clock.
    """

    def __init__(self, place: Place, deadline: float) -> None:
        path, greeting = place.reach()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.close = weakref.finalize(self, self._socket.close)
        self._frames = Frames(MAX_GREETING)
        self._numbers = count(1)
        self.is_whole = True
        self._patience = 0.0
        try:
            self._socket.setblocking(False)
            self._socket.connect(path)
            # The kernel keeps the time: a socket with a timeout of Python's waits twice as long
            # to be woken, as it is polled first.
            self._socket.setblocking(True)
            self._wait(deadline)
            while greeting.service is None:
                if reply := greeting.take(self._receive(deadline)):
                    self._socket.sendall(reply)
        except BaseException:
            self.close()
            raise
        self.service = greeting.service
        self._frames.most = MAX_FRAME

    def ask(self, deadline: float, what: str, *arguments: object) -> Any:
        """Return the ledger's answer.

        Raises:
            Unsent: It has left before; nothing was done.
            StoreUnavailable: It cannot do that.
            OSError: Nobody knows; a TimeoutError where it says nothing.
        """
        number = next(self._numbers)
        frame = write([number, deadline, what, *arguments])
        self._wait(deadline + _SLACK)
        self._send(frame)
        while True:
            # What is answered to a call that gave up is of no use to this one.
            answered, how, *rest = read(self._receive(deadline + _SLACK))
            if answered == number:
                return outcome(how, rest)

    def tell(self, what: str) -> None:
        """Say what needs no answer."""
        self._socket.setblocking(False)
        self._socket.sendall(write([0, 0.0, what]))

    def _send(self, frame: bytes) -> None:
        self.is_whole = False
        try:
            sent = self._socket.send(frame)
        except ConnectionError as error:
            raise Unsent("it has left") from error
        except BlockingIOError:
            raise TimeoutError("it does not answer") from None
        # Of a frame that long, part was taken in time, and half a frame is never carried out.
        if sent < len(frame):
            raise TimeoutError("it does not answer")
        self.is_whole = True

    def _receive(self, deadline: float) -> bytes:
        while (frame := self._frames.next()) is None:
            try:
                data = self._socket.recv(_READ)
            except BlockingIOError:
                raise TimeoutError("it does not answer") from None
            if not data:
                self.is_whole = False
                raise ConnectionResetError("it has left")
            self._frames.feed(data)
            if self._frames.is_partial:
                self._wait(deadline)
        return frame

    def _wait(self, deadline: float) -> None:
        """Have sending and receiving wait no longer, give or take a few milliseconds."""
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("it does not answer")
        if not self._patience - _CLOSE <= left <= self._patience:
            self._patience = left + _CLOSE / 2
            seconds = int(self._patience)
            moment = struct.pack("ll", seconds, int((self._patience - seconds) * 1e6))
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, moment)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, moment)


class LoopLink:
    """A connection that all tasks of one event loop share; nothing here blocks.

    It keeps no reference to its loop, which may end without a word.

    Args:
        place: Where, and who asks.
    """

    def __init__(self, place: Place) -> None:
        path, self._greeting = place.reach()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.shut = weakref.finalize(self, self._socket.close)
        self._frames = Frames(MAX_GREETING)
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._unsent = bytearray()
        self._early = bytearray()
        try:
            self._socket.setblocking(False)
            self._socket.connect(path)
            asyncio.get_running_loop().add_reader(self._socket, self._read)
        except BaseException:
            self.shut()
            raise

    @property
    def is_open(self) -> bool:
        """Whether it can be asked."""
        return self.shut.alive

    async def ask(self, deadline: float, what: str, *arguments: object) -> Any:
        """Return the ledger's answer; raises what `Link.ask` does."""
        number = next(self._numbers)
        self._send(write([number, deadline, what, *arguments]))
        loop = asyncio.get_running_loop()
        # Not before it is sent: who is told at once would leave a failed future behind.
        future: asyncio.Future[Any] = loop.create_future()
        self._asked[number] = future
        alarm = loop.call_later(deadline + _SLACK - time.monotonic(), _give_up, future)
        try:
            how, *rest = await future
        finally:
            alarm.cancel()
            self._asked.pop(number, None)
        return outcome(how, rest)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let go of it, in its loop or where that does not run."""
        if self.is_open and not loop.is_closed():
            loop.remove_reader(self._socket)
            loop.remove_writer(self._socket)
        self.shut()
        for future in self._asked.values():
            if not future.done() and not loop.is_closed():
                future.set_exception(ConnectionResetError("it has left"))

    def _send(self, frame: bytes) -> None:
        if not self.is_open:
            raise Unsent("it has left")
        queue = self._early if self._greeting.service is None else self._unsent
        if len(queue) > _MAX_UNSENT:
            raise TimeoutError("it does not answer")
        is_first = not self._unsent
        queue += frame
        if queue is self._unsent and is_first:
            try:
                self._write()
            except OSError as error:
                self.close(asyncio.get_running_loop())
                raise Unsent("it has left") from error

    def _write(self) -> None:
        with contextlib.suppress(BlockingIOError):
            del self._unsent[: self._socket.send(self._unsent)]
        loop = asyncio.get_running_loop()
        if self._unsent:
            loop.add_writer(self._socket, self._on_writable)
        else:
            loop.remove_writer(self._socket)

    def _on_writable(self) -> None:
        try:
            self._write()
        except OSError:
            self.close(asyncio.get_running_loop())

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ)
            if not data:
                raise ConnectionResetError("it has left")
            self._frames.feed(data)
            while (frame := self._frames.next()) is not None:
                self._take(frame)
        except BlockingIOError:
            pass
        except (OSError, Junk):
            self.close(asyncio.get_running_loop())

    def _take(self, frame: bytes) -> None:
        if self._greeting.service is None:
            self._unsent += self._greeting.take(frame)
            if self._greeting.service is not None:
                self._frames.most = MAX_FRAME
                self._unsent += self._early
                self._early.clear()
            self._write()
            return
        number, *answer = read(frame)
        future = self._asked.get(number)
        if future is not None and not future.done():
            future.set_result(answer)


def outcome(how: str, rest: list[Any]) -> Any:
    """Return what was answered, or raise why it was not done."""
    if how == DONE:
        return rest[0]
    raise StoreUnavailable(f"the host's ledger: {rest[0] if rest else 'asked too late'}")


def _give_up(future: asyncio.Future[Any]) -> None:
    if not future.done():
        future.set_exception(TimeoutError("it does not answer"))
