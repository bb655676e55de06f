"""What do flask-limiter's words mean here? Its limits declare, the kit's ledger counts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mlguard.guard.limits import Declared
from mlguard.routes.limit_options import Options, check_function

if TYPE_CHECKING:
    from limits import RateLimitItem


def declare(options: Options) -> Declared:
    """Take what flask-limiter's users write; MLGuard.limit says what it means.

    Raises:
        TypeError: A function that takes what the kit has not.
        ValueError: Rates that cannot be parsed, or counted.
    """
    from flask_limiter import Limit  # large, and most apps declare nothing

    check_function("limit_value", options.limit_value, 0)
    check_function("cost", options.cost, 0)
    check_function("exempt_when", options.exempt_when, 0)
    # Without a key function, a Limiter would be asked for one: the kit knows who calls.
    limit = Limit(options.limit_value, key_function=str)
    cost, exempt_when = options.cost, options.exempt_when

    def parse(_: object) -> Iterator[RateLimitItem]:
        for found in limit:
            yield found.limit

    return Declared.of(
        options,
        parse,
        cost=lambda _: cost() if callable(cost) else cost,
        exempts=lambda _: exempt_when is not None and exempt_when(),
    )
