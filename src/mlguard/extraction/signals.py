"""Which rows speak against the principal that sent them?

Each signal is an event that a row is or is not. How often natural rows are one is learned from the
reference: at random, and in the worst block of it, sorted by each of its columns, as real clients
send one segment, or a file that is sorted by something.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlguard.extraction.fields import LEAST
from mlguard.extraction.population import (
    DISTANCES,
    WIDTH,
    Points,
    Population,
    Space,
    out_of_sample,
)
from mlguard.extraction.relations import MISSING, Compared, RecentRows, Relations
from mlguard.extraction.retention import Retention

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlguard.extraction.fields import RowReader

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

LEVELS = (0.95, 0.99)  # quantiles of a distance in the reference; and beyond all of it
BEYOND = 1.25
OFF_POPULATION = (
    *(f"{name}_{level}" for name in DISTANCES for level in ("often", "seldom", "never")),
    *("range", "category", "lattice", "edits"),
)
PROBING = ("line", "probe")
BY_ROW = (*OFF_POPULATION, *PROBING)
BY_WINDOW = ("correlation",)
NAMES = (*BY_ROW, *BY_WINDOW)
ALONE = BY_ROW.index("edits")  # what comes before is seen in a row by itself
TOLERATED = {"edits": 0.55, "line": 0.05, "probe": 0.3, "lattice": 0.3, "correlation": 0.005}
_MOST_TOLERATED = 0.85  # what natural rows are more often, in some order, speaks against nobody
_BLOCK = 32  # rows of a sorted reference that may be all that a client sends
_SLACK = 0.05
PART = 256
"""Rows that are looked at together: what a request needs is bounded, and stays in the cache."""
_ROWS = 6000  # of the reference, that are enough
_RELATED = 1500  # of it in one order, on which relations between rows are looked for
_ORDERS = 12
_USUAL = 0.75
_DECIMALS = 7
_BLUR = 1e-4  # of the last decimal
_ROUNDED = 1e-7  # of the largest value: a float32 is the same number as a float64
_MOST_BLUR = 0.1
_NEVER = 0.2  # what no row of the reference was, some of a sorted file may be
_LEAST_OFF = 3  # columns: a client may convert the unit of two
_MOSTLY_OFF = 0.6
_ON_LATTICE = 0.995
_EDGE = 0.02  # of a range: a value that is closer to it is not out of it


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of one principal, read.

    Attributes:
        values: As the reader gave them.
        points: In space, projected.
        distances: Of each.
        compared: Each row in at most 64 columns, beside those before it.
    """

    values: Floats
    points: Points
    distances: Singles
    compared: Compared

    def __len__(self) -> int:
        return len(self.values)


class Profile:
    """Knows the reference, and which events its rows are.

    Args:
        reader: Of rows.
        values: The reference's, read.
        seed: Of the projection, and of what is drawn.
    """

    def __init__(self, reader: RowReader, values: Floats, seed: int) -> None:
        rng = np.random.default_rng(seed)
        values = values[rng.permutation(len(values))[:_ROWS]]
        width = values.shape[1]
        self.space = Space(reader, values, seed)
        self._categorical = np.flatnonzero(reader.categorical)
        self._numeric = np.flatnonzero(~reader.categorical)
        wide = self.space.points(values)
        own = out_of_sample(
            self.space, wide, self.space.unknown(values, np.zeros((1, width), bool))
        )
        self._population = Population(self.space, wide)
        levels = [np.quantile(own, level, axis=0) for level in LEVELS]
        top = own.max(axis=0)
        reach = top + (BEYOND - 1) * (top - np.quantile(own, 0.5, axis=0))
        self._levels = np.stack([*levels, reach], axis=1).astype(np.float32)
        scales = self.space.scales
        span = (scales.high / 2 - scales.low / 2) * 2 * _EDGE
        largest = np.maximum(np.abs(scales.low), np.abs(scales.high))
        slack = np.maximum(span, 1e-6 * np.where(largest > 0, largest, 1.0))
        self._low, self._high = scales.low - slack, scales.high + slack
        self._scale, self._blur, self._on_lattice = _lattice(values[:, self._numeric])
        self._flat = _Flat(self, reader.categorical)
        flat = self._flat(values, wide)
        distinct = np.array([len(np.unique(flat[:, at])) for at in range(flat.shape[1])])
        continuous = self._flat.continuous(distinct, len(flat))
        self.relations = Relations(distinct, continuous, self._flat.varied(flat), seed)
        ranked = self.space.projected(wide).by_rank
        self.retention = Retention(ranked, self._projected_blocks())
        orders = list(_orders(values, rng))
        self.retention.learn(ranked[order] for order in orders)
        self.tolerances = self._tolerances(values, own, orders)

    @property
    def width(self) -> int:
        """Return how many columns a flat row has."""
        return self._flat.width

    def batch(self, values: Floats, recent: RecentRows) -> Batch:
        """Place rows.

        Args:
            values: As the reader gave them.
            recent: The rows before.
        """
        wide = self.space.points(values)
        points = self.space.projected(wide)
        compared = self.relations.compare(self._flat(values, wide), recent)
        constant = self._flat.columns(compared.constant)
        unknown = self.space.unknown(values, constant)
        return Batch(values, points, self._population.distances(points, unknown), compared)

    def alone(self, values: Floats, distances: Singles) -> Bools:
        """Say which events each row is by itself: those before "edits"."""
        rows = len(values)
        found = np.zeros((rows, ALONE), bool)
        levels = len(DISTANCES) * (len(LEVELS) + 1)
        above = distances[:, :, None] > self._levels
        found[:, :levels] = above.reshape(rows, levels)
        numbers = values[:, self._numeric]
        found[:, levels] = ((numbers < self._low) | (numbers > self._high)).any(axis=1)
        if len(self._categorical):
            found[:, levels + 1] = (values[:, self._categorical] < 0).any(axis=1)
        if len(self._on_lattice):
            found[:, BY_ROW.index("lattice")] = self._off_lattice(numbers)
        return found

    def _off_lattice(self, numbers: Floats) -> Bools:
        """Say which rows are off it in most of the columns that have one."""
        scaled = numbers[:, self._on_lattice] * self._scale
        is_off = np.abs(scaled - np.rint(scaled)) > self._blur
        found: Bools = is_off.sum(axis=1) >= max(_LEAST_OFF, _MOSTLY_OFF * is_off.shape[1])
        return found

    def _projected_blocks(self) -> NDArray[np.intp]:
        if self.space.projection is None:
            return self.space.blocks
        return np.arange(WIDTH)

    def events(
        self, batch: Batch, labels: NDArray[np.int64], recent: RecentRows
    ) -> tuple[Bools, Bools]:
        """Say which events each row is, of `BY_ROW`, and which rows are part of a walk.

        Args:
            batch: The rows.
            labels: Their answers.
            recent: The rows before; is changed.
        """
        alone = self.alone(batch.values, batch.distances)
        related = self.relations.events(batch.compared, labels, alone[:, 0], recent)
        return np.concatenate([alone, related[:, :-1]], axis=1), related[:, -1]

    def _tolerances(self, values: Floats, own: Singles, orders: list[NDArray[np.intp]]) -> Floats:
        alone = self.alone(values, own)
        worst = np.zeros(len(BY_ROW))
        worst[:ALONE], mean = _worst(alone, orders), np.zeros(len(BY_ROW))
        labels = np.zeros(PART, np.int64)
        for order in orders[:: max(1, len(orders) // _ORDERS)]:
            recent, found = RecentRows.new(self.width), []
            for at in range(0, min(len(order), _RELATED), PART):
                batch = self.batch(values[order[at : at + PART]], recent)
                events, does_walk = self.events(batch, labels[: len(batch)], recent)
                events[does_walk, :ALONE] = False
                found.append(events)
            events = np.concatenate(found)
            mean = np.maximum(mean, events.mean(axis=0))
            worst = np.maximum(worst, _worst(events, [np.arange(len(events))]))
        usual = np.array([TOLERATED.get(name, 0.3) for name in BY_ROW])
        never = np.array([name.endswith("_never") for name in BY_ROW])
        usual[never] = _NEVER
        least = np.maximum(usual, np.maximum(3 * mean + 0.05, worst + _SLACK))
        tolerated = np.where(least > _MOST_TOLERATED, 0.999, least)
        return np.array([*tolerated, TOLERATED["correlation"]])


class _Flat:
    """Writes a row in at most 64 columns: those that its relations to other rows are about."""

    def __init__(self, profile: Profile, categorical: Bools) -> None:
        self._space = profile.space
        self._categorical = np.flatnonzero(categorical)
        self._numeric = np.flatnonzero(~categorical)
        self.width = WIDTH if self._space.is_wide else len(categorical)
        self._places = np.argsort(np.concatenate([self._numeric, self._categorical]))

    def __call__(self, values: Floats, points: Points) -> Singles:
        if self._space.is_wide:
            projection = self._space.projection
            assert projection is not None  # noqa: S101 - of what is wide
            found: Singles = points.both[0] @ projection
            return found
        if not len(self._categorical):
            given = points.numbers
        else:
            given = np.concatenate([points.numbers, values[:, self._categorical]], axis=1)
        return np.where(np.isnan(given), MISSING, given).astype(np.float32)

    def columns(self, flags: Bools) -> Bools:
        """Return flags of flat columns in the order of the values'."""
        if self._space.is_wide:
            return np.zeros((1, 1), bool)
        return flags[:, self._places]

    def varied(self, flat: Singles) -> Bools:
        """Say in which columns many rows in a row have the same value only if it does not vary."""
        return np.array([_usual(flat[:, at]) < _USUAL for at in range(self.width)])

    def continuous(self, distinct: NDArray[np.intp], rows: int) -> Bools:
        """Say which columns have so many values that a small difference says something."""
        if self._space.is_wide:
            return np.ones(self.width, bool)
        is_number = np.arange(self.width) < len(self._numeric)
        return is_number & (distinct > min(100, rows // 5))


def _usual(column: Singles) -> float:
    """Return the share of the most frequent value."""
    return float(np.unique(column, return_counts=True)[1].max()) / len(column)


def _lattice(numbers: Floats) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Return by what values are whole, how far off they may be, and the columns that have that."""
    scales, blurs, columns = [], [], []
    for column in range(numbers.shape[1]):
        there = numbers[:, column]
        there = there[np.isfinite(there)]
        if len(there) < LEAST or len(np.unique(there)) < 3:
            continue
        for decimals in range(_DECIMALS):
            scaled = there * 10.0**decimals
            largest = float(np.abs(scaled).max())
            blur = max(_BLUR, _ROUNDED * largest)
            if blur > _MOST_BLUR:
                break
            if (np.abs(scaled - np.rint(scaled)) <= blur).mean() >= _ON_LATTICE:
                scales.append(10.0**decimals)
                blurs.append(blur)
                columns.append(column)
                break
    return np.array(scales), np.array(blurs), np.array(columns, np.intp)


def _orders(values: Floats, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """Return the rows at random, and sorted by each column that varies."""
    rows, width = values.shape
    yield np.arange(rows)
    columns = np.arange(width)
    if width > WIDTH:
        columns = rng.choice(width, WIDTH, replace=False)
    for column in columns:
        given = values[:, column]
        if len(np.unique(given[~np.isnan(given)])) > 1:
            yield np.lexsort((values[:, rng.choice(columns)], given))


def _worst(events: Bools, orders: list[NDArray[np.intp]]) -> Floats:
    """Return the largest share of each event in any block of an order."""
    block = min(_BLOCK, max(1, len(events) // 4))
    worst = np.zeros(events.shape[1])
    for order in orders:
        sums = np.cumsum(events[order], axis=0, dtype=np.int32)
        share = (sums[block:] - sums[:-block]).max(axis=0, initial=0) / block
        worst = np.maximum(worst, share)
    return worst
