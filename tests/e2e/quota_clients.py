"""Who asks a counted service, and who reads its books?"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.ledger import HostLedger
from mlguard.ledger import Entry
from mlguard.quota_store.choose import maker
from mlguard.quotas.quota import accounts
from mlguard.settings import Quotas
from tests import servers
from tests.contract.client import AUDIENCE, ISSUER, SECRET, OverSockets, metric, token

SERVICE = "counted"
_PATIENCE = servers.LONG  # seconds in which a service answers, whatever is the matter
_RECONNECT = 8  # requests after which another worker may accept a client
Sign = Callable[..., str]
_LEFT = re.compile(r'"([^"]+)";r=(\d+)')


class Reply(NamedTuple):
    """What a client got, and when.

    Attributes:
        route: What was asked.
        rows: How many rows it was asked for.
        sent: When the request left, by time.monotonic.
        seconds: Until the last byte was there.
        status: The HTTP status.
        headers: By name in lower case.
        body: The bytes.
        again: How often it was asked once more, as the connection had ended.
    """

    route: str
    rows: int
    sent: float
    seconds: float
    status: int
    headers: Mapping[str, str]
    body: bytes
    again: int = 0

    @property
    def received(self) -> float:
        """When the last byte was there."""
        return self.sent + self.seconds

    @property
    def is_admitted(self) -> bool:
        return self.status == 200

    @property
    def left(self) -> dict[str, int]:
        """What is left of each window, by the headers."""
        return {name: int(r) for name, r in _LEFT.findall(self.headers.get("ratelimit", ""))}

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])

    @property
    def worker(self) -> int:
        return int(json.loads(self.body)["worker"])

    @property
    def predictions(self) -> list[float]:
        return list(json.loads(self.body)["predictions"])


class Connection:
    """A client's connection, which is kept from one request to the next."""

    def __init__(self, url: str, subject: str = "", *, sign: Sign = token, **claims: Any) -> None:
        self._host, self._port = urlsplit(url).hostname, urlsplit(url).port
        login = f"Authorization: Bearer {sign(subject, **claims)}\r\n" if subject else ""
        self._fixed = f"Host: {self._host}\r\n{login}"
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, route: str, rows: int, *, more: int = 0) -> Reply:
        """Ask for predictions of so many rows; without rows it is a GET."""
        asked = {"instances": [[0.0]] * rows, "more": more}
        body = json.dumps(asked).encode() if rows else b""
        method = "POST" if rows else "GET"
        head = f"{method} {route} HTTP/1.1\r\n{self._fixed}Content-Type: application/json\r\n"
        request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        sent = time.monotonic()
        again = -1
        answered = None
        async with asyncio.timeout(_PATIENCE):
            while answered is None:
                again += 1
                try:
                    answered = await self._exchange(request)
                except (ConnectionError, asyncio.IncompleteReadError):
                    self.close()  # it ended while nobody asked, or with who was to answer
        return Reply(route, rows, sent, time.monotonic() - sent, *answered, again)

    async def _exchange(self, request: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        writer.write(request)
        line, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        answer = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return int(line.split(" ", 2)[1]), headers, answer

    def close(self) -> None:
        """Begin with a connection of its own again."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()


class Asker(NamedTuple):
    """What one client asks for, again and again.

    Attributes:
        route: The path.
        rows: Of each request; none for a GET.
        pace: Seconds from one request to the next.
        subject: Who it is.
    """

    route: str
    rows: int
    pace: float
    subject: str = ""


class Load:
    """Clients that ask all the time, in a thread, from entering to leaving.

    Attributes:
        replies: Everything that was answered so far, in order of arrival.
    """

    def __init__(self, url: str, askers: Sequence[Asker], *, sign: Sign = token) -> None:
        self.replies: list[Reply] = []
        self._url, self._askers, self._sign = url, askers, sign
        self._trouble: BaseException | None = None
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        self._thread.join(_PATIENCE)
        if exc[0] is None:
            self.end()

    def end(self) -> None:
        """Have every client end, when it has its answer."""
        self._is_over.set()
        self._thread.join(_PATIENCE)
        assert not self._thread.is_alive(), "a client waits for an answer"
        assert self._trouble is None, self._trouble

    def since(self, moment: float, route: str | None = None) -> list[Reply]:
        """Return what was asked after a moment."""
        replies = self.replies.copy()
        return [r for r in replies if r.sent >= moment and route in (None, r.route)]

    def more(self, number: int) -> None:
        """Wait until every route was asked and answered so many times from now on."""
        now, routes = time.monotonic(), {asker.route for asker in self._askers}

        def is_enough() -> bool:
            assert self._trouble is None, self._trouble
            return all(len(self.since(now, route)) >= number for route in routes)

        servers.wait_until(is_enough, f"{number} more answers")

    def _run(self) -> None:
        try:
            asyncio.run(self._ask_all())
        except BaseException as error:  # noqa: BLE001 - raised where the test waits
            self._trouble = error

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number, asker in enumerate(self._askers):
                group.create_task(self._ask(asker, number / len(self._askers)))

    async def _ask(self, asker: Asker, phase: float) -> None:
        connection = Connection(self._url, asker.subject, sign=self._sign)
        due, asked = time.monotonic() + phase * asker.pace, 0
        with contextlib.closing(connection):
            while not self._is_over.is_set():
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                due = max(due + asker.pace, time.monotonic())
                self.replies.append(await connection.ask(asker.route, asker.rows))
                asked += 1
                if asked % _RECONNECT == 0:
                    connection.close()


class Counted:
    """A counted service that runs.

    Args:
        server: What answers.
        quotas: Its settings.
        folder: Where its workers meet those of a host.

    Attributes:
        url: Where it answers.
    """

    def __init__(self, server: servers.Server, quotas: Quotas, folder: Path) -> None:
        self.server, self.url = server, server.url
        self._quotas, self._folder = quotas, folder

    def metric(self, name: str, **labels: str) -> float:
        """Read one sample of all workers together."""
        return metric(OverSockets(self.url), name, **labels)

    @property
    def is_degraded(self) -> bool:
        """Whether a worker says that it is without its store, or none can say anything."""
        return self.is_degraded_in("quotas")

    def is_degraded_in(self, part: str) -> bool:
        """Whether a worker says that it is without a part, or none can say anything."""
        if OverSockets(self.url).ask("GET", "/metrics").status == 503:
            return True
        return self.metric("mlguard_degraded", part=part) == 1

    def said(self, text: str) -> int:
        """Tell how many lines of the log have a text in them."""
        return sum(text in line for line in self.server.log().splitlines())

    def used(self, subject: str = "alice") -> dict[str, float]:
        """Tell what a caller has used by the books of the store, by field."""
        place = accounts((ISSUER, "", subject))
        with contextlib.ExitStack() as stack:
            entries: list[Entry] = self._books(stack).entries(place.tag, place.own)
            return {entry.field: entry.used for entry in entries}

    def _books(self, stack: contextlib.ExitStack) -> Any:
        if self.is_on_host:
            database = stack.enter_context(contextlib.closing(Database(self.file, wait=2.0)))
            return HostLedger(database, is_lasting=False)
        patient = self._quotas.model_copy(update={"store_timeout": 2.0})
        return stack.enter_context(contextlib.closing(maker(patient, SERVICE)()))

    @property
    def is_on_host(self) -> bool:
        """Whether it counts in the file of the host."""
        return self._quotas.store.startswith("host://")

    @property
    def file(self) -> Path:
        """Where the workers of the host meet."""
        return Folder.of(SERVICE, self._folder).database


def settings(quotas: Mapping[str, Any], *, models: Sequence[str] = ("/predict",)) -> dict[str, Any]:
    """Write the settings of a counted service; each route's model is called as the route."""
    layout = {"inputs": "instances", "outputs": "predictions"}
    return {
        "service": {"name": SERVICE},
        "models": [{"name": route[1:], "route": route, **layout} for route in models],
        "auth": {
            "issuer": ISSUER,
            "audience": AUDIENCE,
            "secret_env": "COUNTED_SECRET",
            "algorithms": ["HS256"],
            "public": ["/health", "/threads"],
        },
        "quotas": dict(quotas),
    }


def server(
    framework: str,
    folder: Path,
    written: Mapping[str, Any],
    *,
    workers: int,
    status: int = 200,
    env: Mapping[str, str] | None = None,
) -> servers.Server:
    """Describe a service's server: FastAPI's is uvicorn, Flask's gunicorn with threads."""
    start = {"fastapi": servers.uvicorn, "flask": servers.gunicorn}[framework]
    env = {
        "COUNTED": json.dumps(written),
        "COUNTED_SECRET": SECRET,
        "TMPDIR": str(folder),
        "XDG_RUNTIME_DIR": "",
        **(env or {}),
    }
    described = start(f"tests.apps.counted_{framework}:app", cwd=folder, workers=workers, env=env)
    described._status = status  # what starts it here has no such argument
    return described


@contextlib.contextmanager
def counted(
    framework: str,
    folder: Path,
    written: Mapping[str, Any],
    *,
    workers: int,
    env: Mapping[str, str] | None = None,
) -> Iterator[Counted]:
    """Run a service."""
    with server(framework, folder, written, workers=workers, env=env) as started:
        yield Counted(started, Quotas.model_validate(written["quotas"]), folder)


def percentile(replies: Sequence[Reply], share: float) -> float:
    """Tell how many seconds that share of the answers took at most."""
    took = sorted(reply.seconds for reply in replies)
    return took[math.ceil(share * len(took)) - 1]
