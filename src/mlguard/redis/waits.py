"""How is a server asked by a thread, which waits?"""

from __future__ import annotations

import time
from typing import Any

from mlguard.redis.links import LATE, PIECE, Steps, Talk, Unreachable, Wait, unreachable


def drive(steps: Steps) -> Any:
    """Do what the steps ask for, and return what they return."""
    act = steps.send
    answer: Any = None
    try:
        while True:
            step = act(answer)
            try:
                answer = _talk(step) if isinstance(step, Talk) else _wait(step)
            except Unreachable as error:
                act, answer = steps.throw, error
            except OSError as error:
                act, answer = steps.throw, unreachable(error)
            else:
                act = steps.send
    except StopIteration as end:
        return end.value


def _talk(step: Talk) -> bytes:
    sock, data, until = step
    try:
        if data:
            sock.settimeout(_left(until))
            sock.sendall(data)
        # What has come is read, however late this thread had its turn.
        sock.settimeout(_left(until))
        return sock.recv(PIECE)
    except BlockingIOError:
        raise Unreachable(LATE, is_late=True) from None


def _wait(step: Wait) -> Any:
    return step.ready.result(_left(step.until))


def _left(until: float) -> float:
    return max(0.0, until - time.monotonic())
