"""How does a decision get what it asks for? One driver for threads, one for event loops."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from mlguard import bodies
from mlguard.guard import Steps
from mlguard.messages import Body, Deny

LARGE = 256 * 1024
"""Bytes from which parsing would hold up an event loop noticeably."""


def drive(steps: Steps, read: Callable[[int], bytes | None]) -> Deny | None:
    """Run a decision to its end, blocking.

    Args:
        steps: The decision.
        read: Reads the request's body of at most so many bytes; None where it is larger.
    """
    body: Any = None
    while True:
        try:
            request = steps.send(body)
        except StopIteration as decided:
            deny: Deny | None = decided.value
            return deny
        raw = read(request.limit)
        body = Body(too_large=True) if raw is None else Body(value=bodies.parse(raw))


async def adrive(steps: Steps, read: Callable[[int], Awaitable[bytes | None]]) -> Deny | None:
    """Run a decision to its end, never blocking the event loop."""
    body: Any = None
    while True:
        try:
            request = steps.send(body)
        except StopIteration as decided:
            deny: Deny | None = decided.value
            return deny
        raw = await read(request.limit)
        body = Body(too_large=True) if raw is None else Body(value=await aparse(raw))


async def aparse(raw: bytes) -> Any:
    """Read JSON, a large one off the event loop."""
    if len(raw) < LARGE:
        return bodies.parse(raw)
    return await asyncio.to_thread(bodies.parse, raw)
