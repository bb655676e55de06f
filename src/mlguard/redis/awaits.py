"""How is a server asked on an event loop, which never waits?"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any
from weakref import WeakKeyDictionary

from mlguard.redis.links import LATE, PIECE, Steps, Talk, Unreachable, Wait, unreachable

_TURNS = 3  # of the loop, in which an answer that has arrived is read
_AT_ONCE = 8  # calls of one event loop, which more would only hold up


async def drive(steps: Steps) -> Any:
    """Do what the steps ask for, and return what they return."""
    act = steps.send
    answer: Any = None
    try:
        while True:
            step = act(answer)
            try:
                async with _in_time(step.until):
                    answer = await (_talk(step) if isinstance(step, Talk) else _wait(step))
            except Unreachable as error:
                act, answer = steps.throw, error
            except OSError as error:
                act, answer = steps.throw, unreachable(error)
            else:
                act = steps.send
    except StopIteration as end:
        return end.value
    finally:
        steps.close()


async def _talk(step: Talk) -> bytes:
    sock, data, _ = step
    loop = asyncio.get_running_loop()
    sock.setblocking(False)
    if data:
        await loop.sock_sendall(sock, data)
    return await loop.sock_recv(sock, PIECE)


async def _wait(step: Wait) -> Any:
    return await asyncio.wrap_future(step.ready)


@contextlib.asynccontextmanager
async def _in_time(until: float) -> AsyncIterator[None]:
    """Give up with a TimeoutError; a loop that was held up reads what is there before."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        seconds = max(0.0, until - time.monotonic())
        alarm = loop.call_later(seconds, _give_up, loop, limit, _TURNS)
        try:
            yield
        finally:
            alarm.cancel()


def _give_up(loop: asyncio.AbstractEventLoop, limit: asyncio.Timeout, turns: int) -> None:
    if turns:
        loop.call_soon(_give_up, loop, limit, turns - 1)
        return
    with contextlib.suppress(RuntimeError):  # it was in time after all
        limit.reschedule(loop.time())


class Turns:
    """Lets few tasks of each event loop ask at a time.

    A crowd that is served one after another is no sign that the server is away.

    Args:
        silence: Seconds for which it is no wonder that nobody was answered.
        patience: Seconds to wait at most.
    """

    def __init__(self, silence: float, patience: float) -> None:
        self._silence = silence
        self._patience = patience
        self._gates: WeakKeyDictionary[asyncio.AbstractEventLoop, Gate] = WeakKeyDictionary()

    @contextlib.asynccontextmanager
    async def turn(self) -> AsyncIterator[Gate]:
        """Wait until few others of the loop are asking, as long as those are answered.

        Who is answered notes it at the gate.
        """
        gate = self._gates.setdefault(asyncio.get_running_loop(), Gate())
        came = time.monotonic()
        try:
            async with asyncio.timeout(self._patience):
                await gate.places.acquire()
        except TimeoutError:
            raise Unreachable("too many wait for it at once") from None
        try:
            if gate.answered < came <= time.monotonic() - self._silence:
                raise Unreachable(LATE, is_late=True)
            yield gate
        finally:
            gate.places.release()


class Gate:
    """What one event loop lets through.

    Attributes:
        places: For so many tasks.
        answered: When something was answered last, by time.monotonic.
    """

    def __init__(self) -> None:
        self.places = asyncio.Semaphore(_AT_ONCE)
        self.answered = 0.0
