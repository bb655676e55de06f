"""What do slowapi's words mean here? Its limits declare, the kit's ledger counts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from typing import TYPE_CHECKING

from starlette.requests import HTTPConnection, Request
from starlette.types import Scope

from mlguard.app.asgi_messages import EXCHANGE
from mlguard.guard.limits import Declared, key_of
from mlguard.routes.limit_options import Options, check_function

if TYPE_CHECKING:
    from limits import RateLimitItem
    from slowapi.wrappers import LimitGroup


def declare(options: Options) -> Declared:
    """Take what slowapi's users write; MLGuard.limit says what it means.

    Raises:
        TypeError: A function that takes what the kit has not.
        ValueError: Rates that cannot be parsed, or counted.
    """
    check_function("limit_value", options.limit_value, 0, 1)
    check_function("cost", options.cost, 1)
    check_function("exempt_when", options.exempt_when, 0, 1)
    group = _group(options)
    cost = options.cost

    def parse(request: HTTPConnection | None) -> Iterator[RateLimitItem]:
        # A copy: requests of several event loops would take each other's.
        for found in copy(group).with_request(request):  # type: ignore[no-untyped-call]
            yield found.limit

    return Declared.of(
        options,
        parse,
        cost=cost if callable(cost) else lambda _: cost,
        exempts=_asking(options.exempt_when),
    )


def _group(options: Options) -> LimitGroup:
    """Have slowapi read the rates, and ask who tells them; the kit does the rest itself."""
    from slowapi.wrappers import LimitGroup  # large, and most apps declare nothing

    return LimitGroup(
        options.limit_value,
        lambda request: key_of(request.scope[EXCHANGE]),
        scope=None,
        per_method=options.per_method,
        methods=None,
        error_message=None,
        exempt_when=None,
        cost=1,
        override_defaults=False,
    )


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
