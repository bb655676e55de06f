"""What do flask-limiter's words mean here? Its limits declare, the kit's ledger counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask_limiter import Limit

from mlguard.guard.limits import Declared, Terms, check_function, check_options, rates, told


def declare(
    limit_value: str | Callable[[], str],
    others: tuple[object, ...],
    options: dict[str, Any],
    *,
    cost: int | Callable[[], int],
    per_method: bool,
    methods: Iterable[str] | None,
    exempt_when: Callable[[], bool] | None,
    error_message: str | Callable[[], str] | None,
) -> Declared:
    """Take what flask-limiter's users write; MLGuard.limit says what it means.

    Raises:
        TypeError: What the kit cannot honour.
        ValueError: Rates that cannot be parsed, or counted.
    """
    chosen = check_options(limit_value, others, options, methods=methods, cost=cost)
    check_function("limit_value", limit_value, 0)
    check_function("cost", cost, 0)
    check_function("exempt_when", exempt_when, 0)
    limit = Limit(
        limit_value,
        key_function=str,  # the kit knows who calls; without one, a Limiter would be asked
        cost=cost,
        methods=sorted(chosen) if chosen else None,
        per_method=per_method,
        error_message=error_message,
        exempt_when=exempt_when,
    )
    fixed = None if callable(limit_value) else list(limit)
    if fixed is not None:
        rates(found.limit for found in fixed)

    def ask(request: object) -> Terms | None:
        limits = fixed or list(limit)
        if limits and limits[0].is_exempt:
            return None
        cost = limits[0].deduction_amount if limits else 1
        return Terms([found.limit for found in limits], cost)

    return Declared(told(limit_value), ask, chosen, per_method, error_message)
