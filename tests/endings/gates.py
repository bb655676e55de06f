"""How does a test hold a handler, whatever server and worker runs it?

By files: they need no second request, which a server with one worker could not take.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

_LONGEST = 60.0  # seconds that a handler is held at most, should its test have gone
_POLL = 0.003


def _folder() -> Path:
    return Path(os.environ["ENDINGS_GATES"])


def _held(name: str) -> Iterator[None]:
    """Say that somebody stands at the gate; yield until it is opened."""
    folder, deadline = _folder(), time.monotonic() + _LONGEST
    (folder / f"{name}.reached").touch()
    while not (folder / name).exists() and time.monotonic() < deadline:
        yield


def wait(name: str) -> None:
    """Wait at the gate of that name."""
    for _ in _held(name):
        time.sleep(_POLL)


async def await_(name: str) -> None:
    """Wait at the gate of that name, and let others run."""
    for _ in _held(name):
        await asyncio.sleep(_POLL)


_BLOCK = b"x" * 65536
# More than sockets and servers buffer, and long enough for any to notice that nobody reads.
_BLOCKS = 400


def flood() -> Iterator[bytes]:
    """Yield more than a server keeps for a client that has left."""
    for _ in range(_BLOCKS):
        yield _BLOCK
        time.sleep(_POLL)


async def aflood() -> AsyncIterator[bytes]:
    """Yield more than a server keeps for a client that has left."""
    for _ in range(_BLOCKS):
        yield _BLOCK
        await asyncio.sleep(_POLL)
