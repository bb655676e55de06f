"""Which part of the reference does a row belong to: which hour of the week, which segment?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mlguard.drift.extras import require
from mlguard.drift.values import to_category
from mlguard.errors import InvalidReference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

CLOCKS = {"": 1, "hour of day": 24, "hour of day and weekend": 48, "hour of week": 168}
"""How many parts each clock divides the week into."""

UNKNOWN = -1
MAX_SEGMENTS = 100
_EPOCH = (1e8, 1e10)  # numbers between are seconds since 1970; others only give the order


@dataclass(frozen=True, slots=True)
class Seasons:
    """What divides the reference into parts, each compared with the rows of its own kind.

    Attributes:
        clock: One of `CLOCKS`; "" where the hour does not matter.
        timezone: The zone whose clock it is.
        time: The column that says when a row came, if any.
        segment: The column that says which segment a row belongs to, if any.
        segments: The segments that the reference has.
    """

    clock: str = ""
    timezone: str = "UTC"
    time: str | None = None
    segment: str | None = None
    segments: tuple[str, ...] = ()

    @property
    def parts(self) -> int:
        """Return how many parts there are."""
        return CLOCKS[self.clock] * max(len(self.segments), 1)

    def of_rows(
        self, rows: int, times: pd.DatetimeIndex | None, segments: Iterable[object] | None
    ) -> NDArray[np.intp]:
        """Return the part of each row; -1 where it is not known."""
        import numpy as np

        part = np.zeros(rows, dtype=np.intp)
        if self.clock:
            part = _on_clock(self.clock, times) if times is not None else part + UNKNOWN
        if self.segments:
            known = {name: number for number, name in enumerate(self.segments)}
            given = [None] * rows if segments is None else segments
            number = np.array([known.get(to_category(v) or "", UNKNOWN) for v in given], np.intp)
            whole = number * CLOCKS[self.clock] + part
            part = np.where((number < 0) | (part < 0), UNKNOWN, whole)
        return part


def read_times(values: Any, timezone: str) -> pd.DatetimeIndex | None:
    """Read a column of times on the clock of a zone; NaT where one is missing or junk.

    Times without a zone are of that zone. Numbers are seconds since 1970, or, where they cannot
    be, only an order: None.
    """
    np, pandas = require("numpy"), require("pandas")
    column = pandas.Series(values)
    types = pandas.api.types
    if types.is_numeric_dtype(column) and not types.is_bool_dtype(column):
        known = column.dropna().to_numpy(dtype="float64")
        if not len(known) or np.median(known) < _EPOCH[0] or np.median(known) > _EPOCH[1]:
            return None
        return pandas.DatetimeIndex(pandas.to_datetime(column, unit="s", utc=True)).tz_convert(
            timezone
        )
    found = _parsed(column)
    if found.tz is not None:
        return found.tz_convert(timezone)
    return found.tz_localize(timezone, ambiguous="NaT", nonexistent="shift_forward")


def zone_of(values: Any) -> str:
    """Return the zone that a column of times is of; UTC where it does not say."""
    return str(getattr(getattr(values, "dtype", None), "tz", None) or "UTC")


def of_zone(name: str) -> str:
    """Return the name of a zone that exists.

    Raises:
        InvalidReference: There is none of that name.
    """
    pandas = require("pandas")
    try:
        pandas.Timestamp("2000-01-01", tz=name)
    except Exception as error:
        raise InvalidReference(f"timezone={name!r} must be one like 'Europe/Berlin'") from error
    return name


def named_segments(name: str, values: Sequence[object]) -> tuple[str, ...]:
    """Return the distinct segments.

    Raises:
        InvalidReference: There are none, or more than 100.
    """
    found = sorted({text for text in map(to_category, values) if text is not None})
    if not 0 < len(found) <= MAX_SEGMENTS:
        message = f"segment={name!r} has {len(found)} distinct values: it must have 1 to"
        raise InvalidReference(f"{message} {MAX_SEGMENTS}")
    return tuple(found)


def _parsed(column: Any) -> pd.DatetimeIndex:
    pandas = require("pandas")
    if pandas.api.types.is_datetime64_any_dtype(column):
        return pandas.DatetimeIndex(column)
    texts = column.where(column.notna(), None)
    for form in ("ISO8601", "mixed"):
        try:
            found = pandas.to_datetime(texts, format=form, errors="raise")
            if pandas.api.types.is_datetime64_any_dtype(found):
                return pandas.DatetimeIndex(found)
        except (TypeError, ValueError, OverflowError):
            continue
    return pandas.DatetimeIndex(
        pandas.to_datetime(texts, format="mixed", errors="coerce", utc=True)
    )


def _on_clock(clock: str, times: pd.DatetimeIndex) -> NDArray[np.intp]:
    import numpy as np

    hour, day = times.hour.to_numpy(dtype=float), times.dayofweek.to_numpy(dtype=float)
    part = {
        "hour of day": hour,
        "hour of day and weekend": hour + 24 * (day >= 5),
        "hour of week": hour + 24 * day,
    }[clock]
    return np.where(np.isnan(hour), UNKNOWN, np.nan_to_num(part)).astype(np.intp)
