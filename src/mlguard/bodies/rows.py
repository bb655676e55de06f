"""How is one row read out of what holds many?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlguard.bodies.documents import CONTAINERS
from mlguard.messages import MAX_CATEGORY_LENGTH


class Rows(Protocol):
    """Rows as they came: counted at once, read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Columns:
    """Rows given column by column.

    Attributes:
        columns: One sequence a feature, None where a feature is not given.
        rows: How many rows the longest column has.
    """

    columns: Sequence[Any]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> list[Any]:
        return [c[index] if c is not None and index < len(c) else None for c in self.columns]


@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows given as one flat list.

    Attributes:
        data: All values.
        width: Values in a row.
        rows: How many rows it may be.
    """

    data: list[Any]
    width: int
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> list[Any]:
        return self.data[index * self.width : (index + 1) * self.width]


def table(value: Any, features: Sequence[str]) -> Rows | None:
    """See rows in a list of rows, one row, or a mapping of columns."""
    if isinstance(value, list):
        return list_table(value, len(features))
    if not isinstance(value, dict) or not value:
        return None
    columns = {name: _column(v) for name, v in value.items()}
    longest = max((len(c) for c in columns.values() if c is not None), default=None)
    if longest is None:
        return [value]
    return Columns([columns.get(name) for name in features or columns], longest)


def list_table(items: list[Any], width: int) -> Rows:
    """See rows in a list of rows, one row, or the values of many."""
    if width <= 1 or not items or type(items[0]) in CONTAINERS or len(items) % width:
        return items
    if not CONTAINERS.isdisjoint(map(type, items)):
        return items
    return [items] if len(items) == width else Matrix(items, width, len(items) // width)


def _column(value: Any) -> list[Any] | None:
    """See a column in a list, or in a mapping from row names as pandas writes it."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else None


def pick(rows: Any, index: int, features: Sequence[str]) -> Any:
    """Take one row; of a DataFrame by its place, with the names of its columns where they fit."""
    if not hasattr(rows, "iloc"):
        return rows[index]
    return _named(rows.iloc[index], features)


def plain_row(rows: Any, index: int, features: Sequence[str]) -> list[Any] | None:
    """Read one row as plain values in the features' order; None where there is no such thing."""
    return read_row(pick(rows, index, features), features)[0]


def read_row(row: Any, features: Sequence[str]) -> tuple[list[Any] | None, str]:
    """Read a row as plain values in the features' order.

    Returns:
        The values, None where there are none; and why: "shape" where it has other fields or holds
        more than one value a field, "unreadable" where it holds what is no value.
    """
    row = _opened(row, features)
    if isinstance(row, Mapping):
        if features and not any(f in row for f in features):
            return None, "shape"
        row = [row.get(f) for f in features] if features else list(row.values())
    elif not isinstance(row, list | tuple):
        row = [row]
    if len(row) == len(features) or not features:
        if _PLAIN.issuperset(map(type, row)):
            return list(row), ""
        plain = [_plain(v) for v in row]
        if not any(v is _JUNK for v in plain):
            return plain, ""
    is_odd = any(_plain(v) is _JUNK and not isinstance(v, _NESTED) for v in row)
    return None, "unreadable" if is_odd else "shape"


def is_record(row: Any) -> bool:
    """Say whether a row is an object with fields: a pydantic model or a dataclass."""
    kind = type(row)
    return any(hasattr(kind, name) for name in ("model_fields", "__dataclass_fields__", _FIRST))


def _opened(row: Any, features: Sequence[str]) -> Any:
    """See the values of a row of arrays, models or dataclasses."""
    kind = type(row)
    if kind is list or kind is dict:
        return row
    if hasattr(row, "iloc"):
        return _named(row, features)
    if hasattr(row, "tolist"):
        return row.tolist()
    if hasattr(row, "numpy"):
        return row.numpy().tolist()
    if hasattr(kind, "__dataclass_fields__"):
        return {name: getattr(row, name, None) for name in kind.__dataclass_fields__}
    if not is_record(row):
        return row
    named = dict(row)
    if any(f in named for f in features) or not hasattr(row, "model_dump"):
        return named
    return row.model_dump(by_alias=True)


def _named(row: Any, features: Sequence[str]) -> Any:
    """See a row of pandas by its names, where it has those of the features, else in order."""
    named = row.to_dict()
    return named if set(features) <= set(named) else list(named.values())


_FIRST = "__fields__"  # of pydantic's first version
_NESTED = (list, tuple, dict)
_PLAIN = frozenset((int, float, bool, type(None)))
_JUNK = object()


def _plain(value: Any) -> Any:
    if hasattr(value, "item") and not getattr(value, "ndim", 0):
        value = value.item()  # a scalar of NumPy
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:MAX_CATEGORY_LENGTH]
    return None if type(value).__name__ in ("NAType", "NaTType") else _JUNK
