"""How does the host's ledger live and end?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.ledger import MemoryLedger
from mlguard.logs import LOGGER, Seldom
from mlguard.runtime.stores.host.clerk import Clerk
from mlguard.runtime.stores.host.journal import Journal
from mlguard.runtime.stores.host.lifetimes import Lifetimes
from mlguard.runtime.stores.host.wire import (
    CHALLENGE,
    MAX_FRAME,
    MAX_GREETING,
    PROOF,
    SOCKET,
    Frames,
    Junk,
    framed,
    is_proven,
    proof,
    read,
    write,
)

_JOURNAL = "ledger.jsonl"
_TICK = 0.5  # seconds
_MAX_LONELINESS = 10.0
_GRACE = 1.0  # seconds in which a holder may come back
_REPLAY_GRACE = 10.0  # seconds in which those may who held something in the ledger before
_GREETING_TIME = 1.0  # seconds
_MAX_UNREAD = 8 * 2**20  # bytes of answers that a worker does not read
_TOUCH_EVERY = 3600.0
_BACKLOG = 512


async def serve(
    service: str,
    folder: Folder,
    supervisor: Process,
    stop: asyncio.Event,
    *,
    path: Path | None = None,
    timer: Callable[[], float] = time.monotonic,
) -> None:
    """Live until `stop`, until the supervisor is gone, or until no worker came for 10 seconds.

    Args:
        service: The service's name.
        folder: Where its workers meet.
        supervisor: Whose workers they are.
        stop: Set when it is time to end.
        path: The folder for lifetime sums.
        timer: The ledger's clock in seconds, which all processes of a host share.
    """
    folder.prepare()
    with folder.lock("ledger") as is_first:
        if not is_first:
            return
        ledger = MemoryLedger(timer)
        lifetimes = Lifetimes(path, service, ledger)
        clerk = Clerk(ledger, Journal(folder.path / _JOURNAL), lifetimes)
        try:
            hall = Hall(service, folder.authkey(), clerk, clerk.begin())
            is_service_over = await _listen(folder, hall, supervisor, stop)
        finally:
            clerk.close()
        if is_service_over:
            _remove(folder)


def _remove(folder: Folder) -> None:
    """Leave nothing behind, but what the companion keeps there and still needs."""
    with (
        contextlib.suppress(FileNotFoundError),
        folder.lock("companion") as is_last,
    ):
        if is_last:
            folder.remove()


async def _listen(folder: Folder, hall: Hall, supervisor: Process, stop: asyncio.Event) -> bool:
    path = folder.path / SOCKET
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    server = await asyncio.get_running_loop().create_unix_server(
        lambda: Guest(hall), sock=listener, backlog=_BACKLOG
    )
    LOGGER.info("the ledger of %s is up", hall.service)
    try:
        return await _live(folder, path, hall, supervisor, stop)
    finally:
        server.close()
        hall.close()


async def _live(
    folder: Folder, path: Path, hall: Hall, supervisor: Process, stop: asyncio.Event
) -> bool:
    """Look after the workers until it is time to end; return whether none will come again."""
    next_touch = 0.0
    while True:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _TICK)
        if stop.is_set():
            return False
        is_orphan = hall.is_left or not supervisor.runs()
        if not _is_there(path):
            if not is_orphan:
                LOGGER.warning("the folder %s was swept away", folder.path)
            return False
        if time.monotonic() >= next_touch:
            next_touch = time.monotonic() + _TOUCH_EVERY
            folder.touch()
        hall.look_after()
        if hall.loneliness() > (0 if is_orphan else _MAX_LONELINESS):
            return is_orphan


def _is_there(path: Path) -> bool:
    return path.exists()


class Hall:
    """Who is connected, and who holds something without being so.

    Args:
        service: The service's name.
        key: What both ends of a connection must prove to know.
        clerk: Does what is asked.
        holders: Who held something in the ledger before.

    Attributes:
        is_left: Whether a lone worker said that it ends.
    """

    def __init__(self, service: str, key: bytes, clerk: Clerk, holders: set[str]) -> None:
        self.service = service
        self.key = key
        self.clerk = clerk
        self.log = Seldom()
        self.is_left = False
        self._guests: set[Guest] = set()
        self._dropped_at = dict.fromkeys(holders, time.monotonic() + _REPLAY_GRACE)
        self._last_company = time.monotonic()

    def enter(self, guest: Guest) -> None:
        """Count one who has proved who it is."""
        self._guests.add(guest)
        self._dropped_at.pop(guest.holder, None)
        self.is_left = False

    def leave(self, guest: Guest) -> None:
        """Count one no more; what it holds is taken back when none of it comes again."""
        if guest in self._guests:
            self._guests.remove(guest)
            self._last_company = time.monotonic()
            if all(other.holder != guest.holder for other in self._guests):
                self._dropped_at[guest.holder] = time.monotonic() + _GRACE

    def loneliness(self) -> float:
        """Return for how many seconds nobody has been connected; 0 while somebody is."""
        return 0.0 if self._guests else time.monotonic() - self._last_company

    def look_after(self) -> None:
        """Send away whose process is dead, and take back what nobody holds any more."""
        gone = {p for p in {guest.process for guest in self._guests} if not p.runs()}
        for guest in [guest for guest in self._guests if guest.process in gone]:
            # A worker's child may hold its connection open.
            guest.end()
            self.leave(guest)
        now = time.monotonic()
        for holder in [holder for holder, at in self._dropped_at.items() if now >= at]:
            del self._dropped_at[holder]
            self.clerk.drop(holder)
        self.clerk.look_after()

    def close(self) -> None:
        """Send all away."""
        for guest in list(self._guests):
            guest.end()


class Guest(asyncio.Protocol):
    """One connection."""

    def __init__(self, hall: Hall) -> None:
        self._hall = hall
        self._frames = Frames(MAX_GREETING)
        self._challenge = os.urandom(CHALLENGE)
        self._is_known = False
        self.holder = ""
        self.process = Process(0, "")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ask who it is."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(framed(self._challenge))
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(_GREETING_TIME, self._transport.abort)

    def connection_lost(self, _error: Exception | None) -> None:
        """Note that it has left."""
        self._patience.cancel()
        self._hall.leave(self)

    def data_received(self, data: bytes) -> None:
        """Answer what is asked, after what has changed is written down."""
        self._frames.feed(data)
        answers: list[bytes] = []
        try:
            while (frame := self._frames.next()) is not None:
                answers.append(self._answer(frame) if self._is_known else self._welcome(frame))
        except Exception as error:  # noqa: BLE001 - whatever junk does, the others go on
            self._hall.log.warning("junk", "one who sends junk is sent away: %r", error)
            self.end()
        self._hall.clerk.write()
        if answers and not self._transport.is_closing():
            self._transport.write(b"".join(answers))
            if self._transport.get_write_buffer_size() > _MAX_UNREAD:
                self.end()

    def end(self) -> None:
        """Send it away."""
        self._transport.abort()

    def _answer(self, frame: bytes) -> bytes:
        message = read(frame)
        if message[2:] == ["bye"]:
            self._hall.is_left = True
            return b""
        return write(self._hall.clerk.answer(message, self.holder))

    def _welcome(self, frame: bytes) -> bytes:
        challenge, given = frame[:CHALLENGE], frame[CHALLENGE : CHALLENGE + PROOF]
        hello = frame[CHALLENGE + PROOF :]
        key = self._hall.key
        if not is_proven(key, "worker", self._challenge, challenge + hello, given):
            raise Junk("a proof that is wrong")
        self.holder, pid, started = _whose(read(hello))
        self.process = Process(pid, started)
        self._is_known = True
        self._frames.most = MAX_FRAME
        self._patience.cancel()
        self._hall.enter(self)
        name = self._hall.service.encode("utf-8", "surrogatepass")
        return framed(proof(key, "ledger", challenge, self._challenge + name) + name)


def _whose(hello: list[Any]) -> tuple[str, int, str]:
    holder, pid, started = hello
    if not (isinstance(holder, str) and isinstance(pid, int) and isinstance(started, str)):
        raise Junk("a greeting that is none")
    return holder, pid, started
