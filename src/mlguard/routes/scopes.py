"""What may only some callers do?"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__mlguard_scopes__"
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749 section 3.3


def demanding(function: F, scopes: frozenset[str], check: Callable[[frozenset[str]], None]) -> F:
    """Make a handler demand scopes: marked for the decision before it, and checked again in it.

    The mark gets lost under a decorator that does not use functools.wraps; the check does not.
    """
    guarded: Any = functools.wraps(function)(_checked(function, partial(check, scopes)))
    mark(guarded, scopes)
    return guarded  # type: ignore[no-any-return]


def checked_scopes(scopes: Iterable[str]) -> frozenset[str]:
    """Take scopes that a route demands.

    Raises:
        ValueError: No scope, or one that no token can hold.
    """
    found = frozenset(scopes)
    if not found or not all(isinstance(s, str) and _SCOPE.fullmatch(s) for s in found):
        raise ValueError(f"scopes {sorted(map(str, found))}: must be one or more words")
    return found


def mark(handler: object, scopes: frozenset[str]) -> None:
    """Note which scopes a handler demands, beyond those it demands already."""
    setattr(handler, _MARK, scopes | demanded(handler))


def _checked(function: Callable[..., Any], check: Callable[[], None]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        check()
        return function(*args, **kwargs)

    async def achecked(*args: Any, **kwargs: Any) -> Any:
        check()
        return await function(*args, **kwargs)

    return achecked if inspect.iscoroutinefunction(function) else checked


def demanded(handler: object) -> frozenset[str]:
    """Tell which scopes a handler is marked to demand."""
    return getattr(handler, _MARK, frozenset())
