"""Does anything grow, while two of five requests are hostile?

Four workers, sixteen clients in a closed loop. SOAK_REQUESTS says how many requests each framework
is asked, 20 000 where it is not set; 200 000 take about ten minutes of two cores.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.callers import MIB, resident
from benchmarks.contestants import OURS
from benchmarks.hosting import Served
from benchmarks.report import Found, Verdict, table
from benchmarks.service import BODY, bearer, settings
from benchmarks.turns import Unfit, say

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "20000"))
STEPS = 10  # between which it is looked
WORKERS, CLIENTS, CALLERS = 4, 16, 50
HOSTILE = 0.4
LARGE = 0.0005  # of all bodies
RECONNECT = 200  # requests
FRAMEWORKS: Mapping[str, str] = {"uvicorn": "fastapi", "gunicorn gthread": "flask"}
UNREACHED = "http://127.0.0.1:9"  # nobody takes the spans: they are held, within a bound
MOST_GROWN = 1.1  # times, from the middle to the end


@dataclass(frozen=True, slots=True)
class Look:
    """What a service has, all workers together.

    Attributes:
        requests: How many it has been asked.
        seconds: Since the first.
        memory: Resident bytes.
        descriptors: Open ones.
        threads: Their number.
        series: In a page of metrics.
        file: Bytes of the file in which the workers meet, and of what belongs to it.
    """

    requests: int
    seconds: float
    memory: int
    descriptors: int
    threads: int
    series: int
    file: int

    def row(self) -> list[str]:
        """Write it as a row of a table."""
        numbers = self.descriptors, self.threads, self.series, self.file // 1024
        return [
            f"{self.requests:,}",
            f"{self.seconds:.0f}",
            f"{self.memory / MIB:.0f}",
            *map(str, numbers),
        ]


class Crowd:
    """Good and hostile clients of one service.

    Attributes:
        statuses: How often each was answered; "000" is no answer.
    """

    def __init__(self, port: int) -> None:
        self.statuses: Counter[str] = Counter()
        self._port = port
        self._tokens = [bearer(f"caller {number}") for number in range(CALLERS)]
        row = json.dumps([5.9, 3.0, 4.2, 1.5])
        self._large = f'{{"instances": [{", ".join([row] * 40_000)}]}}'.encode()
        self._acts: Sequence[Callable[[], bytes]] = (
            lambda: _request("POST", "/predict", "Bearer " + "x" * random.randrange(1, 3000)),
            lambda: _request("POST", "/predict", ""),
            lambda: _request("POST", "/predict", self._token(), b'{"instances": [[NaN], [1e999'),
            lambda: _request("POST", "/predict", self._token(), b"[" * 500),
            lambda: _request("GET", f"/nothing/{random.randrange(10**9)}", "", b""),
            lambda: _request("POST", "/predict?" + "a" * random.randrange(5000), ""),
            lambda: _request("POST", "/predict", f"{self._token()[:-5]}{random.randrange(10**5)}"),
            lambda: _request("DELETE", "/predict", self._token(), b""),
        )

    async def ask(self, number: int) -> None:
        """Have all clients ask so many times together."""
        await asyncio.gather(*(self._client(number // CLIENTS) for _ in range(CLIENTS)))

    async def _client(self, number: int) -> None:
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for turn in range(number):
            request, status = self._next(), "000"
            for _ in range(2):  # a connection that was kept may have ended meanwhile
                with suppress(OSError, asyncio.IncompleteReadError):
                    streams = streams or await asyncio.open_connection("127.0.0.1", self._port)
                    status, is_kept = await _answer(*streams, request)
                    if is_kept and turn % RECONNECT != RECONNECT - 1:
                        break
                if streams is not None:
                    streams[1].close()
                    streams = None
                if status != "000":
                    break
            self.statuses[status] += 1
        if streams is not None:
            streams[1].close()

    def _next(self) -> bytes:
        chance = random.random()
        if chance < LARGE:
            return _request("POST", "/predict", self._token(), self._large)
        if chance < HOSTILE:
            return random.choice(self._acts)()
        return _request("POST", "/predict", self._token())

    def _token(self) -> str:
        return random.choice(self._tokens)


def _request(method: str, path: str, token: str, body: bytes = BODY) -> bytes:
    # Each from an address of its own, as the service trusts this machine's proxy.
    address = ".".join(str(random.randrange(256)) for _ in range(3))
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"X-Forwarded-For: 10.{address}"]
    lines += [f"Authorization: {token}"] if token else []
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


async def _answer(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[str, bool]:
    """Send a request; return the status, and whether the connection is kept."""
    writer.write(request)
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    if length := re.search(r"content-length: (\d+)", head):
        await reader.readexactly(int(length[1]))
    return head[9:12], "connection: close" not in head


def look(served: Served, folder: Path, requests: int, began: float) -> Look:
    """Look at all that may grow."""
    pids = served.workers()
    lines = served.metrics().splitlines()
    return Look(
        requests=requests,
        seconds=time.monotonic() - began,
        memory=sum(map(resident, pids)),
        descriptors=sum(_number_in(f"/proc/{pid}/fd") for pid in pids),
        threads=sum(_number_in(f"/proc/{pid}/task") for pid in pids),
        series=sum(1 for line in lines if line and not line.startswith("#")),
        file=sum(path.stat().st_size for path in folder.rglob("*.db*")),
    )


def _number_in(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


def soak(server: str) -> tuple[list[Look], Counter[str]]:
    """Have one service asked, and look at it again and again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        changes = {
            "service": {"host_file": True, "folder": name, "trusted_proxies": ["127.0.0.0/8"]},
            "quotas": {"store": "host://"},
        }
        parts = ("model", "auth", "quotas", "tracing")
        tables = settings(f"soak-{FRAMEWORKS[server]}", UNREACHED, parts=parts, changes=changes)
        told = {"stack": OURS, "endpoint": UNREACHED, "settings": tables}
        with Served(server, told, WORKERS) as served:
            served.wait(bearer())
            crowd, began, looks = Crowd(served.port), time.monotonic(), []
            for step in range(STEPS + 1):
                if step:
                    asyncio.run(crowd.ask(REQUESTS // STEPS))
                looks.append(look(served, folder, sum(crowd.statuses.values()), began))
                say(f"  {server}: {looks[-1].requests:,} of {REQUESTS:,} requests")
        return looks, crowd.statuses


def verdicts(server: str, looks: Sequence[Look], statuses: Counter[str]) -> list[Verdict]:
    """Hold the end against the middle."""
    middle, end = looks[len(looks) // 2], looks[-1]
    grown = partial(Verdict, goal=MOST_GROWN)
    return [
        *(
            grown(f"{server}: {name} at the end ÷ in the middle", getattr(end, name) / (was or 1))
            for name in ("memory", "descriptors", "threads", "series", "file")
            for was in [getattr(middle, name)]
        ),
        Verdict(f"{server}: requests without an answer", statuses["000"], 0),
        Verdict(f"{server}: answers 500", statuses["500"], 0),
    ]


def main() -> Found:
    """Print what each service has, while it is asked."""
    if not Path("/proc").is_dir():
        raise Unfit("without /proc nobody tells what a process has")
    figures, goals = {}, []
    heads = "requests", "seconds", "memory MiB", "descriptors", "threads", "series", "file KiB"
    for server in FRAMEWORKS:
        looks, statuses = soak(server)
        title = f"{server}, {WORKERS} workers, {HOSTILE:.0%} of the requests hostile"
        print(table(title, heads, [each.row() for each in looks]))
        print(f"\nanswers: {dict(sorted(statuses.items()))}")
        figures[server] = {"looks": [each.row() for each in looks], "answers": dict(statuses)}
        goals += verdicts(server, looks, statuses)
    return Found(figures, tuple(goals))
