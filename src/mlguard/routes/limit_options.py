"""What may be given to `guard.limit`?"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlguard.settings import Rate

if TYPE_CHECKING:
    from limits import RateLimitItem

_MOST = 2**53  # beyond, a store that counts in floating point miscounts
_LONGEST = 2**31  # seconds

_INSTEAD = {
    "key_func": "it counts for the caller, or where none is known for the client's network",
    "deduct_when": "it is charged before the handler runs; give exempt_when or cost",
    "on_breach": "the answer is 429 rate_exceeded on every route; give error_message",
    "scope": "each route counts for itself; what routes share stands in [quotas]",
    "shared": "each route counts for itself; what routes share stands in [quotas]",
    "meta_limits": "give longer windows too, as in '5/minute;100/hour'",
    "override_defaults": "what [quotas] says always holds beside it; give exempt routes there",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What was given to one `guard.limit`, checked but for what a framework's functions take.

    Attributes:
        limit_value: The rates, or a function that tells them.
        cost: What a request costs, or a function that tells it.
        per_method: Whether each method counts for itself.
        methods: For which methods it holds, None for all; HEAD is a GET.
        exempt_when: A function that says when it does not hold.
        error_message: What a refused client is told, or a function that says it.
    """

    limit_value: str | Callable[..., str]
    cost: int | Callable[..., int]
    per_method: bool
    methods: frozenset[str] | None
    exempt_when: Callable[..., bool] | None
    error_message: str | Callable[[], str] | None


def check_options(
    limit_value: Any,
    others: Sequence[object],
    unknown: dict[str, Any],
    *,
    cost: Any,
    per_method: bool,
    methods: Iterable[str] | None,
    exempt_when: Any,
    error_message: Any,
) -> Options:
    """Check what is given to `guard.limit`, by position and by names that it has not too.

    Raises:
        TypeError: What cannot be meant so, or what slowapi and flask-limiter have and this has not.
        ValueError: A number or a list that makes no sense.
    """
    for name in ["key_func", *unknown] if others else unknown:
        raise TypeError(f"guard.limit has no {name}: {_INSTEAD.get(name, 'see its docstring')}")
    if not isinstance(limit_value, str) and not callable(limit_value):
        raise TypeError(f"guard.limit({limit_value!r}): must be rates like '5/minute;100/hour'")
    if not callable(cost) and (not isinstance(cost, int) or cost < 1):
        raise ValueError(f"guard.limit: cost = {cost!r} must be a whole number from 1, or callable")
    if exempt_when is not None and not callable(exempt_when):
        raise TypeError(f"guard.limit: exempt_when = {exempt_when!r} must be a function")
    if not isinstance(error_message, str | None) and not callable(error_message):
        raise TypeError(f"guard.limit: error_message = {error_message!r} must be text, or callable")
    check_function("error_message", error_message, 0)
    return Options(limit_value, cost, per_method, _methods(methods), exempt_when, error_message)


def _methods(methods: Iterable[str] | None) -> frozenset[str] | None:
    if methods is None:
        return None
    names = [] if isinstance(methods, str) else list(methods)
    if not names:
        raise ValueError(f"guard.limit: methods = {methods!r} must be a list like ['POST']")
    return frozenset("GET" if n.upper() == "HEAD" else n.upper() for n in names)


def check_function(name: str, function: object, *numbers: int) -> None:
    """Check a function that is asked at each request.

    Args:
        name: Of the option.
        function: What was given; what is no function passes.
        *numbers: How many arguments it may take.

    Raises:
        TypeError: It is async, or takes other arguments.
    """
    if not callable(function):
        return
    call = getattr(function, "__call__", None)  # noqa: B004 - of an object with one
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
        raise TypeError(f"guard.limit: {name} must not be async: the decision does not await it")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return
    for number in numbers:
        try:
            signature.bind(*[None] * number)
        except TypeError:
            continue
        return
    wanted = " or ".join(map(str, numbers))
    raise TypeError(f"guard.limit: {name} must take {wanted} arguments, not {signature}")


def check_handler(function: object) -> None:
    """Check what `guard.limit` stands above.

    Raises:
        TypeError: It is no handler.
    """
    if inspect.isclass(function) or not callable(function):
        raise TypeError(
            f"guard.limit stands above a function, not above {function!r}: "
            "name the methods of a class, or its `decorators`, and each view of a blueprint"
        )


def rates(items: Iterable[RateLimitItem]) -> tuple[Rate, ...]:
    """Take the windows that `limits` parsed; of two as long as each other the smaller holds.

    Raises:
        ValueError: One that the kit cannot count, or none at all.
    """
    found: dict[int, Rate] = {}
    for item in items:
        rate = _rate(item)
        known = found.get(rate.seconds, rate)
        found[rate.seconds] = min(known, rate, key=lambda r: r.limit)
    if not found:
        raise ValueError("guard.limit: no rate; use exempt_when where none shall hold")
    return tuple(found.values())


def _rate(item: RateLimitItem) -> Rate:
    unit, seconds = item.GRANULARITY.name, item.get_expiry()
    several = item.multiples != 1
    text = f"{item.amount} per {item.multiples} {unit}s" if several else f"{item.amount}/{unit}"
    if not 0 < item.amount < _MOST or not 0 < seconds < _LONGEST:
        raise ValueError(f"guard.limit: {text!r} must be at least 1, and can be counted to")
    return Rate(text=text, limit=item.amount, seconds=seconds)


def told(limit_value: object) -> str:
    """Tell the rates as written, or the name of the function that tells them."""
    return limit_value if isinstance(limit_value, str) else f"{named(limit_value)}()"


def named(handler: object) -> str:
    """Name a handler by where it is defined, below all that wraps it."""
    while True:
        if isinstance(handler, partial):
            handler = handler.func
        elif (inner := getattr(handler, "__wrapped__", None)) is not None:
            handler = inner
        else:
            break
    place = handler if hasattr(handler, "__qualname__") else type(handler)
    return f"{place.__module__}.{place.__qualname__}"
