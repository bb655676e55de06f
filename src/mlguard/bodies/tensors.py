"""Where are the rows in tensors of the Open Inference Protocol?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from mlguard.bodies.counts import Count, anywhere, rows_of
from mlguard.bodies.documents import Repeated, stands
from mlguard.bodies.rows import Columns, Matrix, Rows
from mlguard.bodies.survey import Survey

_MOST_DIMENSIONS = 16
_MOST_TENSORS = 1000


@dataclass(frozen=True, slots=True)
class _Flat:
    """A tensor that is one column.

    Attributes:
        rows: Its rows, of one value each.
    """

    rows: Matrix

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        row = self.rows[index]
        return row[0] if len(row) == 1 else row


def tensor_table(value: Any, width: int = 0) -> Rows | None:
    """See rows in tensors: one matrix, or a column a tensor; None where there are none.

    A shape is a client's word: the largest plausible reading counts.

    Args:
        value: A list of tensors.
        width: Values in a row; 0 where unknown.
    """
    return _table(value, _read(value, width), width)


def are_plain(value: Any, raw: bytes, above: int) -> bool:
    """Say whether these are tensors of a flat list each, and nothing else is in the bytes.

    Args:
        value: What stands where tensors are expected.
        raw: The document.
        above: Objects around it.
    """
    return (
        type(value) is list
        and all(type(t) is dict and type(t.get("shape")) is list for t in value)
        and all(type(t.get("data")) is list for t in value)
        and stands(raw, b"{", above + len(value))
        and stands(raw, b"[", 1 + 2 * len(value))
    )


def are_tensors(value: Any) -> bool:
    """Say whether these look like tensors."""
    return isinstance(value, list) and all(isinstance(t, dict) and "data" in t for t in value)


def read_tensors(value: Any, width: int, seen: Survey | None) -> tuple[Count, Rows | None]:
    """Count the rows in tensors as any handler may, whatever their shapes say, and see them.

    Args:
        value: What stands where tensors are expected.
        width: Values in a row; 0 where unknown.
        seen: What is in it; None where it is plain.
    """
    known = _read(value, width)
    table = _table(value, known, width)
    most = 0 if table is None else len(table)
    if seen is not None:
        most = max(most, _most(value, width, seen, found=table is not None))
    sizes = [len(t.data) for t in known]
    if width:
        most = max(most, rows_of(sum(sizes), width))
    if width > 1 and len(sizes) > 1:  # each may be one column
        most = max([most, *sizes])
    return Count(max(1, most), 1), table


def _most(value: Any, width: int, seen: Survey, *, found: bool) -> int:
    if not isinstance(value, list) or len(value) > _MOST_TENSORS:
        return anywhere(seen, width)
    if any(isinstance(t, Repeated) for t in value):
        return max(seen.longest, seen.values)
    claimed = max(map(_claimed, value), default=0)
    return claimed if found or claimed else anywhere(seen, width)


def _read(value: Any, width: int) -> list[Matrix]:
    if not isinstance(value, list) or len(value) > _MOST_TENSORS:
        return []
    likely = width or 1 if len(value) == 1 else 1
    return [t for t in (_tensor(t, likely) for t in value) if t is not None]


def _table(value: Any, known: list[Matrix], width: int) -> Rows | None:
    if not known:
        return None
    if len(value) == 1:
        matrix, width = known[0], width or known[0].width
        rows = max(matrix.rows, rows_of(len(matrix.data), width))
        return Matrix(matrix.data, width, min(rows, max(1, len(matrix.data))))
    return Columns([_Flat(t) for t in known], max(len(t) for t in known))


def _claimed(tensor: Any) -> int:
    """Bound the rows of a tensor whose data is a text, which may hold bytes; 0 for others."""
    if not isinstance(tensor, dict) or not isinstance(tensor.get("data"), str):
        return 0
    shape = tensor.get("shape")
    rows = shape[0] if isinstance(shape, list) and shape else 1
    return max(1, min(rows, len(tensor["data"]))) if isinstance(rows, int) else 1


def _tensor(value: Any, likely: int) -> Matrix | None:
    """Read one tensor; `likely` is its width where the shape says none."""
    if not isinstance(value, dict) or not isinstance(value.get("data"), list):
        return None
    data = leaves(value["data"])
    shape = value.get("shape")
    if (
        not isinstance(shape, list)
        or not 0 < len(shape) <= _MOST_DIMENSIONS
        or not all(type(n) is int and n > 0 for n in shape)
    ):
        return Matrix(data, likely, max(1, rows_of(len(data), likely)))
    width = 1
    for n in shape[1:]:
        width = min(width * n, max(1, len(data)))
    rows = max(shape[0], len(value["data"]) if data is not value["data"] else 0)
    rows = max(rows, rows_of(len(data), width))
    return Matrix(data, width, min(rows, max(1, len(data))))


def leaves(data: list[Any]) -> list[Any]:
    """Flatten nested lists, however deep."""
    while (kinds := set(map(type, data))) == {list}:
        data = list(chain.from_iterable(data))
    if list not in kinds:
        return data
    found: list[Any] = []
    stack = [iter(data)]
    while stack:
        for v in stack[-1]:
            if isinstance(v, list):
                stack.append(iter(v))
                break
            found.append(v)
        else:
            stack.pop()
    return found
