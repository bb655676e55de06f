"""What are the rows that a handler gives, and the predictions that it tells?"""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import RootModel

from mlguard.bodies.counts import is_distribution
from mlguard.bodies.rows import Columns, is_record

_ACCEPTED = (
    "must be a number, a list, a DataFrame, a Series, an array or a tensor, a dict of columns, one "
    "record (a dict, a pydantic model, a dataclass), a text, bytes or an image; of anything else "
    "say how many rows it is, with `rows=`"
)


_MOST_CLASSES = 10_000


class Given(NamedTuple):
    """What a handler gives.

    Attributes:
        rows: How many rows it is.
        inputs: The rows one by one; empty where there are none to be seen.
    """

    rows: int
    inputs: Any


def given(rows: Any, features: Sequence[str] = (), *, number: int | None = None) -> Given:
    """See rows in what a handler gives.

    Args:
        rows: A number of rows, or themselves.
        features: Names of a row's fields, in order; empty where unknown.
        number: How many rows they are, where the handler says it.

    Raises:
        TypeError: Nothing that rows are seen in.
        ValueError: A number below zero.
    """
    found = _seen(rows, features)
    if number is None:
        if found is None:
            raise TypeError(f"rows of the type {type(rows).__name__} were given: {_ACCEPTED}")
        return found
    return Given(_checked(operator.index(number)), found.inputs if found else ())


def predicted(predictions: Any, asked: int) -> int | None:
    """Count the predictions that a handler tells; None where that is not known.

    Args:
        predictions: One entry a row, or the prediction of one row.
        asked: How many rows were asked.
    """
    if predictions is None or isinstance(predictions, str | bytes | int | float):
        return 1 if asked == 1 and predictions is not None else None
    if not getattr(predictions, "shape", (0,)):  # a scalar of NumPy
        return 1 if asked == 1 else None
    try:
        found = _seen(predictions, ())
        if found is None:
            return None
        return 1 if asked == 1 and is_distribution(_flat(predictions)) else found.rows
    except Exception:  # noqa: BLE001 - whatever it is, the model has answered
        return None


def _flat(values: Any) -> Sequence[Any]:
    """List the values of a short list or array."""
    if len(getattr(values, "shape", ())) == 1 and len(values) <= _MOST_CLASSES:
        values = values.tolist()
    return values if isinstance(values, list | tuple) else ()


def _seen(rows: Any, features: Sequence[str]) -> Given | None:
    kind = type(rows)
    if kind is list:
        return _listed(rows, len(features))
    if isinstance(rows, str | bytes | bytearray | memoryview) or _is_image(kind):
        return Given(1, [rows])
    if isinstance(rows, Mapping):
        return _mapped(rows, features)
    if hasattr(rows, "iloc"):
        return _of_pandas(rows, features)
    if getattr(rows, "shape", ()):
        return _shaped(rows, len(features))
    if isinstance(rows, RootModel):
        return _seen(rows.root, features)
    if is_record(rows) or hasattr(rows, "_fields"):  # a named tuple
        return Given(1, [rows])
    try:
        return Given(_checked(operator.index(rows)), ())
    except TypeError:
        return _collected(rows, len(features))


def _checked(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} rows: must not be below zero")
    return number


def _is_image(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == "PIL"


def _listed(items: Sequence[Any], width: int) -> Given:
    """See one row in as many numbers as there are features, else a row in each item."""
    number = len(items)
    if number == width > 1 and {int, float, bool}.issuperset(map(type, items)):
        return Given(1, [items])
    return Given(number, items)


def _mapped(rows: Mapping[Any, Any], features: Sequence[str]) -> Given:
    """See columns in a dict of sequences that are equally long, else one record."""
    columns = {name: _column(value) for name, value in rows.items()}
    lengths = {-1 if c is None else len(c) for c in columns.values()}
    if len(lengths) != 1 or -1 in lengths:
        return Given(1, [rows])
    named = any(name in columns for name in features)
    found = [columns.get(name) for name in (features if named else columns)]
    number = lengths.pop()
    return Given(number, Columns(found, number))


def _column(value: Any) -> Any:
    if hasattr(value, "iloc"):
        return value.array  # by place, whatever its index
    is_array = bool(getattr(value, "shape", ())) and hasattr(value, "__len__")
    return value if isinstance(value, list | tuple) or is_array else None


def _of_pandas(rows: Any, features: Sequence[str]) -> Given:
    if hasattr(rows, "columns"):
        return Given(len(rows), rows)
    if len(rows) != len(features) or len(features) < 2:
        return Given(len(rows), rows.array)
    named = rows.to_dict()
    return Given(1, [named if set(features) <= set(named) else rows.tolist()])


def _shaped(rows: Any, width: int) -> Given:
    """See rows along the first axis; as many values as there are features are one."""
    shape = rows.shape
    number = int(shape[0])
    if len(shape) == 1 and number == width > 1:
        return Given(1, [rows])
    return Given(number, rows if hasattr(rows, "__getitem__") and _has_length(rows) else ())


def _has_length(rows: Any) -> bool:
    try:
        return len(rows) >= 0
    except TypeError:  # of sparse matrices
        return False


def _collected(rows: Any, width: int) -> Given | None:
    if isinstance(rows, Sequence):
        return _listed(rows, width)
    if isinstance(rows, Collection) and not hasattr(rows, "__getitem__"):
        return Given(len(rows), list(rows))
    if hasattr(rows, "__len__") and hasattr(rows, "__getitem__"):
        return Given(len(rows), rows)
    return None
