"""How is a server asked on an event loop?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

from redis.asyncio.connection import Connection, SSLConnection

from mlguard.places import Node, Place
from mlguard.redis.asks import Answer, Ask, Command, Steps, Unreachable
from mlguard.redis.clocks import Clocks
from mlguard.redis.links import (
    LATE,
    REFUSALS,
    options,
    refusal,
    unreachable,
)

_TURNS = 3  # of the loop, in which an answer that has arrived is read
_AT_ONCE = 8  # calls of one event loop, which more would only hold up


class AsyncPool:
    """Connections of this process' event loops, each used by one task at a time.

    Args:
        place: What the URL says.
        clocks: The clocks of the servers.
    """

    def __init__(self, place: Place, clocks: Clocks) -> None:
        self._place = place
        self._clocks = clocks
        # By process, too: what a parent made is the parent's, and only it may close that.
        self._homes: dict[tuple[int, int], _Home] = {}

    async def drive(self, steps: Steps) -> Any:
        """Do what the steps ask for, and return what they return."""
        try:
            ask = next(steps)
            while True:
                try:
                    answer = await self.ask(ask)
                except Unreachable as error:
                    ask = steps.throw(error)
                else:
                    ask = steps.send(answer)
        except StopIteration as stop:
            return stop.value

    async def ask(self, ask: Ask) -> Answer:
        """Ask a server; an `Unreachable` where it does not answer in time."""
        home = await self._home()
        left = max(0.0, ask.until - time.monotonic())
        try:
            async with _in_time(left):
                answer = await self._ask(home, ask)
        except TimeoutError:
            raise Unreachable(LATE, is_late=True) from None
        home.answered = time.monotonic()
        return answer

    @contextlib.asynccontextmanager
    async def turn(self, silence: float, patience: float) -> AsyncIterator[None]:
        """Wait until few others of the loop are asking, as long as those are answered.

        A crowd that is served one after another is no sign that the server is away.

        Args:
            silence: Seconds for which it is no wonder that nobody was answered.
            patience: Seconds to wait at most.
        """
        home = await self._home()
        came = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                await home.gate.acquire()
        except TimeoutError:
            raise Unreachable("too many wait for it at once") from None
        try:
            if home.answered < came <= time.monotonic() - silence:
                raise Unreachable(LATE, is_late=True)
            yield
        finally:
            home.gate.release()

    async def _home(self) -> _Home:
        loop = asyncio.get_running_loop()
        key = (os.getpid(), id(loop))
        home = self._homes.get(key)
        if home is None or home.loop is not loop:
            for other, old in list(self._homes.items()):
                if old.loop.is_closed():
                    self._homes.pop(other, None)
            home = self._homes[key] = _Home(loop)
            await home.open()
        return home

    async def _ask(self, home: _Home, ask: Ask) -> Answer:
        idle = home.idle[ask.node]
        if not idle:
            return await self._ask_anew(home, ask)
        try:
            return await self._exchange(home, idle.pop(), ask)
        except Unreachable:
            # The server was restarted: all that is old is useless.
            while idle:
                await _abort(idle.pop())
        return await self._ask_anew(home, ask)

    async def _ask_anew(self, home: _Home, ask: Ask) -> Answer:
        kind: Any = SSLConnection if self._place.is_encrypted else Connection
        kept = options(self._place, ask.node)
        link = kind(**kept, socket_timeout=None, socket_connect_timeout=None)
        try:
            await link.connect()
        except Exception as error:  # noqa: BLE001 - the package raises of all kinds
            await _abort(link)
            raise unreachable(error) from None
        except BaseException:
            await _abort(link)
            raise
        if not ask.node.is_sentinel:
            answer = await _exchange(link, [("TIME",)])
            try:
                self._clocks.greet(ask.node, answer)
            except Unreachable:
                await _abort(link)
                raise
        return await self._exchange(home, link, ask)

    async def _exchange(self, home: _Home, link: Any, ask: Ask) -> Answer:
        commands = ask.commands(self._clocks.deadline(ask.node, ask.until))
        answer = await _exchange(link, commands)
        if home.is_open:
            home.idle[ask.node].append(link)
        else:
            await _abort(link)
        return answer


class _Home:
    """What one event loop has, until it ends.

    A loop closes its asynchronous generators before it ends, so one of them closes the connections.

    Attributes:
        idle: Connections that nobody uses, by server.
        gate: Lets a few tasks in at a time.
        answered: When something was answered last, by time.monotonic.
        is_open: Whether connections are kept.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.idle: dict[Node, list[Any]] = defaultdict(list)
        self.gate = asyncio.Semaphore(_AT_ONCE)
        self.answered = 0.0
        self.is_open = False
        self._keeper = self._keep()

    async def open(self) -> None:
        """Keep connections from now on."""
        self.is_open = True
        await anext(self._keeper)

    async def close(self) -> None:
        """Let the connections go."""
        self.is_open = False
        links = [link for idle in self.idle.values() for link in idle]
        self.idle.clear()
        for link in links:
            await _abort(link)
        # An aborted connection is gone when the loop has turned.
        for _ in range(3 if links else 0):
            await asyncio.sleep(0)

    async def _keep(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            await self.close()


@contextlib.asynccontextmanager
async def _in_time(seconds: float) -> AsyncIterator[None]:
    """Give up with a TimeoutError; a loop that was held up reads what is there before."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
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


async def _abort(link: Any) -> None:
    """Close a connection at once: whoever does not answer would not say goodbye either."""
    writer = getattr(link, "_writer", None)
    if writer is not None:
        writer.transport.abort()
    await link.disconnect(nowait=True)


async def _exchange(link: Any, commands: Sequence[Command]) -> Answer:
    sent = time.monotonic()
    try:
        await link.send_packed_command(link.pack_commands(commands), check_health=False)
        replies = [await _reply(link) for _ in commands]
    except Exception as error:  # noqa: BLE001 - a junk answer is one of any kind
        await _abort(link)
        raise unreachable(error) from None
    except BaseException:
        await _abort(link)
        raise
    return Answer(replies, sent, time.monotonic())


async def _reply(link: Any) -> Any:
    try:
        return await link.read_response()
    except REFUSALS as error:
        return refusal(error)
