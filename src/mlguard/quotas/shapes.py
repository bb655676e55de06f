"""Which counters does a call touch, and what do headers say of them?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from math import ceil, isinf
from typing import NamedTuple

from mlguard.ledger import FLIGHT, LIFETIME, Limit, Reading
from mlguard.messages import Headers

Left = Mapping[str, tuple[str, str]]
"""Of each window by its name: the policy, and what is left of it, as headers say it."""


class Part(NamedTuple):
    """One counter that calls of a kind touch.

    Attributes:
        limit: What may not be exceeded.
        is_shared: Whether the tenant's callers share it.
        unit: Of what the call says how much it asks; "" where it costs 1.
    """

    limit: Limit
    is_shared: bool
    unit: str


class Shape:
    """What calls of one kind touch: bound once for all callers of a plan who ask a model.

    Attributes:
        parts: The counters.
        limits: Their limits.
        flies: Whether something is held while such a call is in flight.
    """

    __slots__ = ("_policies", "_rests", "flies", "limits", "parts")

    def __init__(self, parts: Iterable[Part]) -> None:
        self.parts = tuple(parts)
        self.limits = tuple(part.limit for part in self.parts)
        self.flies = any(limit.kind == FLIGHT for limit in self.limits)
        names = {limit.name for limit in self.limits}
        is_usual = all(limit.seconds for limit in self.limits) and len(names) == len(self.limits)
        texts = [f'"{limit.name}";r=%d;t=%d' for limit in self.limits]
        self._rests = ", ".join(texts) if is_usual else None
        self._policies = ("RateLimit-Policy", ", ".join(map(policy, self.limits)))

    def left(self, readings: Sequence[Reading]) -> Left:
        """Tell what is left of each window, by what a ledger read."""
        left: dict[str, tuple[str, str]] = {}
        for limit, reading in zip(self.limits, readings, strict=True):
            if limit.kind == LIFETIME:
                left[limit.name] = policy(limit), f"r={reading.remaining}"
            elif limit.kind != FLIGHT:
                rest = f"r={reading.remaining};t={ceil(reading.reset)}"
                left[limit.name] = policy(limit), rest
        return left

    def headers(self, readings: Sequence[Reading]) -> Headers:
        """Write what `headers` does of what is left; where all are windows, in one go."""
        rests = self._rests
        if rests is None:
            return headers(self.left(readings))
        if not rests:
            return ()
        numbers: list[int] = []
        for remaining, reset, _ in readings:
            numbers.append(remaining)
            numbers.append(ceil(reset))
        return (self._policies, ("RateLimit", rests % tuple(numbers)))


def policy(limit: Limit) -> str:
    """Write a limit as draft-ietf-httpapi-ratelimit-headers does."""
    return _policy(limit.name, limit.amount, limit.seconds)


@lru_cache(4096)
def _policy(name: str, amount: int, seconds: int) -> str:
    window = f";w={seconds}" if seconds else ""
    return f'"{name}";q={amount}{window}'


def nothing_left(limit: Limit, reading: Reading) -> tuple[str, str]:
    """Write as `headers` does that one limit is spent, and for how long as far as that is known."""
    opens = "" if isinf(reading.wait) else f";t={ceil(reading.wait)}"
    return "RateLimit", f'"{limit.name}";r=0{opens}'


def headers(left: Left) -> Headers:
    """Write draft-ietf-httpapi-ratelimit-headers: what the policy is and what is left of it."""
    if not left:
        return ()
    policies = ", ".join([written for written, _ in left.values()])
    rests = ", ".join([f'"{name}";{rest}' for name, (_, rest) in left.items() if rest])
    found = (("RateLimit-Policy", policies),)
    return (*found, ("RateLimit", rests)) if rests else found
