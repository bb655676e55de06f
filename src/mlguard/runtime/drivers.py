"""How does a decision get what it asks for? One driver for threads, one for event loops."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeAlias, TypeVar

from mlguard import bodies
from mlguard.messages import Body, Debit, FetchKeys, ReadBody

T = TypeVar("T")
Steps: TypeAlias = Generator[ReadBody | FetchKeys | Debit, Any, T] | Generator[Debit, Any, T]

BRIEF = 0.25
"""Seconds for which any thread may wait for keys."""

LARGE = 256 * 1024
"""Bytes from which parsing would hold up an event loop noticeably."""


def drive(steps: Steps[T], read: Callable[[int], bytes | None] = lambda _: b"") -> T:
    """Run a decision to its end, blocking.

    Args:
        steps: The decision.
        read: Reads the request's body of at most so many bytes; None where it is larger.
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
        elif isinstance(request, FetchKeys):
            _wait(request)
            answer = None
        else:
            raw = read(request.limit)
            answer = Body(too_large=True) if raw is None else Body(value=bodies.parse(raw))


def _wait(request: FetchKeys) -> None:
    """Block a thread, but not many: a slow key server must not hold all that a service has."""
    done, _ = concurrent.futures.wait([request.ready], min(BRIEF, request.seconds))
    if not done and request.seconds > BRIEF and request.patient.acquire(blocking=False):
        try:
            concurrent.futures.wait([request.ready], request.seconds - BRIEF)
        finally:
            request.patient.release()


async def _nothing(limit: int) -> bytes:
    return b""


async def adrive(steps: Steps[T], read: Callable[[int], Awaitable[bytes | None]] = _nothing) -> T:
    """Run a decision to its end, never blocking the event loop."""
    answer: Any = None
    while True:
        try:
            request = steps.send(answer)
        except StopIteration as decided:
            result: T = decided.value
            return result
        if isinstance(request, Debit):
            answer = await request.ledger.adebit(request.order)
        elif isinstance(request, FetchKeys):
            # Neither a client that leaves nor this timeout cancels what others wait for.
            await asyncio.wait([asyncio.wrap_future(request.ready)], timeout=request.seconds)
            answer = None
        else:
            raw = await read(request.limit)
            answer = Body(too_large=True) if raw is None else Body(value=await aparse(raw))


async def aparse(raw: bytes) -> Any:
    """Read JSON, a large one off the event loop."""
    if len(raw) < LARGE:
        return bodies.parse(raw)
    return await asyncio.to_thread(bodies.parse, raw)
