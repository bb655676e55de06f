"""When does a handler begin and return? Before it, a request waits for a thread."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any


def timed(call: Callable[..., Any], current: ContextVar[Any]) -> Callable[..., Any]:
    """Have a handler tell the current request when it begins and when it has returned.

    Args:
        call: The handler.
        current: Holds the exchange.
    """

    def told(*args: Any, **kwargs: Any) -> Any:
        exchange = current.get()
        if exchange is None:
            return call(*args, **kwargs)
        exchange.handler_started()
        answer = call(*args, **kwargs)
        exchange.handler_returned()
        return answer

    async def atold(*args: Any, **kwargs: Any) -> Any:
        exchange = current.get()
        if exchange is None:
            return await call(*args, **kwargs)
        exchange.handler_started()
        answer = await call(*args, **kwargs)
        exchange.handler_returned()
        return answer

    watching: Any = functools.wraps(call)(atold if inspect.iscoroutinefunction(call) else told)
    watching.__mlguard_timed__ = True
    return watching  # type: ignore[no-any-return]
