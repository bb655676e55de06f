"""How often may one route be asked? What `guard.limit` declares above its handler."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar, cast, overload

from limits import RateLimitItem
from pydantic import TypeAdapter, ValidationError

from mlguard.guard.exchange import Exchange, Steps
from mlguard.guard.guard import Guard
from mlguard.logs import Seldom
from mlguard.metrics import METHODS
from mlguard.quotas import RouteLimit
from mlguard.settings import Rate
from mlguard.settings.values import RateText

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__mlguard_limits__"
_MISSED = "__mlguard_limits_above__"
_RATE: TypeAdapter[Rate] = TypeAdapter(RateText)
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


class Terms(NamedTuple):
    """What a declaration says of one request.

    Attributes:
        rates: The windows, as `limits` parsed them.
        cost: What the app says that it costs, whatever that is.
    """

    rates: Iterable[RateLimitItem]
    cost: object


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """One `guard.limit` of one handler: no two are the same.

    Attributes:
        text: The rates as written, or the name of the function that tells them.
        ask: Says the terms for a request of the framework; None where it is exempt.
        methods: For which methods it holds, None for all; HEAD is a GET.
        per_method: Whether each method counts for itself.
        message: What a refused client is told, or the function that says it.
        number: How many stand below it, above the same handler.
    """

    text: str
    ask: Callable[[Any], Terms | None]
    methods: frozenset[str] | None = None
    per_method: bool = False
    message: str | Callable[..., str] | None = None
    number: int = 0
    _log: Seldom = field(default_factory=Seldom)

    def limits(self, request: Any, method: str, bucket: str) -> Iterator[RouteLimit]:
        """Say which limits one request is charged."""
        if self.methods is not None and method not in self.methods:
            return
        terms = self.ask(request)
        if terms is None:
            return
        cost = self._whole(terms.cost)
        if self.per_method:
            bucket = f"{bucket} {method}"
        for rate in rates(terms.rates):
            yield RouteLimit(rate, min(cost, rate.limit + 1), bucket, self, self.message)

    def _whole(self, cost: object) -> int:
        try:
            units = operator.index(cost)  # type: ignore[arg-type]
        except TypeError:
            units = -1
        if units >= 0:
            return units
        said = f"a {type(cost).__name__}" if not isinstance(cost, int) else "below zero"
        self._log.warning("cost", "the cost of limit %s was %s: counted as 1", self.text, said)
        return 1


class _Due(Sequence[RouteLimit]):
    """What one request is charged: asked once, when the decision first looks at it.

    By then it is known who calls, and the body is read that the settings ask for.
    """

    __slots__ = ("_ask", "_found")

    def __init__(self, ask: Callable[[], Sequence[RouteLimit]]) -> None:
        self._ask = ask
        self._found: Sequence[RouteLimit] | None = None

    @property
    def _limits(self) -> Sequence[RouteLimit]:
        if self._found is None:
            self._found = self._ask()
        return self._found

    def __len__(self) -> int:
        return len(self._limits)

    @overload
    def __getitem__(self, index: int) -> RouteLimit: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[RouteLimit]: ...
    def __getitem__(self, index: int | slice) -> RouteLimit | Sequence[RouteLimit]:
        return self._limits[index]


def due(
    guard: Guard,
    exchange: Exchange,
    found: Sequence[Declared],
    request: Callable[[], Any],
    *,
    method: str,
    template: str,
    handler: object,
    is_late: bool = False,
) -> Sequence[RouteLimit]:
    """Tell what a request of a route is charged.

    Args:
        guard: Whose `caller()` the app's functions may ask.
        exchange: The request as the core sees it.
        found: What the route's handler declares.
        request: Shows the request as the framework sees it.
        method: As sent.
        template: As the framework spells the route.
        handler: Of the route.
        is_late: Whether it is the handler that asks, which may be another one than the route's.
    """
    if not found:
        return ()

    def ask() -> list[RouteLimit]:
        asked = "GET" if method == "HEAD" else method if method in METHODS else "_OTHER"
        place = f"{template} {named(handler)}{' late' if is_late else ''}"
        limits: list[RouteLimit] = []
        with guard.handling(exchange):
            for number, declared in enumerate(found, found[0].number if is_late else 0):
                bucket = f"{place} {number}" if number else place
                mine = list(declared.limits(request(), asked, bucket))
                limits += mine
                if not mine:
                    exchange.limited.add(declared)  # the handler must not ask again
        return limits

    return _Due(ask)


def owed(
    guard: Guard | None,
    declared: Declared,
    request: Callable[[], Any],
    method: Callable[[], str],
    handler: object,
) -> Steps | None:
    """Tell what a handler still owes when it runs; None where the decision charged it.

    The mark gets lost under a decorator that does not use functools.wraps. Outside of a request
    nobody owes anything.

    Args:
        guard: The guard, None before it guards an app.
        declared: What the handler declares.
        request: Shows the request as the framework sees it.
        method: Tells its method.
        handler: Which it stands above.
    """
    exchange: Exchange | None = guard.current.get() if guard else None
    if guard is None or exchange is None or declared in exchange.limited:
        return None
    limits = due(
        guard,
        exchange,
        (declared,),
        request,
        method=method(),
        template=exchange.route,
        handler=handler,
        is_late=True,
    )
    return guard.limit(limits)


def limiting(
    function: F,
    declared: Declared,
    charge: Callable[[Declared, object], None],
    acharge: Callable[[Declared, object], Any],
) -> F:
    """Make a handler declare a limit: marked for the decision before it, and looked at in it.

    Args:
        function: The handler.
        declared: What was declared; each handler gets one of its own.
        charge: Charges what is still owed, blocking.
        acharge: Charges it without blocking.

    Raises:
        TypeError: It is no handler.
    """
    if inspect.isclass(function) or not callable(function):
        raise TypeError(
            f"guard.limit stands above a function, not above {function!r}: "
            "name the methods of a class, or its `decorators`, and each view of a blueprint"
        )
    own = replace(declared, number=len(limited(function)))

    def charged(*args: Any, **kwargs: Any) -> Any:
        charge(own, function)
        return function(*args, **kwargs)

    async def acharged(*args: Any, **kwargs: Any) -> Any:
        await acharge(own, function)
        return await function(*args, **kwargs)

    is_async = inspect.iscoroutinefunction(function)
    guarded: Any = functools.wraps(function)(acharged if is_async else charged)
    guarded.__dict__.pop(_MISSED, None)
    mark_limits(guarded, *limited(function), own)
    with suppress(AttributeError):  # a method of an object has no room for it
        setattr(function, _MISSED, (*getattr(function, _MISSED, ()), own))
    return cast("F", guarded)


def limited(handler: object) -> tuple[Declared, ...]:
    """Tell which limits a handler is marked to declare, the innermost first."""
    while isinstance(handler, partial):
        handler = handler.func
    return getattr(handler, _MARK, ())


def mark_limits(handler: object, *declared: Declared) -> None:
    """Note which limits a handler declares."""
    setattr(handler, _MARK, declared)


def missed(handler: object) -> tuple[str, ...]:
    """Tell the limits of a handler that a framework was given without them.

    So it is where guard.limit stands above the framework's own decorator.
    """
    above: tuple[Declared, ...] = getattr(handler, _MISSED, ())
    return tuple(declared.text for declared in above if declared not in limited(handler))


def method_of(view: object, method: str) -> object:
    """Find what serves a method where the handler is a class; None elsewhere."""
    if not inspect.isclass(view):
        return None
    found = getattr(view, method.lower(), None)
    return getattr(view, "get", None) if found is None and method == "HEAD" else found


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


def rates(items: Iterable[RateLimitItem]) -> tuple[Rate, ...]:
    """Take the windows that `limits` parsed; of two as long as each other the smaller holds.

    Raises:
        ValueError: One that the kit cannot count, or none at all.
    """
    found: dict[int, Rate] = {}
    for item in items:
        rate = _rate(item.amount, item.multiples, item.GRANULARITY.name)
        known = found.get(rate.seconds, rate)
        found[rate.seconds] = min(known, rate, key=lambda r: r.limit)
    if not found:
        raise ValueError("guard.limit: no rate; use exempt_when where none shall hold")
    return tuple(found.values())


@lru_cache(1024)
def _rate(amount: int, multiples: int, unit: str) -> Rate:
    text = f"{amount}/{unit}" if multiples == 1 else f"{amount} per {multiples} {unit}s"
    try:
        rate = _RATE.validate_python(text)
    except ValidationError:
        rate = None
    if rate is None or rate.limit >= _MOST or rate.seconds >= _LONGEST:
        raise ValueError(f"guard.limit: {text!r} must be at least 1, and can be counted to")
    return rate


def check_options(
    limit_value: object,
    others: Sequence[object],
    options: dict[str, Any],
    *,
    methods: Iterable[str] | None,
    cost: object,
) -> frozenset[str] | None:
    """Check what is given to `guard.limit`, and take the methods.

    Args:
        limit_value: The rates, or a function that tells them.
        others: What was given without a name beyond that.
        options: What was given by names that it has not.
        methods: For which it shall hold.
        cost: A number or a function.

    Raises:
        TypeError: What cannot be meant so, or what slowapi and flask-limiter have and this has not.
        ValueError: A number or a list that makes no sense.
    """
    if others:
        options = {"key_func": others[0], **options}
    for name in options:
        raise TypeError(f"guard.limit has no {name}: {_INSTEAD.get(name, 'see its docstring')}")
    if not isinstance(limit_value, str) and not callable(limit_value):
        raise TypeError(f"guard.limit({limit_value!r}): must be rates like '5/minute;100/hour'")
    if not callable(cost) and (not isinstance(cost, int) or cost < 1):
        raise ValueError(f"guard.limit: cost = {cost!r} must be a whole number from 1, or callable")
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


def key_of(exchange: Exchange) -> str:
    """Tell for whom a request is counted: the caller's name, or the client's network."""
    return exchange.payer.subject


def told(limit_value: object) -> str:
    """Tell the rates as written, or the name of the function that tells them."""
    return limit_value if isinstance(limit_value, str) else f"{named(limit_value)}()"
