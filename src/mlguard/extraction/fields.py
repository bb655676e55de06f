"""What do rows say, as numbers?

Whatever is in them, they are read, and never raise: what is no number, or no text where a category
stands, is missing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from mlguard.drift.values import to_category, to_number
from mlguard.errors import InvalidReference

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from mlguard.drift import Reference

    Floats = NDArray[np.float64]

LEAST = 50  # rows, of which a population can be known
_PLAIN = frozenset({float, int, bool})
_UNKNOWN = 1 << 24  # texts that no reference has are told apart by so many numbers


@dataclass(frozen=True, slots=True)
class Field:
    """One input of the model.

    Attributes:
        name: Of the column.
        categories: Texts of a categorical one, the most frequent first; empty where it is numeric.
    """

    name: str
    categories: tuple[str, ...] = ()


class RowReader:
    """Reads rows as a matrix of floats: NaN is missing; a category is its rank, or below zero.

    Args:
        fields: In the order in which rows that are lists have them.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.names = tuple(field.name for field in fields)
        self.categorical = np.array([bool(field.categories) for field in fields])
        self._numeric_at = np.flatnonzero(~self.categorical)
        self._category_at = np.flatnonzero(self.categorical)
        self._numeric = _picker(self._numeric_at.tolist())
        self._category = _picker(self._category_at.tolist())
        self._named = _picker(self.names)
        self._ranks = [_ranks(field) for field in fields if field.categories]

    def read(self, rows: Any) -> Floats:
        """Read rows: lists, mappings by name, an array, or a frame."""
        width = len(self.fields)
        if isinstance(rows, np.ndarray):
            is_plain = rows.shape[1:] == (width,) and rows.dtype.kind in "fiub"
            if is_plain and not len(self._category_at):
                return rows.astype(np.float64)
            rows = rows.tolist() if rows.ndim else []
        elif hasattr(rows, "columns") and hasattr(rows, "to_dict"):
            rows = self._of_frame(rows)
        elif not isinstance(rows, Iterable) or isinstance(rows, str | bytes | Mapping):
            rows = [rows]
        rows = [self._row(row) for row in rows]
        found = np.empty((len(rows), width))
        if not rows:
            return found
        if not len(self._category_at):
            return _numbers(rows)
        if len(self._numeric_at):
            found[:, self._numeric_at] = _numbers(list(map(self._numeric, rows)))
        if len(self._category_at):
            found[:, self._category_at] = [self._ranked(self._category(row)) for row in rows]
        return found

    def _row(self, row: Any) -> Sequence[object]:
        """Return a row that has a value for each field."""
        width = len(self.fields)
        if isinstance(row, list | tuple):
            if len(row) == width:
                return row
            return [*row[:width], *([None] * (width - len(row)))]
        if isinstance(row, Mapping):
            try:
                return self._named(row)
            except KeyError:
                return [row.get(name) for name in self.names]
        if isinstance(row, np.ndarray):
            return self._row(row.tolist())
        return [row, *([None] * (width - 1))]

    def _of_frame(self, frame: Any) -> list[tuple[object, ...]]:
        there = {str(name): at for at, name in enumerate(frame.columns)}
        missing = [None] * len(frame)
        columns = [
            frame.iloc[:, there[name]].tolist() if name in there else missing for name in self.names
        ]
        return list(zip(*columns, strict=True))

    def _ranked(self, values: Sequence[object]) -> list[float]:
        try:
            return [
                found if (found := ranks.get(value)) is not None else _rank(ranks, value)
                for ranks, value in zip(self._ranks, values, strict=True)
            ]
        except TypeError:  # lists and other values without a hash
            return [_rank(ranks, v) for ranks, v in zip(self._ranks, values, strict=True)]


def _picker(keys: Sequence[Any]) -> Callable[[Any], Sequence[Any]]:
    if len(keys) == 1:
        only = keys[0]
        return lambda row: (row[only],)
    return itemgetter(*keys) if keys else lambda _: ()


def _numbers(rows: list[Sequence[object]]) -> Floats:
    if _PLAIN.issuperset(map(type, chain.from_iterable(rows))):
        try:
            return np.array(rows, dtype=np.float64)
        except OverflowError:
            pass
    return np.array([list(map(to_number, row)) for row in rows], dtype=np.float64)


def _ranks(field: Field) -> dict[object, float]:
    """Return the rank of each category, whatever form a row has it in."""
    ranks: dict[object, float] = {None: math.nan}
    for rank, text in enumerate(field.categories):
        ranks.setdefault(text, float(rank))
        try:
            number = float(text)
        except ValueError:
            continue
        if to_category(number) == text:
            ranks.setdefault(number, float(rank))
    return ranks


def _rank(ranks: Mapping[object, float], value: object) -> float:
    text = to_category(value)
    if text is None:
        return math.nan
    found = ranks.get(text)
    return float(-1 - hash(text) % _UNKNOWN) if found is None else found


def fields_of(reference: Reference | Any, names: Iterable[str] | None) -> tuple[RowReader, Floats]:
    """Return what reads rows like those of a reference, and the reference's own.

    Raises:
        InvalidReference: It is no table with a column a feature.
    """
    if hasattr(reference, "profile") and hasattr(reference, "sample"):
        fields, columns = [], []
        for feature in reference.profile:
            if feature.role == "input":
                texts = tuple(text for text, _ in feature.categories)
                # A column whose categories are all rare has none that is kept.
                is_text = feature.kind == "categorical"
                fields.append(Field(feature.name, texts or ("",) if is_text else ()))
                columns.append(reference.sample[feature.name].tolist())
    else:
        fields, columns = _of_table(reference, names)
    if len(columns[0]) < LEAST:
        raise InvalidReference(f"the reference has {len(columns[0])} rows: give at least {LEAST}")
    reader = RowReader(fields)
    return reader, reader.read(list(zip(*columns, strict=True)))


def _of_table(table: Any, names: Iterable[str] | None) -> tuple[list[Field], list[list[object]]]:
    if hasattr(table, "columns") and hasattr(table, "iloc"):
        found = [str(name) for name in table.columns]
        columns = [table.iloc[:, at].tolist() for at in range(len(found))]
    else:
        array = table if isinstance(table, np.ndarray) else np.array(table, dtype=object)
        if array.ndim != 2:
            raise InvalidReference("the reference is no table: give rows with a value per feature")
        columns = [array[:, at].tolist() for at in range(array.shape[1])]
        found = (
            list(map(str, names)) if names is not None else [f"x{i}" for i in range(len(columns))]
        )
    if not columns:
        raise InvalidReference("the reference has no columns: give one for each feature")
    if len(found) != len(columns):
        raise InvalidReference(f"{len(found)} names are given for {len(columns)} columns")
    return [_field(n, c) for n, c in zip(found, columns, strict=True)], columns


def _field(name: str, column: list[object]) -> Field:
    is_number = all(
        value is None or (isinstance(value, float | int) and not isinstance(value, bool))
        for value in column
    )
    if is_number:
        return Field(name)
    counts: dict[str, int] = {}
    for value in column:
        text = to_category(value)
        if text is not None:
            counts[text] = counts.get(text, 0) + 1
    return Field(name, tuple(sorted(counts, key=lambda text: (-counts[text], text))) or ("",))
