"""What do slowapi's words mean here? Its limits declare, the kit's ledger counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from copy import copy
from typing import Any

from slowapi.wrappers import LimitGroup
from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from mlguard.guard.limits import Declared, Terms, check_function, check_options, key_of, rates, told
from mlguard_fastapi.translate import EXCHANGE


def declare(
    limit_value: str | Callable[..., str],
    others: tuple[object, ...],
    options: dict[str, Any],
    *,
    cost: int | Callable[[Any], int],
    per_method: bool,
    methods: Iterable[str] | None,
    exempt_when: Callable[..., bool] | None,
    error_message: str | Callable[..., str] | None,
) -> Declared:
    """Take what slowapi's users write; MLGuard.limit says what it means.

    Raises:
        TypeError: What the kit cannot honour.
        ValueError: Rates that cannot be parsed, or counted.
    """
    chosen = check_options(limit_value, others, options, methods=methods, cost=cost)
    check_function("limit_value", limit_value, 0, 1)
    check_function("cost", cost, 1)
    check_function("exempt_when", exempt_when, 0, 1)
    group = LimitGroup(
        limit_value,
        _key,
        None,  # the scope, which the kit makes of the route
        per_method,
        sorted(chosen) if chosen else None,
        error_message,
        exempt_when,
        cost,
        override_defaults=False,
    )
    fixed = None if callable(limit_value) else list(group)
    if fixed is not None:
        rates(limit.limit for limit in fixed)

    exempts = _asking(exempt_when)

    def ask(request: HTTPConnection) -> Terms | None:
        if exempts(request):
            return None
        # A copy: requests of several event loops would take each other's.
        limits = fixed or list(copy(group).with_request(request))  # type: ignore[no-untyped-call]
        cost = limits[0].cost
        units = cost(request) if callable(cost) else cost
        return Terms([limit.limit for limit in limits], units)

    return Declared(told(limit_value), ask, chosen, per_method, error_message)


def request_of(scope: Scope) -> HTTPConnection:
    """Show the app's functions a request, or a handshake."""
    return Request(scope) if scope["type"] == "http" else HTTPConnection(scope)


def _asking(exempt_when: Callable[..., bool] | None) -> Callable[[HTTPConnection], bool]:
    """Make one form of both: slowapi 0.1.9 knows only the one that takes nothing."""
    if exempt_when is None:
        return lambda _: False
    if len(inspect.signature(exempt_when).parameters) == 1:
        return exempt_when
    return lambda _: exempt_when()


def _key(request: HTTPConnection) -> str:
    """Tell for whom it is counted, where the rates depend on that."""
    return key_of(request.scope[EXCHANGE])
