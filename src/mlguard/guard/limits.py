"""How often may one route be asked? What `guard.limit` declares above its handler."""

from __future__ import annotations

import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast, overload

from mlguard.guard.decision import Steps
from mlguard.guard.exchange import Exchange
from mlguard.guard.guard import Guard
from mlguard.logs import RateLimitedLog
from mlguard.metrics import METHODS
from mlguard.quotas import RouteLimit
from mlguard.routes.limit_options import Options, check_handler, named, rates, told
from mlguard.settings import Rate

if TYPE_CHECKING:
    from limits import RateLimitItem

F = TypeVar("F", bound=Callable[..., Any])

_MARK = "__mlguard_limits__"
_MISSED = "__mlguard_limits_above__"


class RouteCharge(NamedTuple):
    """What a declaration says of one request.

    Attributes:
        rates: The windows.
        cost: What the app says that it costs, whatever that is.
    """

    rates: tuple[Rate, ...]
    cost: object


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """One `guard.limit` of one handler: no two are the same.

    Attributes:
        text: The rates as written, or the name of the function that tells them.
        ask: Tells what a request of the framework is charged; None where it is exempt.
        methods: For which methods it holds, None for all; HEAD is a GET.
        per_method: Whether each method counts for itself.
        message: What a refused client is told, or the function that says it.
        number: How many stand below it, above the same handler.
    """

    text: str
    ask: Callable[[Any], RouteCharge | None]
    methods: frozenset[str] | None = None
    per_method: bool = False
    message: str | Callable[[], str] | None = None
    number: int = 0
    _log: RateLimitedLog = field(default_factory=RateLimitedLog)

    @classmethod
    def of(
        cls,
        options: Options,
        parse: Callable[[Any], Iterable[RateLimitItem]],
        *,
        cost: Callable[[Any], object],
        exempts: Callable[[Any], bool],
    ) -> Declared:
        """Declare what was given, in the words of a framework's own limiter.

        Args:
            options: What was given.
            parse: Reads the rates for a request, or once, of None, where they are text.
            cost: Tells what a request costs.
            exempts: Tells a request for which it does not hold; asked first.

        Raises:
            ValueError: Rates that cannot be parsed, or counted.
        """
        text, methods = told(options.limit_value), options.methods
        fixed = None if callable(options.limit_value) else rates(parse(None))

        def ask(request: Any) -> RouteCharge | None:
            if exempts(request):
                return None
            return RouteCharge(fixed or rates(parse(request)), cost(request))

        return cls(text, ask, methods, options.per_method, options.error_message)

    def limits(self, request: Any, method: str, bucket: str) -> Iterator[RouteLimit]:
        """Say which limits one request is charged."""
        if self.methods is not None and method not in self.methods:
            return
        asked = self.ask(request)
        if asked is None:
            return
        cost = self._whole(asked.cost)
        if self.per_method:
            bucket = f"{bucket} {method}"
        for rate in asked.rates:
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
        place = f"{template} {named(handler)}{' late' if is_late else ''}"
        limits: list[RouteLimit] = []
        with guard.handling(exchange):
            for number, declared in enumerate(found, found[0].number if is_late else 0):
                bucket = f"{place} {number}" if number else place
                mine = list(declared.limits(request(), _counted_as(method), bucket))
                limits += mine
                if not mine:
                    exchange.limited.add(declared)  # the handler must not ask again
        return limits

    return _Due(ask)


def _counted_as(method: str) -> str:
    """Tell as what a method counts: HEAD as GET, and those that nobody knows as one."""
    return "GET" if method == "HEAD" else method if method in METHODS else "_OTHER"


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
    exchange: Exchange | None = guard.parts.current.get() if guard else None
    if guard is None or exchange is None or declared in exchange.limited:
        return None
    limits = due(
        guard,
        exchange,
        (declared,),
        request,
        method=method(),
        template=exchange.bound.template,
        handler=handler,
        is_late=True,
    )
    return exchange.limit(limits)


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
    check_handler(function)
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


def declared_for(view: object, method: str, declared: tuple[Declared, ...]) -> tuple[Declared, ...]:
    """List the limits of one request.

    Args:
        view: The handler; where that is a class, its methods may declare some.
        method: As sent.
        declared: What holds for all methods.
    """
    served = method_of(view, method)
    return (*limited(served), *declared) if served else declared


def written(
    view: object, methods: Iterable[str], declared: Iterable[Declared] = ()
) -> tuple[str, ...]:
    """Tell the limits of a route as they are written, each once.

    Args:
        view: Its handler; where that is a class, its methods may declare some.
        methods: What it serves, none for whatever comes.
        declared: What holds for all of them.
    """
    served = (method_of(view, method) for method in sorted(methods or METHODS))
    own = (limit for function in served for limit in limited(function))
    return tuple(limit.text for limit in dict.fromkeys((*own, *declared)))


def key_of(exchange: Exchange) -> str:
    """Tell for whom a request is counted: the caller's name, or the client's network."""
    return exchange.payer.key[2]
