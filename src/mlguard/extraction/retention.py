"""Do the features of a principal's rows still depend on each other as in the reference?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Singles = NDArray[np.float32]

WINDOW = 48  # rows
_PAIRS = 32
_LEAST = 0.15  # a correlation that is weaker says too little in so few rows
_VARIES = 0.1  # of the reference's variance: where there is less, nothing is known
_KNOWN = 0.3  # of the weight must be known
_MOST = 0.4
_SELDOM = 0.001
_MARGIN = 0.05


@dataclass(slots=True, eq=False)
class Sums:
    """Of the rows of a window so far.

    Attributes:
        rows: How many.
        first: Their sums, of each axis that a pair has.
        second: Of their squares.
        mixed: Of the products, of each pair.
    """

    rows: int
    first: Floats
    second: Floats
    mixed: Floats


class Retention:
    """Compares correlations in windows of rows with those of the reference.

    Args:
        points: Of the reference.
        blocks: Axes of one block are one feature's.
    """

    def __init__(self, points: Singles, blocks: NDArray[np.intp]) -> None:
        self._variance = np.maximum(points.var(axis=0, dtype=np.float64), 1e-12)
        known = _correlations(points.astype(np.float64))
        known = np.where(blocks[:, None] == blocks, 0.0, known)
        left, right = np.triu_indices(len(known), 1)
        strongest = np.argsort(-np.abs(known[left, right]), kind="stable")[:_PAIRS]
        strongest = strongest[np.abs(known[left, right])[strongest] >= _LEAST]
        used, places = np.unique(
            np.concatenate([left[strongest], right[strongest]]), return_inverse=True
        )
        self._axes = used
        self._left, self._right = places[: len(strongest)], places[len(strongest) :]
        self._weights = known[left[strongest], right[strongest]]
        self._variance = self._variance[used]
        self._least = -np.inf

    def new(self) -> Sums:
        """Return the sums of no rows."""
        axes = np.zeros(len(self._axes))
        return Sums(0, axes, axes.copy(), np.zeros(len(self._weights)))

    def learn(self, orders: Iterable[Singles]) -> None:
        """Learn from the reference, in several orders, what is too little."""
        found: list[float] = []
        for points in orders:
            for at in range(0, len(points) - WINDOW + 1, WINDOW):
                sums = self.new()
                self._add(points[at : at + WINDOW][:, self._axes], sums)
                found.append(self._kept(sums))
        known = np.array([kept for kept in found if not np.isnan(kept)])
        if len(known):
            self._least = min(_MOST, float(np.quantile(known, _SELDOM)) - _MARGIN)

    def windows(self, points: Singles, sums: Sums) -> list[bool]:
        """Add rows, and say of each window that they filled whether its correlations are lost."""
        found: list[bool] = []
        if not len(self._axes):
            return found
        given = points[:, self._axes]
        while len(given):
            room = WINDOW - sums.rows
            self._add(given[:room], sums)
            given = given[room:]
            if sums.rows == WINDOW:
                kept = self._kept(sums)
                if not np.isnan(kept):
                    found.append(kept < self._least)
                sums.rows = 0
                for each in (sums.first, sums.second, sums.mixed):
                    each[:] = 0.0
        return found

    def _add(self, points: Singles, sums: Sums) -> None:
        wide = points.astype(np.float64)
        sums.rows += len(wide)
        sums.first += wide.sum(axis=0)
        sums.second += np.einsum("ij,ij->j", wide, wide)
        sums.mixed += np.einsum("ij,ij->j", wide[:, self._left], wide[:, self._right])

    def _kept(self, sums: Sums) -> float:
        """Return which part of the reference's correlations there is; NaN where none can be."""
        mean = sums.first / sums.rows
        variance = np.maximum(sums.second / sums.rows - mean**2, 0.0)
        does_vary = variance > _VARIES * self._variance
        known = does_vary[self._left] & does_vary[self._right]
        weights = np.where(known, self._weights, 0.0)
        whole = float(weights @ self._weights)
        if not whole or whole < _KNOWN * float(self._weights @ self._weights):
            return float("nan")
        together = sums.mixed / sums.rows - mean[self._left] * mean[self._right]
        scale = np.sqrt(variance[self._left] * variance[self._right])
        correlation = together / np.where(known, scale, 1.0)
        return float(weights @ correlation) / whole


def _correlations(points: Floats) -> Floats:
    centered = points - points.mean(axis=0)
    spread = np.sqrt((centered**2).sum(axis=0))
    together = centered.T @ centered
    scale = np.outer(spread, spread)
    return np.where(scale > 0, together / np.where(scale > 0, scale, 1.0), 0.0)
