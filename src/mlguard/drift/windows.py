"""Which values does a window hold of each feature?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from mlguard.drift.seasons import read_times

if TYPE_CHECKING:
    import pandas as pd

    from mlguard.drift.reference import Reference

Window: TypeAlias = "pd.DataFrame | Iterable[object]"


@dataclass(frozen=True, slots=True, eq=False)
class WindowColumns:
    """A window, column by column.

    Attributes:
        rows: How many rows there are.
        values: By feature; predictions and scores only where the window has them.
        times: When each row came, where that is known.
        segments: Of each row, where the reference has segments.
    """

    rows: int
    values: Mapping[str, Sequence[object]]
    times: pd.DatetimeIndex | None
    segments: Sequence[object] | None


def split(
    reference: Reference, window: Any, times: Iterable[object] | None = None
) -> WindowColumns:
    """Turn a window into one sequence of values per feature.

    Junk is missing: a row of the wrong length, a column that vanished. A column that the reference
    lacks is ignored.

    Raises:
        ValueError: A frame names a column twice.
    """
    seasons = reference.seasons
    outputs = [f.name for f in reference.profile if f.role != "input"]
    aside = [name for name in (seasons.time, seasons.segment) if name is not None]
    if hasattr(window, "columns"):
        rows = len(window)
        found = _of_frame(window, [*reference.features, *outputs, *aside])
    else:
        listed = list(window)
        rows = len(listed)
        found = _of_rows(listed, reference.features, [*outputs, *aside])
    values = {name: found.get(name, [None] * rows) for name in reference.features}
    values |= {name: found[name] for name in outputs if name in found}
    when = found.get(seasons.time) if times is None and seasons.time is not None else times
    read = None if when is None or not seasons.clock else read_times(when, seasons.timezone)
    return WindowColumns(
        rows, values, read, found.get(seasons.segment) if seasons.segment else None
    )


def _of_frame(frame: Any, wanted: Sequence[str]) -> dict[str, Any]:
    names = [str(name) for name in frame.columns]
    found: dict[str, Any] = {}
    for name in wanted:
        if names.count(name) > 1:
            raise ValueError(f"the window has {names.count(name)} columns {name!r}: keep one")
        if name in names:
            column = frame.iloc[:, names.index(name)]
            # Other types hold values that only a look at each can tell.
            is_plain = str(column.dtype) in {"float64", "datetime64"} or _is_time(column)
            found[name] = column.to_numpy() if str(column.dtype) == "float64" else column
            if not is_plain:
                found[name] = column.tolist()
    return found


def _is_time(column: Any) -> bool:
    return str(column.dtype).startswith("datetime64")


def _of_rows(
    rows: Sequence[object], features: Sequence[str], others: Sequence[str]
) -> dict[str, list[object]]:
    read = [_row(features, row) for row in rows]
    found = {name: [row[index] for row in read] for index, name in enumerate(features)}
    named = [row for row in rows if isinstance(row, Mapping)]
    for name in others:
        if name not in found and any(name in row for row in named):
            found[name] = [row.get(name) if isinstance(row, Mapping) else None for row in rows]
    return found


def _row(features: Sequence[str], row: Any) -> Sequence[object]:
    """Return the row's values; all are missing where it is no row of this model."""
    if isinstance(row, Mapping):
        return [row.get(name) for name in features]
    if hasattr(row, "tolist"):
        row = row.tolist()
    is_row = isinstance(row, list | tuple) and len(row) == len(features)
    return row if is_row else [None] * len(features)
