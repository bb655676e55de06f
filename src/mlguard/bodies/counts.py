"""How many rows may a handler make of a value?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from mlguard.bodies.documents import CONTAINERS, separated, stands
from mlguard.bodies.survey import Survey


class Count(NamedTuple):
    """How many rows a value is.

    Attributes:
        rows: By its largest plausible reading.
        least: By its smallest.
    """

    rows: int
    least: int


ONE = Count(1, 1)
_CLOSE_TO_ONE = 0.01


def rows_of(number: int, width: int) -> int:
    """Count the rows of so many values."""
    return -(-number // width)


def count_list(items: list[Any], width: int, raw: bytes, above: int) -> Count | None:
    """Count the rows in a list whose items tell all; None where it must be looked into.

    Args:
        items: What stands where rows are expected.
        width: Values in a row; 0 where unknown.
        raw: The document.
        above: Objects around the list.
    """
    number, kinds = len(items), set(map(type, items))
    if kinds.isdisjoint(CONTAINERS):
        return Count(_flat(items, str in kinds, width), number if width == 1 else min(number, 1))
    if not width:
        return Count(number, 1)
    # Each bracket in the bytes is a row's: nothing is nested, nothing hidden by a key said twice.
    if kinds == {dict} and stands(raw, b"[", 1) and stands(raw, b"{", above + number):
        return Count(number, number)
    if kinds == {list} and stands(raw, b"{", above) and stands(raw, b"[", 1 + number):
        if set(map(len, items)) == {width}:
            return Count(number, number)
        return Count(max(number, rows_of(sum(map(len, items)), width)), 1)
    return None


def _flat(items: list[Any], has_texts: bool, width: int) -> int:
    """Count the rows in a list of scalars: one of as many as there are features is a row.

    A text may be a row by itself, as a line of CSV is.
    """
    number = len(items)
    if width <= 1 or (has_texts and number != width):
        return number
    if has_texts and any(isinstance(v, str) and "," in v for v in items):
        return number
    return rows_of(number, width)


def count(value: Any, width: int, seen: Survey) -> Count:
    """Count the rows in what stands where rows are expected.

    Args:
        value: Parsed JSON.
        width: Values in a row; 0 where unknown.
        seen: What is in the value.
    """
    if isinstance(value, dict):
        by_name = len(value) if width == 1 or _names_empty(value) else 1  # a scalar may be a row
        return Count(max(by_name, anywhere(seen, width)), 1)
    if isinstance(value, str) and width > 1:  # numbers in a text, as CSV has them
        return Count(rows_of(_in_text(value), width), 1)
    if not isinstance(value, list):
        return ONE
    simple = count_list(value, width, b"", 0)
    if simple is not None:
        return simple
    number, kinds = len(value), set(map(type, value))
    # An object is never less than a row, whatever it holds.
    least = number if list not in kinds and kinds <= CONTAINERS else 1
    return Count(max(number, _reshaped(seen, width)), least)


def _names_empty(value: dict[str, Any]) -> bool:
    """Say whether an object may be rows by their names, though those that are lists are empty.

    One of them may hide a scalar, where its key is said twice.
    """
    holding = [v for v in value.values() if type(v) in CONTAINERS]
    return bool(holding) and not any(holding)


def anywhere(seen: Survey, width: int) -> int:
    """Bound the rows of a handler that may read anything of what was seen."""
    most = max(seen.longest, min(seen.objects, 1))
    return max(most, seen.named, _reshaped(seen, width) if width else 0)


def _reshaped(seen: Survey, width: int) -> int:
    return rows_of(seen.values, width) + seen.objects


def anywhere_in(document: Any, seen: Survey, width: int) -> int:
    """Bound the rows of a handler that may read anything of a document."""
    if isinstance(document, str):  # JSON in JSON
        return _in_text(document)
    return anywhere(seen, width) if type(document) in CONTAINERS else 1


def _in_text(text: str) -> int:
    return separated(text.encode("utf-8", "surrogatepass"))


def is_distribution(values: Sequence[Any]) -> bool:
    """Say whether these are the probabilities of one row's classes."""
    if not values or set(map(type, values)) != {float}:
        return False
    total: float = sum(values)
    return min(values) >= 0 and max(values) < 1 and abs(total - 1) <= _CLOSE_TO_ONE
