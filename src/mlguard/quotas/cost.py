"""What does a call ask for?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from mlguard.settings import Rate


class RouteLimit(NamedTuple):
    """A limit that a route declares for each of its callers.

    Attributes:
        rate: The window.
        cost: What this call costs.
        bucket: Names the counter, the same in every worker.
        key: Which declaration it comes from.
        message: What a refused client is told, or a function that says it.
    """

    rate: Rate
    cost: int
    bucket: str
    key: object
    message: str | Callable[[], str] | None = None


class Cost(NamedTuple):
    """What a call asks for.

    Attributes:
        model: The model asked, None where none is.
        amounts: Units of it that are asked: "rows", and whatever else is counted.
        is_request: Whether the request itself counts too.
        flies: Whether it is in flight from now on: one that is dispatched twice is so already.
        limits: What the route declares.
    """

    model: str | None = None
    amounts: Mapping[str, int] = MappingProxyType({})
    is_request: bool = True
    flies: bool = True
    limits: Sequence[RouteLimit] = ()
