"""How does a decision get what it asks for? One driver for threads, one for event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
import inspect
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

from mlguard.messages import AskApp, Compute, Cut, Debit, FetchKeys, ReadBody

T = TypeVar("T")
Steps: TypeAlias = (
    Generator[ReadBody | FetchKeys | AskApp | Debit | Compute, Any, T] | Generator[Debit, Any, T]
)
Read: TypeAlias = Callable[[int, float], bytes | Cut]
AsyncRead: TypeAlias = Callable[[int, float], Awaitable[bytes | Cut]]

BRIEF = 0.25
"""Seconds for which any thread may wait for keys."""


def drive(steps: Steps[T], read: Read | None = None) -> T:
    """Run a decision to its end, blocking.

    Args:
        steps: The decision.
        read: Reads the request's body: of at most so many bytes, in so many seconds.
    """
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as decided:
            result: T = decided.value
            return result
        if isinstance(request, Debit):
            answer = request.ledger.debit(request.order)
        elif isinstance(request, ReadBody):
            answer = read(request.limit, request.seconds) if read else b""
        elif isinstance(request, Compute):
            answer = request.function()
        elif isinstance(request, AskApp):
            answer = _asked(request)
        else:
            _wait(request)
            answer = None


def _wait(request: FetchKeys) -> None:
    """Block a thread, but not many: a slow key server must not hold all that a service has."""
    done, _ = concurrent.futures.wait([request.ready], min(BRIEF, request.seconds))
    if not done and request.seconds > BRIEF and request.patient.acquire(blocking=False):
        try:
            concurrent.futures.wait([request.ready], request.seconds - BRIEF)
        finally:
            request.patient.release()


async def adrive(steps: Steps[T], read: AsyncRead | None = None) -> T:
    """Run a decision to its end, never blocking the event loop; takes what `drive` takes."""
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as decided:
            result: T = decided.value
            return result
        if isinstance(request, Debit):
            answer = await request.ledger.adebit(request.order)
        elif isinstance(request, ReadBody):
            answer = await read(request.limit, request.seconds) if read else b""
        elif isinstance(request, Compute):
            answer = await asyncio.to_thread(request.function)
        elif isinstance(request, AskApp):
            answer = await _awaited(request)
        else:
            # Neither a client that leaves nor this timeout cancels what others wait for.
            await asyncio.wait([asyncio.wrap_future(request.ready)], timeout=request.seconds)
            answer = None


def _asked(request: AskApp) -> Any:
    try:
        return request.function()
    except Exception as error:  # noqa: BLE001 - whoever asked decides what it means
        return error


async def _awaited(request: AskApp) -> Any:
    """Call a function of the app: one of sync code in a thread, as FastAPI does."""
    try:
        if inspect.iscoroutinefunction(request.function):
            return await request.function()
        found = await asyncio.to_thread(request.function)
        return await found if inspect.isawaitable(found) else found
    except Exception as error:  # noqa: BLE001 - whoever asked decides what it means
        return error


def on_event_loop() -> bool:
    """Say whether an event loop runs here, which must not be blocked."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
