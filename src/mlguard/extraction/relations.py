"""Which rows were made of earlier rows of the same principal?

Each row is compared with the sixteen before it. "edits" are rows that differ from one in few
fields, where the account changes many fields so; a "line" is three rows of which each is on the
straight line through the others; a "probe" is a row very close to an earlier one that differs in
few fields, has another answer, or is far off the population.

Where few fields change, and always the same ones, the rows are a walk: one product at many dates,
the flights of one hour. What is unusual in one of them is so in all, and they count once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Labels = NDArray[np.int64]
    Singles = NDArray[np.float32]

RECENT = 16
_NO_LABEL = -1
_FEW = 0.15  # of the fields
_WALKED = 0.25  # of the fields, that a walk may change
_MANY = 0.5  # of the fields, counted as if all were changed alike often
_LEAST_MANY = 4
_NEAR = 0.05  # standard deviations, in every field
_CONSTANT = 4  # rows, after which a field that never changed says nothing
MISSING = -1e4  # what is missing is written as far off as that
_PARALLEL = 1e-5
_ROUGHLY = 1e-3  # in a few dimensions
_DIMENSIONS = 3
_LINED = 6  # earlier rows that lines are looked for with
_EPOCH = 256  # edits, after which the older ones weigh half


@dataclass(slots=True, eq=False)
class RecentRows:
    """The last rows of a principal, and the fields that edits changed.

    Attributes:
        rows: The last `RECENT`, the latest last; NaN where there were none.
        labels: What they were answered; -1 where that is not known.
        changed: How often each field was changed by edits, of late.
        held: How many rows there are.
        edits: How many edits.
    """

    rows: Singles
    labels: Labels
    changed: Singles
    held: int = 0
    edits: int = 0

    @classmethod
    def new(cls, width: int) -> RecentRows:
        """Return those of somebody who sent nothing."""
        rows = np.full((RECENT, width), np.nan, np.float32)
        return cls(rows, np.full(RECENT, _NO_LABEL), np.zeros(width, np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class Compared:
    """Rows beside those before them.

    Attributes:
        rows: `RECENT` earlier rows, and the rows.
        before: Which of `rows` come before each row, the latest first.
        earlier: These rows.
        moved: How many fields differ from each of these.
        constant: Fields that have the same value in all of these.
        closest: The earlier row from which the fewest fields differ, but not none.
    """

    rows: Singles
    before: NDArray[np.intp]
    earlier: Singles
    moved: NDArray[np.integer[Any]]
    constant: Bools
    closest: NDArray[np.intp]

    @property
    def own(self) -> Singles:
        """Return the rows without those before them."""
        return self.rows[RECENT:]


class Relations:
    """Finds relations between rows.

    Args:
        distinct: How many values each column of a flat row has in the reference.
        continuous: Which have so many that a small difference says something.
        varied: In which no value is usual.
        seed: Of a projection.
    """

    names = ("edits", "line", "probe", "walk")

    def __init__(
        self, distinct: NDArray[np.intp], continuous: Bools, varied: Bools, seed: int
    ) -> None:
        width = len(continuous)
        self._width = width
        self._varied = varied
        self._telling = int(distinct.argmax())
        self._continuous = np.flatnonzero(continuous)
        self._few = max(2, int(_FEW * width))
        self._walked = max(self._few, int(_WALKED * width))
        self._many = max(_LEAST_MANY, math.ceil(_MANY * width))
        self._moved = max(3, math.ceil(0.5 * len(self._continuous)))
        # In which of so many directions each two rows differ tells most lines from what is none.
        drawn = np.random.default_rng(seed).normal(size=(width, _DIMENSIONS))
        self._ways = (drawn * continuous[:, None]).astype(np.float32)
        self._backwards = np.arange(RECENT - 1, -1, -1)
        self._other = ~np.eye(_LINED, dtype=bool)

    def compare(self, flat: Singles, recent: RecentRows) -> Compared:
        """Lay rows beside those before them."""
        rows = np.concatenate([recent.rows, flat])
        before = np.arange(len(flat))[:, None] + self._backwards
        # A view costs less than a copy, and most rows come alone.
        earlier = recent.rows[None, ::-1] if len(flat) == 1 else rows[before]
        is_same = (flat[:, None] == earlier).view(np.uint8)
        moved = self._width - np.add.reduce(is_same, axis=2, dtype=np.uint8)
        there = np.minimum(recent.held + np.arange(len(flat)), RECENT)[:, None]
        constant = np.add.reduce(is_same, axis=1, dtype=np.uint8) == there
        constant &= self._varied & (there >= _CONSTANT)
        closest = np.where(moved > 0, moved, self._width + 1).argmin(axis=1)
        return Compared(rows, before, earlier, moved, constant, closest)

    def events(self, given: Compared, labels: Labels, is_far: Bools, recent: RecentRows) -> Bools:
        """Say which of `names` each row is, and remember the last ones.

        Args:
            given: The rows.
            labels: Their answers.
            is_far: Which are far off the population.
            recent: Is changed.
        """
        rows = np.arange(len(labels))
        answers = np.concatenate([recent.labels, labels])
        found = np.zeros((len(labels), len(self.names)), bool)
        least = given.moved[rows, given.closest]
        is_edit = (least <= self._walked) & (least > 0)
        if is_edit.any():
            does_walk = self._walks(given, is_edit, recent)
            found[:, 0] = is_edit & ~does_walk & (least <= self._few)
            found[:, 3] = is_edit & does_walk
        found[:, 1] = self._lines(given)
        found[:, 2] = self._probes(given, answers, is_far)
        recent.rows, recent.labels = given.rows[-RECENT:].copy(), answers[-RECENT:]
        recent.held = min(recent.held + len(labels), RECENT)
        return found

    def _walks(self, given: Compared, is_edit: Bools, recent: RecentRows) -> Bools:
        """Say at which rows the edits so far are of few fields."""
        at = given.before[np.arange(len(is_edit)), given.closest]
        fields = given.own != given.rows[at]
        counts = recent.changed + np.cumsum(fields & is_edit[:, None], axis=0, dtype=np.float32)
        recent.changed = counts[-1].copy()
        recent.edits += int(is_edit.sum())
        if recent.edits >= _EPOCH:
            recent.changed *= np.float32(0.5)
            recent.edits //= 2
        # So many fields, each changed as often, would give the same sums.
        squares = np.einsum("ij,ij->i", counts, counts)
        few: Bools = counts.sum(axis=1) ** 2 < self._many * squares
        return few

    def _probes(self, given: Compared, answers: Labels, is_far: Bools) -> Bools:
        """Say which rows are close to an earlier one, and why that should not be."""
        own, rows, before = given.own, given.rows, given.before
        found = np.zeros(len(own), bool)
        # Most rows are far apart in one field already.
        at = self._telling
        is_near = np.abs(own[:, None, at] - given.earlier[:, :, at]) < _NEAR
        row, place = np.nonzero(is_near & (given.moved > 0))
        if not len(row):
            return found
        other = before[row, place]
        is_near = (np.abs(own[row] - rows[other]) < _NEAR).all(axis=1)
        label, old = answers[row + RECENT], answers[other]
        flips = (label != old) & (label != _NO_LABEL) & (old != _NO_LABEL)
        is_odd = flips | is_far[row] | (given.moved[row, place] <= self._few)
        found[row[is_near & is_odd]] = True
        return found

    def _lines(self, given: Compared) -> Bools:
        """Say from which rows two earlier ones lie in one direction, or in opposite ones."""
        found = np.zeros(len(given.own), bool)
        if len(self._continuous) < self._moved:
            return found
        before = given.before[:, :_LINED]
        apart = given.own[:, None] - given.earlier[:, :_LINED]
        rough = self._parallel(apart @ self._ways, _ROUGHLY)
        rows = np.flatnonzero(rough.any(axis=(1, 2)))
        if len(rows):
            numbers = given.rows[:, self._continuous]
            ways = numbers[RECENT + rows][:, None] - numbers[before[rows]]
            ways = np.where(np.abs(ways) < -MISSING / 2, ways, 0.0)
            found[rows] = self._lined(ways)
        return found

    def _lined(self, ways: NDArray[np.floating[Any]]) -> Bools:
        """Say for which rows two of the ways to earlier ones are one line, with a third on it."""
        is_long = np.count_nonzero(ways, axis=2) >= self._moved
        row, one, other = np.nonzero(
            self._parallel(ways, _PARALLEL) & is_long[:, :, None] & is_long[:, None, :]
        )
        # Two earlier rows that are nearly the same lie in one direction from anywhere.
        between = ways[row, one] - ways[row, other]
        is_apart = np.count_nonzero(between, axis=1) >= self._moved
        both = np.stack([between, ways[row, one]], axis=1)
        is_line = is_apart & self._parallel(both, _PARALLEL)[:, 0, 1]
        found = np.zeros(len(ways), bool)
        found[row[is_line]] = True
        return found

    def _parallel(self, ways: NDArray[np.floating[Any]], slack: float) -> Bools:
        """Say which two ways lie in one direction, or in opposite ones."""
        product = ways @ ways.transpose(0, 2, 1)
        square = product.diagonal(axis1=1, axis2=2)
        both = square[:, :, None] * square[:, None, :]
        found: Bools = (product * product > (1 - slack) ** 2 * both) & (both > 0)
        return found & self._other[: ways.shape[1], : ways.shape[1]]
