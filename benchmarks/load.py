"""How is a real server loaded? Needs the standard library only, and a process of its own.

python -m benchmarks.load < what.json
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WAIT = 20  # seconds for an answer that was asked for in time
PIECE = 1 << 20  # bytes that are sent at once


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent, how often.

    Attributes:
        port: Of 127.0.0.1.
        tokens: An Authorization header for each connection.
        body: The JSON body: the text, and how often the second of three parts is repeated.
        seconds: How long.
        connections: How many send at once, each the next when it has its answer.
        is_rude: Whether they send whole bodies, whatever is answered meanwhile, at low priority.
        delay: Seconds before the first.
        pace: Seconds from one to the next, whether or not it is answered, each on a connection of
            its own; 0 where each is sent when the one before it is answered.
    """

    port: int
    tokens: tuple[str, ...]
    body: tuple[str, str, str, int]
    seconds: float
    connections: int = 1
    is_rude: bool = False
    delay: float = 0.0
    pace: float = 0.0

    def request(self, number: int) -> bytes:
        """Write what a connection sends."""
        first, repeated, last, times = self.body
        body = (first + ",".join([repeated] * times) + last).encode()
        head = (
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Authorization: {self.tokens[number % len(self.tokens)]}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


@dataclass(slots=True)
class Loaded:
    """What came of it.

    Attributes:
        seconds: How long it took.
        statuses: How often each came; "broken" is a connection that ended without one.
        latencies: Seconds until each answer, in order.
    """

    seconds: float = 0.0
    statuses: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return self.statuses["200"] / self.seconds

    def add(self, status: str, began: float) -> None:
        """Count an answer."""
        self.statuses[status] += 1
        self.latencies.append(time.perf_counter() - began)


class _Connection(asyncio.Protocol):
    """Asks, and asks again when it is answered."""

    def __init__(self, request: bytes, until: float, loaded: Loaded) -> None:
        self._request, self._until, self._loaded = request, until, loaded
        self._kept = b""
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._next()

    def data_received(self, data: bytes) -> None:
        self._kept += data
        head, found, rest = self._kept.partition(b"\r\n\r\n")
        if found and len(rest) >= _length(head):
            self._kept = b""
            self._loaded.add(_status(head), self._began)
            self._next()

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self._loaded.add("broken", self._began)
            self.done.set_result(None)

    def _next(self) -> None:
        self._began = time.perf_counter()
        if self._began < self._until:
            self._transport.write(self._request)
        elif not self.done.done():
            self.done.set_result(None)
            self._transport.close()


class _Once(_Connection):
    """Asks once; it counts from when it was meant to."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._began = transport, self._until
        transport.write(self._request)


def _status(head: bytes) -> str:
    return head[9:12].decode()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line[15:])
    return 0


async def polite(load: Load) -> Loaded:
    """Send in a closed loop, on one event loop."""
    loaded, loop = Loaded(), asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + load.seconds

    async def one(number: int) -> None:
        request = load.request(number)
        while time.perf_counter() < until:
            made = lambda: _Connection(request, until, loaded)  # noqa: E731
            _, connection = await loop.create_connection(made, "127.0.0.1", load.port)
            await asyncio.wait_for(connection.done, load.seconds + WAIT)

    ended = await asyncio.gather(*map(one, range(load.connections)), return_exceptions=True)
    unanswered = sum(isinstance(each, TimeoutError) for each in ended)
    for _ in range(unanswered):
        loaded.statuses["unanswered"] += 1
        loaded.latencies.append(float(WAIT))
    loaded.seconds = time.perf_counter() - began
    return loaded


async def paced(load: Load) -> Loaded:
    """Send at a pace: who waits for slow answers would ask less often just then."""
    loaded, loop = Loaded(), asyncio.get_running_loop()
    request, began = load.request(0), time.perf_counter()

    async def one() -> None:
        asked = time.perf_counter()
        made = lambda: _Once(request, asked, loaded)  # noqa: E731
        _, connection = await loop.create_connection(made, "127.0.0.1", load.port)
        try:
            await asyncio.wait_for(connection.done, WAIT)
        except TimeoutError:
            loaded.add("unanswered", asked)

    async with asyncio.TaskGroup() as tasks:
        for number in range(round(load.seconds / load.pace)):
            await asyncio.sleep(began + number * load.pace - time.perf_counter())
            tasks.create_task(one())
    loaded.seconds = time.perf_counter() - began
    return loaded


def rude(load: Load) -> Loaded:
    """Send large bodies in a closed loop, a thread for each connection."""
    loaded = Loaded()
    began = time.perf_counter()
    until = began + load.seconds
    # What is measured must not wait for this.
    os.nice(10)

    def one(number: int) -> None:
        request = load.request(number)
        while time.perf_counter() < until:
            asked = time.perf_counter()
            loaded.add(_rudely(load.port, request), asked)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(load.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    loaded.seconds = time.perf_counter() - began
    return loaded


def _rudely(port: int, request: bytes) -> str:
    """Send one request on a connection of its own; a server may answer before it has it all."""
    try:
        with socket.create_connection(("127.0.0.1", port), WAIT) as connection:
            try:
                view = memoryview(request)
                for first in range(0, len(view), PIECE):
                    connection.sendall(view[first : first + PIECE])
            except (BrokenPipeError, ConnectionResetError):
                pass
            return _status(connection.recv(65_536)) or "broken"
    except TimeoutError:
        return "unanswered"
    except OSError:
        return "broken"


def start(load: Load, core: int | None = None) -> subprocess.Popen[str]:
    """Load a server from another process, on one core; `ended` tells what came of it."""
    command = [sys.executable, "-m", "benchmarks.load"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    assert process.stdin is not None
    process.stdin.write(json.dumps(asdict(load)))
    process.stdin.close()
    process.stdin = None
    return process


def ended(process: subprocess.Popen[str]) -> Loaded:
    """Wait for a load, and return what came of it."""
    told, _ = process.communicate()
    seconds, statuses, latencies = json.loads(told)
    return Loaded(seconds, Counter(statuses), latencies)


def main() -> None:
    """Load what standard input says, and write what came of it."""
    load = Load(**json.load(sys.stdin))
    time.sleep(load.delay)
    politely = paced if load.pace else polite
    loaded = rude(load) if load.is_rude else asyncio.run(politely(load))
    print(json.dumps([loaded.seconds, loaded.statuses, loaded.latencies]))


if __name__ == "__main__":
    main()
