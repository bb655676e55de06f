"""How does a request reach an app without a network? By hand, at its server interface."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from benchmarks.service import BODY

CHUNK = 65_536  # bytes that a server hands over at once


@dataclass(frozen=True, eq=False, slots=True)
class Request:
    """What a client sends.

    Attributes:
        method: The HTTP method.
        path: The decoded path.
        query: The raw query.
        headers: By name; JSON is announced without saying so.
        body: All its bytes.
        length: The Content-Length where it is not the body's; None where it comes by chunks.
    """

    method: str = "POST"
    path: str = "/predict"
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = BODY
    length: int | None = -1

    @property
    def fields(self) -> dict[str, str]:
        """All headers."""
        usual = {"host": "localhost", "content-type": "application/json"}
        return usual | self._framing() | {k.lower(): v for k, v in self.headers.items()}

    def _framing(self) -> dict[str, str]:
        if self.length is None:
            return {"transfer-encoding": "chunked"}
        length = len(self.body) if self.length < 0 else self.length
        return {"content-length": str(length)} if length else {}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back.

    Attributes:
        status: The HTTP status.
        body: All bytes.
    """

    status: int
    body: bytes


class Driver:
    """Sends requests to apps of one server interface."""

    def prepared(self, request: Request) -> Any:
        """Do beforehand what a server does for each request."""
        raise NotImplementedError

    def ask(self, app: Any, request: Request) -> Answer:
        """Send one request and keep the answer."""
        raise NotImplementedError

    def run(self, app: Any, prepared: Sequence[Any]) -> None:
        """Send requests one after another."""
        raise NotImplementedError

    def together(self, app: Any, prepared: Sequence[Any]) -> None:
        """Send requests at once."""
        raise NotImplementedError

    def gate(self) -> Any:
        """Return what a handler is held by: called, it waits."""
        raise NotImplementedError

    def hold(self, app: Any, request: Request, gate: Any) -> Callable[[], None]:
        """Send a request whose handler is held; return what lets it go."""
        raise NotImplementedError

    def close(self) -> None:
        """End what was started."""


class _Life:
    """One ASGI request: hands the body over, then waits as a client does that stays."""

    __slots__ = ("_chunks", "_ended", "_is_over", "kept")

    def __init__(self, chunks: Sequence[dict[str, Any]], kept: list[Any] | None = None) -> None:
        self._chunks = iter(chunks)
        self._ended: asyncio.Event | None = None
        self._is_over = False
        self.kept = kept

    async def receive(self) -> dict[str, Any]:
        for chunk in self._chunks:
            return chunk
        if not self._is_over:
            self._ended = self._ended or asyncio.Event()
            await self._ended.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if self.kept is not None:
            self.kept.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            self._is_over = True
            if self._ended is not None:
                self._ended.set()


class _AsyncGate:
    def __init__(self) -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> None:
        self.entered.set()
        await self.opened.wait()


class ASGI(Driver):
    """Drives ASGI apps on one event loop."""

    def __init__(self) -> None:
        self._runner = asyncio.Runner()

    def close(self) -> None:
        self._runner.close()

    def prepared(self, request: Request) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
        parts = tuple(_parts(request.body))
        messages = tuple(
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, 1)
        )
        return _scope(request), messages

    def ask(self, app: Any, request: Request) -> Answer:
        messages: list[Any] = []
        self._runner.run(self._one(app, *self.prepared(request), messages))
        return Answer(messages[0]["status"], b"".join(m.get("body", b"") for m in messages))

    def run(self, app: Any, prepared: Sequence[Any]) -> None:
        self._runner.run(self._many(app, prepared))

    def together(self, app: Any, prepared: Sequence[Any]) -> None:
        async def all_of_them() -> None:
            await asyncio.gather(*(self._many(app, [each]) for each in prepared))

        self._runner.run(all_of_them())

    def gate(self) -> _AsyncGate:
        return _AsyncGate()

    def hold(self, app: Any, request: Request, gate: _AsyncGate) -> Callable[[], None]:
        async def enter() -> asyncio.Task[None]:
            task = asyncio.create_task(self._one(app, *self.prepared(request)))
            await asyncio.wait_for(gate.entered.wait(), 10)
            return task

        task = self._runner.run(enter())

        async def leave() -> None:
            gate.opened.set()
            await task

        return lambda: self._runner.run(leave())

    async def _one(self, app: Any, scope: Any, messages: Any, kept: Any = None) -> None:
        life = _Life(messages, kept)
        await app({**scope, "state": {}}, life.receive, life.send)

    async def _many(self, app: Any, prepared: Sequence[Any]) -> None:
        for scope, messages in prepared:
            life = _Life(messages)
            await app({**scope, "state": {}}, life.receive, life.send)


def _parts(body: bytes) -> Iterator[bytes]:
    yield body[:CHUNK]
    for first in range(CHUNK, len(body), CHUNK):
        yield body[first : first + CHUNK]


def _scope(request: Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "raw_path": request.path.encode(),
        "query_string": request.query.encode(),
        "root_path": "",
        "headers": [(k.encode(), v.encode("latin-1")) for k, v in request.fields.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }


class _Gate:
    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.entered.set()
        self.opened.wait(120)


class WSGI(Driver):
    """Drives WSGI apps in this thread."""

    def prepared(self, request: Request) -> tuple[dict[str, Any], bytes]:
        return _environ(request), request.body

    def ask(self, app: Any, request: Request) -> Answer:
        statuses: list[str] = []
        environ, body = self.prepared(request)
        parts = app({**environ, "wsgi.input": io.BytesIO(body)}, lambda s, *_: statuses.append(s))
        try:
            text = b"".join(parts)
        finally:
            getattr(parts, "close", lambda: None)()
        return Answer(int(statuses[0][:3]), text)

    def run(self, app: Any, prepared: Sequence[Any]) -> None:
        def start_response(*_: Any) -> None:
            pass

        for environ, body in prepared:
            parts = app({**environ, "wsgi.input": io.BytesIO(body)}, start_response)
            for _part in parts:
                pass
            getattr(parts, "close", lambda: None)()

    def together(self, app: Any, prepared: Sequence[Any]) -> None:
        threads = [threading.Thread(target=self.run, args=(app, [each])) for each in prepared]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def gate(self) -> _Gate:
        return _Gate()

    def hold(self, app: Any, request: Request, gate: _Gate) -> Callable[[], None]:
        thread = threading.Thread(target=self.ask, args=(app, request), daemon=True)
        thread.start()
        gate.entered.wait(10)

        def leave() -> None:
            gate.opened.set()
            thread.join(10)

        return leave


def _environ(request: Request) -> dict[str, Any]:
    fields = request.fields
    named = {
        "CONTENT_TYPE": fields.pop("content-type"),
        "CONTENT_LENGTH": fields.pop("content-length", ""),
    }
    headers = {f"HTTP_{k.upper().replace('-', '_')}": v for k, v in fields.items()}
    return dict(chain(_usual(request).items(), named.items(), headers.items()))


def _usual(request: Request) -> dict[str, Any]:
    return {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": request.path,
        "RAW_URI": request.path + (f"?{request.query}" if request.query else ""),
        "QUERY_STRING": request.query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_PORT": "50000",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        # As gunicorn, whose chunked bodies end by themselves.
        "wsgi.input_terminated": True,
    }
