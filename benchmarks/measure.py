"""What does one request cost? CPU time in this process, without a network."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jose import jwt
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
BODY = json.dumps({"instances": [[5.9, 3.0, 4.2, 1.5]]}).encode()
ANSWER = {"predictions": ["versicolor"]}
SECRET = "a secret of the benchmark, longer than 32 bytes"
ISSUER, AUDIENCE = "https://login.example.com/", "iris-api"
UNREACHED = "1000000000/minute"


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


def predict(instances: list[list[float]]) -> list[str]:
    """Tell the species by the length of the petals: the same trivial model for everybody."""
    return ["setosa" if row[2] < 2.5 else "versicolor" for row in instances]


def bearer() -> str:
    """Sign a token that every contestant with authentication accepts."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 3600}
    # flask-jwt-extended wants these two.
    claims |= {"jti": "1", "type": "access"}
    return f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"


def build_reference(path: Path) -> None:
    """Write what the inputs looked like in training."""
    import numpy as np
    import pandas as pd

    from mlguard.reference import Reference

    rows = np.random.default_rng(0).normal((5.8, 3.1, 3.8, 1.2), (0.8, 0.4, 1.2, 0.5), (1000, 4))
    Reference.build(pd.DataFrame(rows, columns=list(FEATURES))).save(path)


class Discard(SpanExporter):
    """Take spans and do nothing: what encoding and sending cost is the same for everybody."""

    def __init__(self) -> None:
        self.taken = 0

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        self.taken += len(spans)
        return SpanExportResult.SUCCESS


@dataclass
class Spans:
    """One contestant's spans, batched as the SDK does by default."""

    exporter: Discard = field(default_factory=Discard)

    def __post_init__(self) -> None:
        self.processor = BatchSpanProcessor(self.exporter)

    def provider(self) -> TracerProvider:
        """Make a provider that hands its spans to the exporter."""
        provider = TracerProvider()
        provider.add_span_processor(self.processor)
        return provider


@dataclass(frozen=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        body: All bytes.
    """

    status: int
    body: bytes


Send = Callable[[str, str, Mapping[str, str]], Answer]
"""Sends one request (method, path, headers), with the body if it is a POST."""


@dataclass
class Contestant:
    """One way to serve the same route.

    Attributes:
        name: In the table.
        app: The ASGI or WSGI app.
        spans: Where its spans go, None where it is not traced.
        guarded: Whether it refuses requests without a token, and has metrics.
        close: Ends what it started.
    """

    name: str
    app: Any
    spans: Spans | None = None
    guarded: bool = False
    close: Callable[[], None] = lambda: None


class Driver:
    """Sends requests to an app, hand-made at its server interface."""

    def send(self, app: Any, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Send one request and keep the answer."""
        raise NotImplementedError

    def many(self, app: Any, count: int, headers: Mapping[str, str]) -> None:
        """Send the benchmark's request so many times."""
        raise NotImplementedError


class ASGI(Driver):
    """Drives ASGI apps on one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def close(self) -> None:
        """End the event loop."""
        self._runner.close()

    def send(self, app: Any, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        return self._runner.run(self._one(app, self._scope(method, path, headers)))

    def many(self, app: Any, count: int, headers: Mapping[str, str]) -> None:
        self._runner.run(self._many(app, count, self._scope("POST", "/predict", headers)))

    async def _one(self, app: Any, scope: dict[str, Any]) -> Answer:
        messages: list[Any] = []

        async def send(message: Any) -> None:
            messages.append(message)

        await app(scope, _receiver(), send)
        body = b"".join(message.get("body", b"") for message in messages)
        return Answer(messages[0]["status"], body)

    async def _many(self, app: Any, count: int, scope: dict[str, Any]) -> None:
        async def send(message: Any) -> None:
            pass

        for _ in range(count):
            await app({**scope, "state": {}}, _receiver(), send)

    def _scope(self, method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        pairs = {"host": "localhost", "content-type": "application/json", **headers}
        if method == "POST":
            pairs["content-length"] = str(len(BODY))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in pairs.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": {},
        }


def _receiver() -> Callable[[], Any]:
    messages = iter([{"type": "http.request", "body": BODY, "more_body": False}])

    async def receive() -> Any:
        return next(messages, {"type": "http.disconnect"})

    return receive


class WSGI(Driver):
    """Drives WSGI apps in this thread."""

    def send(self, app: Any, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        statuses: list[str] = []
        environ = self._environ(method, path, headers)
        parts = app(environ, lambda status, *_: statuses.append(status))
        try:
            body = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        return Answer(int(statuses[0][:3]), body)

    def many(self, app: Any, count: int, headers: Mapping[str, str]) -> None:
        environ = self._environ("POST", "/predict", headers)

        def start_response(*_: Any) -> None:
            pass

        for _ in range(count):
            parts = app({**environ, "wsgi.input": io.BytesIO(BODY)}, start_response)
            for _part in parts:
                pass
            getattr(parts, "close", lambda: None)()

    def _environ(self, method: str, path: str, headers: Mapping[str, str]) -> dict[str, Any]:
        environ = {
            "REQUEST_METHOD": method,
            "SCRIPT_NAME": "",
            "PATH_INFO": path,
            "QUERY_STRING": "",
            "CONTENT_TYPE": "application/json",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "localhost",
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": io.BytesIO(BODY),
            "wsgi.errors": io.StringIO(),
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        if method == "POST":
            environ["CONTENT_LENGTH"] = str(len(BODY))
        return environ | {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in headers.items()}


Turn = Callable[[], float]
"""One contestant's turn: CPU seconds of one of whatever is measured."""


class Unfit(AssertionError):
    """A contestant does not do what it is measured for."""


def prove(driver: Driver, contestant: Contestant, token: str) -> None:
    """Make sure that a contestant answers, and does what its row of the table says.

    Raises:
        Unfit: Names what it does not do.
    """
    headers = {"Authorization": token}
    answer = driver.send(contestant.app, "POST", "/predict", headers)
    if answer.status != 200 or json.loads(answer.body) != ANSWER:
        raise Unfit(f"{contestant.name} answers {answer}")
    if contestant.spans:
        contestant.spans.processor.force_flush()
        if not contestant.spans.exporter.taken:
            raise Unfit(f"{contestant.name} makes no spans")
    if not contestant.guarded:
        return
    refusal = driver.send(contestant.app, "POST", "/predict", {})
    if refusal.status not in (401, 403):
        raise Unfit(f"{contestant.name} answers a request without a token: {refusal}")
    if b"/predict" not in driver.send(contestant.app, "GET", "/metrics", headers).body:
        raise Unfit(f"{contestant.name} has no metrics of the route")


def prove_limit(driver: Driver, contestant: Contestant, token: str) -> None:
    """Make sure that a contestant that was built with a limit of two requests has it.

    Raises:
        Unfit: It has none.
    """
    headers = {"Authorization": token}
    answers = [driver.send(contestant.app, "POST", "/predict", headers) for _ in range(3)]
    if [answer.status for answer in answers] != [200, 200, 429]:
        raise Unfit(f"{contestant.name} does not limit requests: {answers}")


def race(
    driver: Driver,
    contestants: Sequence[Contestant],
    *,
    seconds: float,
    requests: int,
    progress: Callable[[int], None],
) -> tuple[dict[str, float], int]:
    """Measure all contestants in turns; return CPU seconds a request by name, and the rounds."""
    headers = {"Authorization": bearer()}

    def turn_of(contestant: Contestant) -> Turn:
        def turn() -> float:
            with _turn() as taken:
                driver.many(contestant.app, requests, headers)
                if contestant.spans:
                    contestant.spans.processor.force_flush()
            return taken[0] / requests

        return turn

    for contestant in contestants:
        driver.many(contestant.app, requests, headers)
    turns = {contestant.name: turn_of(contestant) for contestant in contestants}
    return take_turns(turns, seconds=seconds, progress=progress)


def take_turns(
    turns: Mapping[str, Turn], *, seconds: float, progress: Callable[[int], None]
) -> tuple[dict[str, float], int]:
    """Let all have their turns, round after round; return the median of each, and the rounds.

    In each round every contestant has its turn, in another order, so that what the machine does
    meanwhile meets all of them.
    """
    names = list(turns)
    measured: dict[str, list[float]] = {name: [] for name in names}
    # What all these packages keep is not for a contestant's turn to be searched for garbage.
    gc.collect()
    gc.freeze()
    deadline = time.monotonic() + seconds
    rounds = 0
    while rounds < LEAST_ROUNDS or time.monotonic() < deadline:
        progress(rounds)
        first = rounds % len(names)
        for name in [*names[first:], *names[:first]]:
            measured[name].append(turns[name]())
        rounds += 1
    return {name: statistics.median(taken) for name, taken in measured.items()}, rounds


LEAST_ROUNDS = 9
# Sleeping costs no CPU time: it lets a contestant's threads finish within its own turn.
SETTLE = 0.02


@contextmanager
def _turn() -> Iterator[list[float]]:
    """Measure CPU seconds of all threads of this process."""
    taken: list[float] = []
    began = time.process_time()
    yield taken
    time.sleep(SETTLE)
    taken.append(time.process_time() - began)
