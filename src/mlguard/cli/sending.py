"""How does a request pass an app in this process, without a server?"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, NamedTuple, Protocol

from mlguard.cli.terminal import lasting, others_speak
from mlguard.errors import MLGuardError

_PATIENCE = 60.0  # seconds for an answer, or for a start


class Request(NamedTuple):
    """What is sent.

    Attributes:
        method: The method.
        path: The path, and the query after it.
        headers: All but the body's length.
        body: The bytes.
    """

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""

    def with_headers(self, headers: Mapping[str, str]) -> Request:
        """Return the same with further headers."""
        return self._replace(headers={**self.headers, **headers})


class Response(NamedTuple):
    """What came back.

    Attributes:
        status: The HTTP status.
        headers: In order, with names in lower case.
        body: The bytes.
        seconds: How long it took.
        error: What the app raised and nobody answered, "" where it raised nothing.
    """

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    seconds: float
    error: str = ""

    def header(self, name: str) -> str:
        """Read a header, "" where there is none."""
        return next((value for known, value in self.headers if known == name), "")


class Sender(Protocol):
    """Sends a request, and returns what came back."""

    def __call__(self, request: Request, /) -> Response:
        """Send it."""


@contextmanager
def running(app: Any) -> Iterator[Sender]:
    """Have an app answer requests as a server would, what it does at its start included.

    Raises:
        MLGuardError: It does not start, or does not answer.
    """
    with others_speak():
        if _is_asgi(app):
            with asyncio.Runner() as runner:
                yield from _asgi(app, runner)
        else:
            yield _told_of(lambda request: _wsgi(app, request))


def _told_of(send: Sender) -> Sender:
    """Have a person told what lasts."""

    def sending(request: Request) -> Response:
        with lasting(f"asking {request.method} {request.path}"):
            return send(request)

    return sending


def _is_asgi(app: Any) -> bool:
    """Tell ASGI from WSGI as uvicorn does."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)  # noqa: B004 - it is the function that is asked
    )


def _asgi(app: Any, runner: asyncio.Runner) -> Iterator[Sender]:
    import httpx2

    living = _living(app)
    with lasting("starting the app"):
        state = runner.run(living.__aenter__())

    raised: list[Exception] = []

    async def with_state(scope: Any, receive: Any, send: Any) -> None:
        try:
            await app({**scope, "state": dict(state)}, receive, send)
        except Exception as error:
            raised.append(error)
            raise

    async def ask(request: Request) -> Response:
        transport = httpx2.ASGITransport(with_state, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
            began = time.perf_counter()
            try:
                async with asyncio.timeout(_PATIENCE):
                    answer = await client.request(
                        request.method,
                        request.path,
                        headers=dict(request.headers),
                        content=request.body,
                    )
            except TimeoutError:
                raise _silent(request) from None
            return _answer(answer, began, raised)

    try:
        yield _told_of(lambda request: runner.run(ask(request)))
    finally:
        runner.run(living.__aexit__(None, None, None))


def _wsgi(app: Any, request: Request) -> Response:
    import httpx2

    transport = httpx2.WSGITransport(app, raise_app_exceptions=False)
    with httpx2.Client(transport=transport, base_url="http://localhost") as client:
        began = time.perf_counter()
        answer = client.request(
            request.method, request.path, headers=dict(request.headers), content=request.body
        )
        return _answer(answer, began)


def _answer(answer: Any, began: float, raised: list[Exception] | None = None) -> Response:
    error = "".join(f"{type(e).__name__}: {e}" for e in (raised or ())[-1:])
    headers = tuple((name.lower(), value) for name, value in answer.headers.multi_items())
    return Response(answer.status_code, headers, answer.content, time.perf_counter() - began, error)


def _silent(request: Request) -> MLGuardError:
    return MLGuardError(f"{request.method} {request.path}: no answer within {_PATIENCE:.0f} s")


@asynccontextmanager
async def _living(app: Any) -> AsyncIterator[dict[str, Any]]:
    """Have an app start and stop (ASGI's lifespan); one that knows no such thing is left alone.

    Raises:
        MLGuardError: It says why it does not start.
    """
    orders: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    said: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    state: dict[str, Any] = {}
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    life = asyncio.ensure_future(app(scope, orders.get, said.put))
    if (wrong := await _told(orders, said, life, "startup")) is not None:
        raise MLGuardError(f"the app does not start: {wrong}")
    try:
        yield state
    finally:
        await _told(orders, said, life, "shutdown")
        life.cancel()


async def _told(
    orders: asyncio.Queue[dict[str, Any]],
    said: asyncio.Queue[dict[str, Any]],
    life: asyncio.Future[Any],
    event: str,
) -> str | None:
    """Give an order and wait for what is said to it: what is wrong, None where nothing is."""
    orders.put_nowait({"type": f"lifespan.{event}"})
    saying = asyncio.ensure_future(said.get())
    done, _ = await asyncio.wait(
        {saying, life}, timeout=_PATIENCE, return_when=asyncio.FIRST_COMPLETED
    )
    if saying in done:
        message = saying.result()
        return _reason(message) if message["type"].endswith("failed") else None
    saying.cancel()
    return None if life in done else f"it does not say so within {_PATIENCE:.0f} s"


def _reason(message: dict[str, Any]) -> str:
    """Tell why an app does not start; of a traceback, which frameworks send, the last line."""
    text = str(message.get("message") or "it does not say why").strip()
    return text.splitlines()[-1] if text.startswith("Traceback") else text
