"""What does a worker's thread carry to the companion and back?"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import asdict
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from threading import Event, Lock, Thread
from typing import TypeAlias

from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.logs import LOGGER, Seldom
from mlguard.metrics import Family
from mlguard.revocations import Revocation
from mlguard.runtime.companion.frames import Message, plain, read_revocations, receive, send
from mlguard.runtime.companion.outbox import Outbox
from mlguard.runtime.companion.spawner import Spawner

Row: TypeAlias = tuple[str, str, object]
"""Model, version, and the values of one row."""

MAX_ROW = 64 * 2**10  # bytes
MAX_ROWS_FRAME = 2**20
_TICK = 0.2  # seconds
_RETRY = 0.05
_LONG_RETRY = 1.0
_PATIENCE = 5.0  # for the first companion to come up, before its absence counts
_OVERDUE = 1.0
_SNAPSHOT_EVERY = 1.0
_SNAPSHOT_SHARE = 100  # a snapshot may take a hundredth of the time between two


class Courier:
    """Everything of a worker that may wait for the companion waits in this one thread."""

    def __init__(
        self,
        folder: Folder,
        spawner: Spawner,
        rows: deque[Row],
        outbox: Outbox,
        *,
        snapshot: Callable[[], list[Family]],
        on_state: Callable[[bool], None],
        on_drop: Callable[[str, str, str, int], None],
        on_revoked: Callable[[list[Revocation]], None],
        on_overdue: Callable[[list[Revocation]], None],
        name: str,
    ) -> None:
        self._folder = folder
        self._spawner = spawner
        self._rows = rows
        self._outbox = outbox
        self._snapshot = snapshot
        self._on_state = on_state
        self._on_drop = on_drop
        self._on_revoked = on_revoked
        self._on_overdue = on_overdue
        self._hello = {"process": asdict(Process.of(os.getpid())), "name": name}
        self._log = Seldom()
        self._is_up: bool | None = None
        self._lock = Lock()
        self._asks: dict[int, Future[list[Family]]] = {}
        self._new_asks: list[int] = []
        self._next_ask = 0
        self._next_snapshot = 0.0
        self._closing = Event()
        self._alarm, self._bell = Pipe(duplex=False)
        self._has_rung = False
        self._thread = Thread(target=self._run, name="mlguard-companion", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask(self, timeout: float) -> list[Family] | None:
        """Return the numbers of all workers, None where they do not come in time."""
        ask: Future[list[Family]] = Future()
        with self._lock:
            number = self._next_ask = self._next_ask + 1
            self._asks[number] = ask
            self._new_asks.append(number)
        self.ring()
        try:
            return ask.result(timeout)
        except TimeoutError:
            with self._lock:
                self._asks.pop(number, None)
            if self._is_up:
                self._say(False, "it does not answer")
            return None

    def stop(self, timeout: float) -> None:
        """Hand over what is left, as far as the companion takes it in time."""
        self._closing.set()
        self.ring()
        self._thread.join(timeout)

    def ring(self) -> None:
        """Have what waits carried now."""
        with self._lock:
            if not self._has_rung:
                self._has_rung = True
                self._bell.send_bytes(b"!")

    def _say(self, is_up: bool, why: str = "") -> None:
        if is_up == self._is_up:
            return
        if not is_up:
            LOGGER.warning("the companion is away: %s; inference goes on without it", why)
        elif self._is_up is False:
            LOGGER.warning("the companion is back")
        self._is_up = is_up
        self._on_state(is_up)

    def _run(self) -> None:
        try:
            while (connection := self._reach()) is not None:
                with connection:
                    why = self._talk(connection)
                if self._closing.is_set():
                    break
                self._say(False, why)
                self._closing.wait(_RETRY)
        finally:
            self._spawner.leave()

    def _reach(self) -> Connection | None:
        """Connect, starting a companion where there is none; None when it is time to stop."""
        patience = time.monotonic() + _PATIENCE
        while not self._closing.is_set():
            try:
                self._folder.prepare()
                if (connection := self._connect()) is not None:
                    self._spawner.arrived()
                    return connection
            except Exception as error:  # noqa: BLE001 - observers fail open
                self._say(False, repr(error))
                self._closing.wait(_LONG_RETRY)
            if time.monotonic() > patience:
                self._say(False, "it cannot be reached")
            self._look_for_overdue()
            self._closing.wait(_RETRY)
        return None

    def _connect(self) -> Connection | None:
        try:
            return self._folder.connect()
        except (FileNotFoundError, ConnectionError, EOFError):
            self._spawner.ensure()
            return None

    def _talk(self, connection: Connection) -> str:
        """Carry until the connection ends or it is time to stop; return why."""
        self._next_snapshot = 0.0
        with self._lock:
            self._new_asks = list(self._asks)
        self._outbox.again()
        try:
            send(connection, {"hello": self._hello})
            self._say(True)
            while True:
                is_last = self._closing.is_set()
                self._carry(connection, is_last)
                if is_last:
                    send(connection, {"bye": True})
                    return ""
                self._look_for_overdue()
                if connection in self._rest(connection):
                    self._answer(connection, receive(connection))
                    self._say(True)
        except (OSError, EOFError):
            return "it left"
        except Exception as error:  # noqa: BLE001 - observers fail open
            return repr(error)

    def _look_for_overdue(self) -> None:
        """Have kept otherwise what the companion does not take: it may be about to die."""
        if late := self._outbox.overdue(_OVERDUE):
            try:
                self._on_overdue(late)
            except Exception as error:  # noqa: BLE001 - the companion may still take it
                self._log.warning("overdue", "revocations are not kept: %r", error)

    def _rest(self, connection: Connection) -> list[object]:
        self._spawner.reap()
        ready: list[object] = list(wait([connection, self._alarm], _TICK))
        if self._alarm in ready:
            with self._lock:
                self._alarm.recv_bytes()
                self._has_rung = False
        return ready

    def _carry(self, connection: Connection, is_last: bool) -> None:
        for message in self._outbox.take():
            send(connection, message)
        for frame, lost in self._row_frames():
            try:
                connection.send_bytes(frame)
            except OSError:
                for (model, version), count in lost.items():
                    self._on_drop(model, version, "disconnected", count)
                raise
        if is_last or time.monotonic() >= self._next_snapshot:
            self._send_snapshot(connection)
        with self._lock:
            asks, self._new_asks = self._new_asks, []
        if asks:
            send(connection, {"ask": max(asks)})

    def _answer(self, connection: Connection, message: Message) -> None:
        if "poll" in message:
            self._send_snapshot(connection, message["poll"])
        elif "families" in message:
            with self._lock:
                answered = [self._asks.pop(n) for n in list(self._asks) if n <= message["ask"]]
            for ask in answered:
                ask.set_result(message["families"])
        elif "revoked" in message:
            self._tell_revoked(message["revoked"])
        elif "revoke_done" in message:
            self._outbox.done(message["revoke_done"])
            if message["refused"]:
                LOGGER.error("%d revocations were refused: no room", message["refused"])

    def _tell_revoked(self, entries: object) -> None:
        try:
            self._on_revoked(read_revocations(entries))
        except Exception as error:  # noqa: BLE001 - the next may be understood
            self._log.warning("revoked", "revocations do not count here: %r", error)

    def _send_snapshot(self, connection: Connection, poll: int | None = None) -> None:
        started = time.monotonic()
        try:
            send(connection, {"snapshot": self._snapshot(), "poll": poll})
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - observers fail open
            self._log.warning("snapshot", "the metrics cannot be read: %r", error)
            send(connection, {"snapshot": None, "poll": poll})
        ended = time.monotonic()
        self._next_snapshot = ended + max(_SNAPSHOT_EVERY, _SNAPSHOT_SHARE * (ended - started))

    def _row_frames(self) -> Iterator[tuple[bytes, Counter[tuple[str, str]]]]:
        """Take the queued rows, as frames of about a mebibyte, each with whose rows it holds."""
        written: list[str] = []
        whose: Counter[tuple[str, str]] = Counter()
        size = 0
        for _ in range(len(self._rows)):
            model, version, values = self._rows.popleft()
            row, trouble = _write_row(model, version, values)
            if trouble:
                self._on_drop(model, version, trouble, 1)
                continue
            written.append(row)
            whose[model, version] += 1
            size += len(row)
            if size >= MAX_ROWS_FRAME:
                yield _frame(written), whose
                written, whose, size = [], Counter(), 0
        if written:
            yield _frame(written), whose


def _write_row(model: str, version: str, values: object) -> tuple[str, str]:
    """Return the row as JSON, and why it cannot be sent if it cannot."""
    try:
        row = json.dumps([model, version, values], separators=(",", ":"), default=plain)
    except (TypeError, ValueError, RecursionError):
        return "", "unreadable"
    return row, "too_large" if len(row) > MAX_ROW else ""


def _frame(rows: list[str]) -> bytes:
    return f'{{"rows":[{",".join(rows)}]}}'.encode()


def new_name() -> str:
    """Return a name that no other courier has."""
    return secrets.token_hex(8)
