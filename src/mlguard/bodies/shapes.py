"""How many records is a value whose shape the settings state?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlguard.bodies.counts import rows_of
from mlguard.bodies.documents import CONTAINERS, pairs
from mlguard.bodies.rows import Rows, table
from mlguard.bodies.survey import Survey, longest_column
from mlguard.bodies.tensors import leaves


class Stated(NamedTuple):
    """What a stated shape makes of a value.

    Attributes:
        rows: How many rows it is at most.
        least: How many at least.
        table: The rows one by one.
    """

    rows: int
    least: int
    table: Rows | None


def stated(value: Any, shape: str, features: Sequence[str], seen: Survey) -> Stated | None:
    """See a value in the shape that the settings state; None where it has another one.

    A record has one value a feature: what holds more is none, whatever the settings say, and so is
    a list of objects.

    Args:
        value: What stands at `inputs`.
        shape: "rows", "row" or "columns".
        features: Names of a row's fields; empty where unknown.
        seen: What is in the value.
    """
    if shape == "row":
        return _row(value, features, seen)
    if shape == "rows":
        return state_rows(value, len(features)) if isinstance(value, list) else None
    return _columns(value, features)


def state_rows(items: list[Any], width: int) -> Stated:
    """Count a list's items, whatever they hold; a list of more values than features is more."""
    number = rows = len(items)
    if width > 1 and list in set(map(type, items)):
        rows = sum(
            max(1, rows_of(len(leaves(item)), width)) if type(item) is list else 1 for item in items
        )
    return Stated(rows, number, items)


def _row(value: Any, features: Sequence[str], seen: Survey) -> Stated | None:
    width = len(features)
    if isinstance(value, list):
        if seen.keyed and list in set(map(type, value)):
            return Stated(max(len(value), seen.keyed), 1, None)  # objects one deeper
        if seen.keyed or (width and seen.values > width):
            return None
        return Stated(1, 1, [leaves(value) if width else value])
    if isinstance(value, dict):
        is_one = not width or _is_record(value, features)
    else:
        is_one = width <= 1 or not isinstance(value, str)
    return Stated(1, 1, [value]) if is_one else None


def _is_record(value: dict[str, Any], features: Sequence[str]) -> bool:
    """Say whether an object has features, and a single value of each."""
    named = [v for key, v in pairs(value) if key in features]
    return bool(named) and CONTAINERS.isdisjoint(map(type, named))


def _columns(value: Any, features: Sequence[str]) -> Stated | None:
    if not isinstance(value, dict):
        return None
    rows = max(1, longest_column([v for _, v in pairs(value) if type(v) in CONTAINERS]))
    return Stated(rows, rows, table(value, features))
