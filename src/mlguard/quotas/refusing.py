"""Why may a call not go on?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from mlguard import refusals
from mlguard.ledger import FLIGHT, LIFETIME, Limit, Line, Reading
from mlguard.messages import Deny, Headers
from mlguard.quotas.cost import RouteLimit
from mlguard.quotas.rules import Terms
from mlguard.quotas.shapes import headers, policy


def too_large(limit: Limit, terms: Terms) -> Deny:
    """Refuse what a whole window would not admit."""
    largest = min(limit.amount, terms.largest.get(limit.unit, limit.amount))
    policies = {limit.name: (policy(limit), "")}
    return refusals.batch_exceeds_quota(limit.unit, largest, headers(policies))


def worst(readings: Sequence[Reading]) -> int:
    """Find what never will fit first, else what takes longest."""
    return max(range(len(readings)), key=lambda n: readings[n].wait)


def refusal(limit: Limit, reading: Reading, headers: Headers) -> Deny:
    """Say what does not fit."""
    if math.isinf(reading.wait):
        return refusals.quota_lifetime_spent(reading.remaining, headers)
    retry_after = max(1, math.ceil(reading.wait))
    if limit.kind == FLIGHT:
        return refusals.too_many_in_flight(retry_after, headers)
    if limit.unit == "requests":
        return refusals.rate_exceeded(retry_after, headers)
    return refusals.quota_exceeded(limit.unit, retry_after, headers)


def withheld(lines: Sequence[Line], readings: Sequence[Reading], headers: Headers) -> Deny:
    """Say that an answer does not fit; when it would, unless that is never."""
    slowest = worst(readings)
    _, limit, _ = lines[slowest]
    wait = readings[slowest].wait
    never = any(line.cost > line.limit.amount for line in lines if line.limit.kind != LIFETIME)
    retry_after = None if never or math.isinf(wait) else max(1, math.ceil(wait))
    return refusals.answer_withheld(retry_after, headers, limit.unit)


def in_its_words(deny: Deny, limits: Sequence[RouteLimit], number: int) -> Deny:
    """Say it as the route that declares the limit wants it said.

    Args:
        deny: The refusal.
        limits: What the route declares; their lines are the last.
        number: The line that did not fit, counted from the end, below zero.
    """
    message = limits[number].message if -number <= len(limits) else None
    if message is None:
        return deny
    return replace(deny, title=str(message() if callable(message) else message))
