"""Where are the rows in a request, and the predictions in an answer?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mlguard.reference import MAX_CATEGORY_LENGTH

_PROTOCOLS = {"v1": ("instances", "predictions"), "v2": ("inputs", "outputs")}


def parse(raw: bytes) -> Any:
    """Read JSON; None where it is none, whatever is wrong with it."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


def is_json(media_type: str) -> bool:
    """Say whether a body of this type is JSON (RFC 6839 section 3.1), without its parameters."""
    kind = media_type.partition(";")[0].strip().lower()
    main, _, sub = kind.partition("/")
    return main == "application" and (sub == "json" or sub.endswith("+json"))


class Rows(Protocol):
    """Rows as they came: counted at once, read one at a time."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Layout:
    """Where one model's bodies hold rows and predictions.

    Args:
        features: Names of a row's fields, in order; empty where unknown.
        inputs: Keys joined by dots, None where no body is read.
        outputs: Keys joined by dots, None where no answer is read.
        protocol: "v1" or "v2" instead of both.
    """

    def __init__(
        self,
        features: Sequence[str] = (),
        inputs: str | None = None,
        outputs: str | None = None,
        protocol: str | None = None,
    ) -> None:
        inputs, outputs = _PROTOCOLS[protocol] if protocol else (inputs, outputs)
        self.features = tuple(features)
        self._inputs = inputs.split(".") if inputs else None
        self._outputs = outputs.split(".") if outputs else None
        self._tensors = protocol == "v2"

    @property
    def reads_answers(self) -> bool:
        """Whether predictions are looked for in answers."""
        return self._outputs is not None

    def rows(self, body: Any) -> Rows | None:
        """Find the rows of a parsed request; None where it holds none: the handler's business."""
        value = _at(body, self._inputs)
        if self._tensors:
            return _tensor_rows(value, len(self.features))
        return self.table(value)

    def predictions(self, answer: Any) -> int | None:
        """Count the predictions of a parsed answer; None where it holds none."""
        value = _at(answer, self._outputs)
        if self._tensors:
            rows = _tensor_rows(value)
            return None if rows is None else len(rows)
        return len(value) if isinstance(value, list) else None

    def outputs(self, answer: Any) -> Any:
        """Find what stands where a parsed answer holds its predictions; None where nothing does."""
        return _at(answer, self._outputs)

    def table(self, value: Any) -> Rows | None:
        """See rows in a list of rows, one row, or a mapping of columns."""
        if isinstance(value, list):
            return [value] if self._is_row(value) else value
        if not isinstance(value, dict) or not value:
            return None
        # One list among the values makes columns of them: what may be many rows is not one.
        columns = {name: _column(v) for name, v in value.items()}
        longest = max((len(c) for c in columns.values() if c is not None), default=None)
        if longest is None:
            return [value]
        names = self.features or tuple(columns)
        return _Columns([columns.get(name) for name in names], longest)

    def _is_row(self, value: list[Any]) -> bool:
        known = len(self.features)
        return known > 1 and len(value) == known and not any(isinstance(v, _NESTED) for v in value)

    def row(self, rows: Any, index: int) -> list[Any] | None:
        """Read one row as plain values in the features' order; None where its shape is wrong."""
        if hasattr(rows, "iloc"):  # a DataFrame, whose columns may be in another order
            row = rows.iloc[index].to_dict()
            row = row if set(self.features) <= set(row) else list(row.values())
        else:
            row = rows[index]
        if hasattr(row, "tolist"):
            row = row.tolist()
        if isinstance(row, Mapping):
            row = [row.get(f) for f in self.features] if self.features else list(row.values())
        elif not isinstance(row, list | tuple):
            row = [row]
        if self.features and len(row) != len(self.features):
            return None
        plain = [_plain(v) for v in row]
        return None if any(v is _JUNK for v in plain) else plain


_JUNK = object()
_NESTED = (list, dict)
_MOST_DIMENSIONS = 16


def _plain(value: Any) -> Any:
    if hasattr(value, "item") and not getattr(value, "ndim", 0):
        value = value.item()  # a NumPy scalar
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:MAX_CATEGORY_LENGTH]
    return None if type(value).__name__ in ("NAType", "NaTType") else _JUNK


def _column(value: Any) -> list[Any] | None:
    """See a column in a list, or in a mapping from row names as pandas writes it."""
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else None


def _at(value: Any, keys: Sequence[str] | None) -> Any:
    if keys is None:
        return None
    for key in keys:
        if not isinstance(value, dict):
            return None
        value = value.get(key)
    return value


@dataclass(frozen=True, slots=True)
class _Columns:
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


def _tensor_rows(value: Any, features: int = 0) -> Rows | None:
    """See rows in tensors of the Open Inference Protocol: one matrix, or a column a tensor.

    A shape is a client's word: the largest plausible reading counts.
    """
    if not isinstance(value, list) or not value:
        return None
    width = features or 1 if len(value) == 1 else 1
    known = [t for t in (_tensor(t, width) for t in value) if t is not None]
    if not known:
        return None
    if len(value) == 1:
        matrix, width = known[0], features or known[0].width
        rows = max(matrix.rows, -(-len(matrix.data) // width))
        return _Matrix(matrix.data, width, min(rows, max(1, len(matrix.data))))
    return _Columns([_Flat(t) for t in known], max(len(t) for t in known))


def _tensor(value: Any, likely: int) -> _Matrix | None:
    """Read one tensor; `likely` is its width where the shape says none."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    data = _leaves(value["data"])
    shape = value.get("shape")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= _MOST_DIMENSIONS
        or not all(type(n) is int and n > 0 for n in shape)
    ):
        return _Matrix(data, likely, max(1, -(-len(data) // likely)))
    width = 1
    for n in shape[1:]:
        width = min(width * n, max(1, len(data)))
    rows = max(shape[0], len(value["data"]) if data is not value["data"] else 0)
    rows = max(rows, -(-len(data) // width))
    return _Matrix(data, width, min(rows, max(1, len(data))))


def _leaves(data: list[Any]) -> list[Any]:
    """Flatten nested lists, however deep."""
    if not any(isinstance(v, list) for v in data):
        return data
    leaves, stack = [], [iter(data)]
    while stack:
        for v in stack[-1]:
            if isinstance(v, list):
                stack.append(iter(v))
                break
            leaves.append(v)
        else:
            stack.pop()
    return leaves


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A flat, row-major tensor.

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


@dataclass(frozen=True, slots=True)
class _Flat:
    """A tensor that is one column.

    Attributes:
        rows: Its rows, of one value each.
    """

    rows: _Matrix

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        return row[0] if len(row) == 1 else row
