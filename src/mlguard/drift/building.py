"""How does training data become a reference?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from mlguard.drift.extras import require
from mlguard.drift.profile import Feature, Role, categorical, numeric, sentinel
from mlguard.drift.seasons import CLOCKS, Seasons, named_segments, of_zone, read_times, zone_of
from mlguard.drift.values import read, to_category
from mlguard.errors import InvalidReference

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from mlguard.drift.calibrating import Column
    from mlguard.drift.calibration import Calibration

_ROWS_OF_PART = 50  # on average, for a clock that divides the rows
_CYCLES = 3  # of a clock, that the rows must show
_DAY = 86_400


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """What `Reference.build` was asked for; it says what each means."""

    categorical: tuple[str, ...]
    features: tuple[str, ...] | None
    predictions: tuple[str, ...]
    scores: tuple[str, ...]
    time: str | None
    timezone: str | None
    ordered: bool
    segment: str | None
    max_rows: int
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        if self.max_rows < 1:
            raise InvalidReference(f"max_rows={self.max_rows!r} must be at least 1")
        if not 0 < self.alpha < 1:
            raise InvalidReference(f"alpha={self.alpha!r} must be between 0 and 1")

    def roles(self, columns: Collection[str]) -> dict[str, Role]:
        """Return what each column that is compared is, the inputs first."""
        apart = {*self.predictions, *self.scores, self.time}
        inputs = self.features
        if inputs is None:
            inputs = tuple(name for name in columns if name not in apart)
        roles: dict[str, Role] = dict.fromkeys(inputs, "input")
        roles |= dict.fromkeys(self.predictions, "prediction")
        roles |= dict.fromkeys(self.scores, "score")
        wanted = {
            "categorical": self.categorical,
            "features": inputs,
            "predictions": self.predictions,
            "scores": self.scores,
            "time": (self.time,) if self.time is not None else (),
            "segment": (self.segment,) if self.segment is not None else (),
        }
        for option, named in wanted.items():
            for name in named:
                if name not in columns:
                    there = ", ".join(list(columns)[:20])
                    message = f"{option} names the column {name!r}, which is not there: use one of"
                    raise InvalidReference(f"{message} {there}")
        compared = Counter([*inputs, *self.predictions, *self.scores])
        for name, times in compared.items():
            if times > 1:
                raise InvalidReference(f"column {name!r} is there {times} times: name it once")
        if not inputs:
            raise InvalidReference("the training data has no columns: give one column per feature")
        return roles


def names(option: str, given: Iterable[str]) -> tuple[str, ...]:
    """Read a list of columns.

    Raises:
        InvalidReference: It is one string.
    """
    if isinstance(given, str):
        raise InvalidReference(f"{option}={given!r} must be a list of column names")
    return tuple(str(name) for name in given)


def build(frame: Any, options: BuildOptions, progress: Callable[[float], None]) -> dict[str, Any]:
    """Return the fields of a `Reference`."""
    np = require("numpy")
    table = _columns(frame)
    roles = options.roles(table)
    rows = len(next(iter(table.values())))
    times, zone = _times(table, options)
    order = _order(table, options, times)
    if order is not None:
        table = {name: column.iloc[order] for name, column in table.items()}
        times = times[order] if times is not None else None
    kept = np.random.default_rng(options.seed).permutation(rows)[: options.max_rows]
    profile, sample, columns, notes = _profiled(table, roles, options, kept)
    segments = _segments(table, options)
    seasons = Seasons("", zone, options.time, options.segment, segments)
    seen = table[options.segment].tolist() if options.segment is not None else None
    calibrated = _calibrated(columns, seasons, times, seen, options, progress, rows)
    seasons, parts, calibration, anytime = calibrated
    return {
        "profile": profile,
        "sample": sample,
        "rows": rows,
        "seasons": seasons,
        "parts": parts[kept],
        "calibration": calibration,
        "anytime": anytime,
        "notes": (*notes, *_advice(calibration, profile)),
    }


def _calibrated(
    columns: Sequence[Column],
    seasons: Seasons,
    times: pd.DatetimeIndex | None,
    seen: Sequence[object] | None,
    options: BuildOptions,
    progress: Callable[[float], None],
    rows: int,
) -> tuple[Seasons, NDArray[np.intp], Calibration, Calibration]:
    import numpy as np

    from mlguard.drift import calibrating

    is_ordered = options.ordered or options.time is not None
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress(min(done / (len(columns) * 3 + 1), 1.0))

    rng = np.random.default_rng([options.seed, 1])
    drawn = calibrating.by_rows(columns, options.alpha, rng, tell)
    plain = seasons.of_rows(rows, None, seen)
    if not is_ordered or rows < 2 * calibrating.MIN_BLOCKS:
        progress(1.0)
        return seasons, plain, drawn, drawn
    learn = partial(calibrating.by_blocks, columns, seasons, times=times, drawn=drawn, tell=tell)
    parts = plain
    if times is not None:
        clocks = {c: _with(seasons, c).of_rows(rows, times, seen) for c in _affordable(times)}
        seasons = _with(seasons, calibrating.best_clock(columns, seasons, clocks, tell))
        parts = clocks[seasons.clock]
    calibration = learn(parts=parts)
    anytime = learn(parts=plain, shifts=False) if seasons.clock else calibration
    progress(1.0)
    return seasons, parts, calibration, anytime


def _with(seasons: Seasons, clock: str) -> Seasons:
    return Seasons(clock, seasons.timezone, seasons.time, seasons.segment, seasons.segments)


def _affordable(times: pd.DatetimeIndex) -> list[str]:
    """Return the clocks that have enough rows for each part, and were seen often enough."""
    known = times[times.notna()]
    days = (known.max() - known.min()).total_seconds() / _DAY if len(known) else 0.0
    found = [""]
    for clock, parts in CLOCKS.items():
        cycle = 1 if parts == CLOCKS["hour of day"] else 7
        if clock and len(known) >= parts * _ROWS_OF_PART and days >= _CYCLES * cycle:
            found.append(clock)
    return found


def _times(
    table: Mapping[str, pd.Series], options: BuildOptions
) -> tuple[pd.DatetimeIndex | None, str]:
    if options.time is None:
        return None, of_zone(options.timezone or "UTC")
    column = table[options.time]
    zone = of_zone(options.timezone or zone_of(column))
    if column.isna().all():
        raise InvalidReference(f"time={options.time!r} has no value in any row: fill it")
    times = read_times(column, zone)
    if times is not None and times.isna().all():
        raise InvalidReference(f"time={options.time!r} holds no times that can be read: fix it")
    return times, zone


def _order(
    table: Mapping[str, pd.Series], options: BuildOptions, times: pd.DatetimeIndex | None
) -> NDArray[np.intp] | None:
    """Return the rows by their time; None where they stay as they are. The unknown come last."""
    if options.time is None:
        return None
    by = table[options.time].reset_index(drop=True)
    if times is not None:
        by = require("pandas").Series(times)
    order: NDArray[np.intp] = by.argsort(kind="stable").to_numpy()
    missing = by.isna().to_numpy()
    if missing.any():
        np = require("numpy")
        known = np.flatnonzero(~missing)
        sorted_ = known[by[~missing].argsort(kind="stable").to_numpy()]
        order = np.concatenate([sorted_, np.flatnonzero(missing)])
    return order


def _segments(table: Mapping[str, pd.Series], options: BuildOptions) -> tuple[str, ...]:
    if options.segment is None:
        return ()
    return named_segments(options.segment, table[options.segment].tolist())


def _profiled(
    table: Mapping[str, pd.Series],
    roles: Mapping[str, Role],
    options: BuildOptions,
    kept: NDArray[np.intp],
) -> tuple[tuple[Feature, ...], dict[str, NDArray[Any]], list[Column], list[str]]:
    from mlguard.drift.calibrating import Column

    np = require("numpy")
    profile: list[Feature] = []
    sample: dict[str, NDArray[Any]] = {}
    columns: list[Column] = []
    notes: list[str] = []
    for name, role in roles.items():
        if name in options.categorical or _is_categorical(table[name]):
            values = _categories(table[name])
            feature = categorical(name, values, values[kept], role)
        else:
            values = _numbers(name, table[name])
            feature = numeric(name, values, values[kept], role)
            note = sentinel(feature, values)
            notes += [] if note is None else [note]
        chosen = kept[len(kept) // 2 :] if feature.is_cut else kept
        sample[name] = values[kept]
        profile.append(feature)
        columns.append(Column.of(feature, read(feature, values), np.sort(chosen)))
    return tuple(profile), sample, columns, notes


def _advice(calibration: Calibration, profile: Sequence[Feature]) -> list[str]:
    blind = [
        feature.name
        for feature in profile
        if feature.is_continuous and calibration.detectable(feature.name, calibration.window) > 2
    ]
    if not blind:
        return []
    said = "shifts below 2 standard deviations cannot be told from what such rows do by themselves"
    return [f"{', '.join(blind)}: {said}"]


def _columns(frame: pd.DataFrame | Mapping[str, Sequence[object]]) -> dict[str, pd.Series]:
    pandas = require("pandas")
    try:
        table = pandas.DataFrame(frame)
    except (TypeError, ValueError) as error:
        message = f"the training data is not a table: {error}; give columns of equal length"
        raise InvalidReference(message) from error
    found = [str(name) for name in table.columns]
    if not found:
        raise InvalidReference("the training data has no columns: give one column per feature")
    for name, times in Counter(found).items():
        if times > 1:
            raise InvalidReference(f"column {name!r} is there {times} times: rename or drop one")
    if not len(table):
        raise InvalidReference("the training data has no rows: give at least one per category")
    return {name: table.iloc[:, i] for i, name in enumerate(found)}


def _is_categorical(column: pd.Series) -> bool:
    pandas = require("pandas")
    types = pandas.api.types
    return bool(
        types.is_bool_dtype(column)
        or types.is_object_dtype(column)
        or types.is_string_dtype(column)
        or isinstance(column.dtype, pandas.CategoricalDtype)
    )


def _numbers(name: str, column: pd.Series) -> NDArray[np.float64]:
    types = require("pandas").api.types
    if not types.is_numeric_dtype(column) or types.is_complex_dtype(column):
        advice = "turn it into a number, name it as categorical or drop it"
        raise InvalidReference(f"column {name!r} holds {column.dtype} values: {advice}")
    values: NDArray[np.float64] = column.to_numpy(dtype="float64", na_value=math.nan)
    return values


def _categories(column: pd.Series) -> NDArray[Any]:
    """Return the text form of each value, made once of each that is distinct."""
    np, pandas = require("numpy"), require("pandas")
    values: NDArray[Any] = np.empty(len(column), dtype=object)
    try:
        codes, distinct = pandas.factorize(column, use_na_sentinel=True)
    except TypeError:  # lists and other values without a hash
        values[:] = [to_category(value) for value in column.tolist()]
        return values
    texts = np.empty(len(distinct) + 1, dtype=object)
    texts[:-1] = [to_category(value) for value in distinct.tolist()]
    values[:] = texts[codes]  # -1, of what is missing, is the last: None
    return values
