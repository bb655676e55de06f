"""What does the population of the reference look like?

Rows become points: a number in standard deviations, once as it is and once by its rank in the
reference (a Gaussian copula); a category as one axis for each of its most frequent values, scaled
as a number is. What is wider than 64 goes through a fixed random projection. The means and
covariances of these points give four distances: how far off a row is (Mahalanobis), and how much
likelier it is where the features are independent than where they depend on each other as in the
reference. The latter is what whoever draws each feature by itself cannot avoid.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlguard.extraction.fields import RowReader

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

WIDTH = 64  # axes that are compared directly
DISTANCES = ("far", "independent", "far_by_rank", "independent_by_rank")
_SHRINKAGE = 0.02
_CLIP = 8.0  # standard deviations
_MOST = 1e3  # the same, for relations between rows
_HUGE = 1e150  # whose square is a float
_KNOTS = 33
_AXES = 6  # of a category, at most
_RARE = 0.02
_NOISE = 0.03  # variance that a conversion or a rounding may add to any coordinate
_FILLS = 3
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True, eq=False)
class Scales:
    """How values become coordinates.

    Attributes:
        numeric: Columns of numbers.
        center: Of each of these.
        spread: In standard deviations without the outermost values.
        low: The least value that is in range.
        high: The largest.
        knots: Values of each numeric column, ascending, scaled into [i, i + 0.5].
        base: The normal score just before each knot is this, and
        slope: This times the scaled value.
        axes: The column and the rank of each category that has an axis.
        share: Of each such category.
        deviation: By which it is scaled.
    """

    numeric: NDArray[np.intp]
    center: Floats
    spread: Floats
    low: Floats
    high: Floats
    knots: Floats
    base: Floats
    slope: Floats
    axes: NDArray[np.intp]
    share: Floats
    deviation: Floats

    @classmethod
    def of(cls, reader: RowReader, values: Floats) -> Scales:
        """Learn them from the reference's rows."""
        numeric = np.flatnonzero(~reader.categorical)
        found = [_scale(values[:, column]) for column in numeric]
        center, spread, low, high = np.array([each[:4] for each in found]).reshape(-1, 4).T
        knots = np.array([each[4] for each in found]).reshape(-1, _KNOTS)
        scores = np.array([each[5] for each in found]).reshape(-1, _KNOTS)
        knots = knots + np.arange(len(numeric))[:, None]
        gap, rise = np.diff(knots, axis=1), np.diff(scores, axis=1)
        slope, base = np.zeros_like(knots), scores.copy()
        slope[:, 1:] = np.where(gap > 0, rise / np.where(gap > 0, gap, 1.0), 0.0)
        base[:, 1:] -= slope[:, 1:] * knots[:, 1:]
        axes, share = _axes(reader, values)
        lines = (knots.ravel(), base.ravel(), slope.ravel())
        deviation = np.sqrt(np.maximum(share, _RARE) * np.maximum(1 - share, _RARE))
        return cls(numeric, center, spread, low, high, *lines, axes, share, deviation)

    def numbers(self, values: Floats) -> Floats:
        """Return numbers in standard deviations; NaN is missing, and 1000 the most."""
        scaled = (values - self.center) / self.spread
        return np.minimum(np.maximum(scaled, -_MOST), _MOST)

    def by_rank(self, values: Floats) -> Floats:
        """Return the normal scores of numbers, none of which is missing."""
        scaled = (values - self.low) / (2 * (self.high - self.low) + (self.high == self.low))
        scaled = np.minimum(np.maximum(scaled, 0.0), 0.5) + np.arange(len(self.numeric))
        at = np.searchsorted(self.knots, scaled)
        found: Floats = self.base[at] + self.slope[at] * scaled
        return found

    def by_category(self, values: Floats) -> Floats:
        """Return one coordinate for each category that has an axis."""
        is_it = values[:, self.axes[:, 0]] == self.axes[:, 1]
        found: Floats = (is_it - self.share) / self.deviation
        return found


def _scale(column: Floats) -> tuple[float, float, float, float, Floats, Floats]:
    """Return a column's center, spread and range, and its knots with their scores."""
    there = np.sort(column[np.isfinite(column)]).clip(-_HUGE, _HUGE)
    there = there if len(there) else np.zeros(1)
    inner = np.clip(there, *np.quantile(there, [0.005, 0.995]))
    center = float(inner.mean())
    spread = float(inner.std()) or float(there.std()) or abs(center) or 1.0
    low, high = float(there[0]), float(there[-1])
    found = np.unique(np.quantile(there, np.linspace(0, 1, _KNOTS), method="nearest"))
    below, upto = np.searchsorted(there, found, "left"), np.searchsorted(there, found, "right")
    ranks = ((below + upto) / 2 / len(there)).clip(0.001, 0.999)
    knots, scores = np.full(_KNOTS, 0.5), np.zeros(_KNOTS)
    knots[: len(found)] = (found - low) / (2 * (high - low) + (high == low))
    scores[: len(found)] = [_NORMAL.inv_cdf(rank) for rank in ranks]
    scores[len(found) :] = scores[len(found) - 1]
    return center, spread, low, high, knots, scores


def _axes(reader: RowReader, values: Floats) -> tuple[NDArray[np.intp], Floats]:
    columns = np.flatnonzero(reader.categorical)
    most = max(1, min(_AXES, 2 * WIDTH // max(len(columns), 1)))
    axes, share = [], []
    for column in columns:
        there = values[:, column]
        there = there[~np.isnan(there)]
        kept = min(most, max(len(reader.fields[column].categories) - 1, 1))
        for rank in range(kept):
            axes.append((int(column), rank))
            share.append(float((there == rank).mean()) if len(there) else 0.0)
    return np.array(axes, np.intp).reshape(-1, 2), np.array(share)


@dataclass(frozen=True, slots=True, eq=False)
class Points:
    """Rows as points.

    Attributes:
        both: By value and by rank, rows, coordinates.
        numbers: In standard deviations, not clipped.
    """

    both: Singles
    numbers: Floats

    @property
    def by_rank(self) -> Singles:
        """Return the points by rank."""
        found: Singles = self.both[1]
        return found

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: NDArray[Any]) -> Points:
        """Return some of the rows."""
        return Points(self.both[:, rows], self.numbers[rows])


class Space:
    """Turns rows into points; the projection is the same for every space of one seed."""

    def __init__(self, reader: RowReader, values: Floats, seed: int) -> None:
        self.scales = Scales.of(reader, values)
        self.blocks = np.concatenate([self.scales.numeric, self.scales.axes[:, 0]]).astype(np.intp)
        self.projection: Singles | None = None
        self.is_wide = values.shape[1] > WIDTH
        axes = len(self.blocks)
        if axes > 2 * WIDTH or self.is_wide:
            drawn = np.random.default_rng(seed).normal(size=(axes, WIDTH))
            self.projection = (drawn / np.sqrt(axes)).astype(np.float32)

    def points(self, values: Floats) -> Points:
        """Place rows, before a projection."""
        scales, width = self.scales, len(self.scales.numeric)
        given = values if width == values.shape[1] else values[:, scales.numeric]
        is_missing = np.isnan(given)
        both = np.empty((2, len(values), len(self.blocks)), np.float32)
        numbers = scales.numbers(given)
        clipped = np.minimum(np.maximum(numbers, -_CLIP), _CLIP)
        both[0, :, :width] = np.where(is_missing, 0.0, clipped)
        both[1, :, :width] = scales.by_rank(np.where(is_missing, scales.center, given))
        if len(scales.axes):
            both[:, :, width:] = scales.by_category(values)
        return Points(both, numbers)

    def unknown(self, values: Floats, constant: Bools) -> Bools | None:
        """Say which coordinates of rows say nothing; None where all do.

        Args:
            values: The rows.
            constant: Columns that do not vary of late, of each row.
        """
        if self.projection is not None:
            return None
        is_unknown = np.isnan(values) | constant
        return is_unknown[:, self.blocks] if is_unknown.any() else None

    def projected(self, points: Points) -> Points:
        """Return narrow points."""
        if self.projection is None:
            return points
        return Points(points.both @ self.projection, points.numbers)


class Population:
    """Knows how far rows are off the reference.

    Args:
        space: Of its points.
        points: The reference's rows, not projected.
    """

    def __init__(self, space: Space, points: Points) -> None:
        learned = [_cloud(each, space.blocks, space.projection) for each in points.both]
        self._center = np.stack([center for center, _ in learned])[:, None]
        # Side by side: as the features depend on each other, and as if they did not.
        self._forms = np.stack([forms for _, forms in learned])
        width = self._forms.shape[1]
        self._precision = np.ascontiguousarray(self._forms[:, :, :width])
        self._step = 1 / self._precision.diagonal(axis1=1, axis2=2)[:, None]

    def distances(self, points: Points, unknown: Bools | None = None) -> Singles:
        """Return the distances of projected points, one column for each of `DISTANCES`.

        Args:
            points: The rows.
            unknown: Coordinates to do without: what the others make likeliest is put there, which
                gives the distance of the others by themselves.
        """
        off = points.both - self._center
        if unknown is not None:
            off[:, unknown] = 0.0
        shape = (*off.shape[:2], 2, off.shape[2])
        far_alone = ((off @ self._forms).reshape(shape) * off[:, :, None]).sum(axis=3)
        if unknown is not None:
            rows = np.flatnonzero(unknown.any(axis=1))
            far_alone[:, rows, 0] = self._without(off[:, rows], unknown[rows])
        found = np.empty((len(points), len(DISTANCES)), np.float32)
        found[:, ::2] = far_alone[:, :, 0].T
        found[:, 1::2] = (far_alone[:, :, 0] - far_alone[:, :, 1]).T
        return found

    def _without(self, off: Singles, unknown: Bools) -> Singles:
        step = (unknown * self._step).astype(np.float32)
        for _ in range(_FILLS):
            off -= step * (off @ self._precision)
        found: Singles = (off @ self._precision * off).sum(axis=2)
        return found


def _cloud(
    points: Singles, blocks: NDArray[np.intp], projection: Singles | None
) -> tuple[Singles, Singles]:
    """Return where points lie: their mean, and the inverses of two covariances, side by side.

    Args:
        points: Before they are projected.
        blocks: Which column each axis is of: those of one are never independent.
        projection: Of wide points.
    """
    wide = points.astype(np.float64)
    shrinkage = min(0.5, _SHRINKAGE + min(wide.shape[1], WIDTH) / (4 * len(wide)))
    center = wide.mean(axis=0)
    wide -= center
    if projection is None:
        full = wide.T @ wide / len(wide)
        apart = np.where(blocks[:, None] == blocks, full, 0.0)
    else:
        small = wide @ projection
        full = small.T @ small / len(wide)
        apart = projection.T @ (wide.var(axis=0)[:, None] * projection)
        center = center @ projection
    floor = np.diag(_NOISE + shrinkage * np.diag(full))
    inverse = np.linalg.inv((1 - shrinkage) * full + floor)
    alone = np.linalg.inv((1 - shrinkage) * apart + floor)
    forms = np.concatenate([inverse, alone], axis=1)
    return center.astype(np.float32), forms.astype(np.float32)


def out_of_sample(space: Space, points: Points, unknown: Bools | None, folds: int = 5) -> Singles:
    """Return the reference's own distances, each from a population without the row's fold."""
    rows = len(points)
    fold = np.arange(rows) % folds
    found = np.empty((rows, len(DISTANCES)), np.float32)
    for each in range(folds):
        rest, own = fold != each, fold == each
        if not rest.any() or not own.any():
            rest = own = np.ones(rows, bool)
        known = Population(space, points.take(rest))
        mine = space.projected(points.take(own))
        found[own] = known.distances(mine, None if unknown is None else unknown[own])
    return found
