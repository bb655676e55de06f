"""Where are the rows in a request, and the predictions in an answer?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

LONGEST_STRING = 64  # characters of a category kept
_PROTOCOLS = {"v1": ("instances", "predictions"), "v2": ("inputs", "outputs")}


def parse(raw: bytes) -> Any:
    """Read JSON; None where it is none, whatever is wrong with it."""
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


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
            return _tensor_rows(value)
        return self.table(value)

    def predictions(self, answer: Any) -> int | None:
        """Count the predictions of a parsed answer; None where it holds none."""
        value = _at(answer, self._outputs)
        if self._tensors:
            rows = _tensor_rows(value)
            return None if rows is None else len(rows)
        return len(value) if isinstance(value, list) else None

    def table(self, value: Any) -> Rows | None:
        """See rows in a list of rows, one row, or a mapping of columns."""
        if isinstance(value, list):
            return [value] if self._is_row(value) else value
        if isinstance(value, dict) and value:
            columns = list(value.values())
            if all(isinstance(c, list) for c in columns):
                return _Columns([value.get(f) for f in self.features] if self.features else columns)
            return [value]
        return None

    def _is_row(self, value: list[Any]) -> bool:
        return (
            len(self.features) > 1
            and len(value) == len(self.features)
            and not isinstance(value[0], list | dict)
        )

    def row(self, rows: Any, index: int) -> list[Any] | None:
        """Read one row as plain values in the features' order; None where its shape is wrong."""
        row = rows.iloc[index] if hasattr(rows, "iloc") else rows[index]
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


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value[:LONGEST_STRING]
    return _JUNK


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
    """

    columns: Sequence[Any]

    def __len__(self) -> int:
        return max((len(c) for c in self.columns if c is not None), default=0)

    def __getitem__(self, index: int) -> list[Any]:
        return [c[index] if c is not None and index < len(c) else None for c in self.columns]


def _tensor_rows(value: Any) -> Rows | None:
    """See rows in tensors of the Open Inference Protocol: one matrix, or a column a tensor."""
    if not isinstance(value, list) or not value:
        return None
    tensors = [_tensor(t) for t in value]
    if any(t is None for t in tensors):
        return None
    return tensors[0] if len(tensors) == 1 else _Columns([_Flat(t) for t in tensors])


def _tensor(value: Any) -> Rows | None:
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    data, shape = value["data"], value.get("shape")
    if not isinstance(shape, list) or not shape or not all(type(n) is int and n > 0 for n in shape):
        return None
    if data and isinstance(data[0], list):
        rows: Rows = data
        return rows
    width = 1
    for n in shape[1:]:
        width *= n
    return _Matrix(data, width)


@dataclass(frozen=True, slots=True)
class _Matrix:
    """A flat, row-major tensor.

    Attributes:
        data: All values.
        width: Values in a row.
    """

    data: list[Any]
    width: int

    def __len__(self) -> int:
        return -(-len(self.data) // self.width)

    def __getitem__(self, index: int) -> list[Any]:
        return self.data[index * self.width : (index + 1) * self.width]


@dataclass(frozen=True, slots=True)
class _Flat:
    """A tensor that is one column.

    Attributes:
        rows: Its rows, of one value each.
    """

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        return row[0] if isinstance(row, list) and len(row) == 1 else row
