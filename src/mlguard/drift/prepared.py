"""What does a check need of the reference? Its half of each score, made once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from mlguard.drift.evidently_scores import LEAST_DEVIATION
from mlguard.drift.profile import comparable, novel
from mlguard.drift.seasons import UNKNOWN
from mlguard.drift.values import read

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlguard.drift.profile import Feature
    from mlguard.drift.reference import Reference

_GRID = 4000  # values that stand for more, or for rows that weigh differently


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A feature of the reference.

    Attributes:
        values: Its comparable values, ascending; in standard deviations where it is continuous.
        rows: The sampled row of each.
        whole: The same as evidently takes it; of many numbers every so many-th, by which its score
            changes less than by a row.
        is_missing: Which sampled rows have no value.
        is_strange: Which have one that is out of range, or none of the categories.
        scale: By what comparable values are divided.
    """

    values: NDArray[np.float64]
    rows: NDArray[np.intp]
    whole: pd.Series
    is_missing: NDArray[np.bool_]
    is_strange: NDArray[np.bool_]
    scale: float

    @classmethod
    def of(cls, reference: Reference, feature: Feature) -> Prepared:
        """Prepare a feature, the first time that it is asked for."""
        if feature.name not in reference.prepared:
            reference.prepared[feature.name] = cls._made(reference, feature)
        found: Prepared = reference.prepared[feature.name]
        return found

    @classmethod
    def _made(cls, reference: Reference, feature: Feature) -> Prepared:
        plain = read(feature, reference.comparable(feature))
        values = comparable(feature, plain)
        is_missing = np.isnan(values)
        rows = np.flatnonzero(~is_missing)
        rows = rows[np.argsort(values[rows], kind="stable")]
        scale = float(values[rows].std()) if feature.is_continuous and len(rows) else 1.0
        # evidently divides by the standard deviation, but by no less than 0.001: make it 1.
        ordered = values[rows] / (scale or 1.0)
        whole = ordered
        if feature.is_continuous and len(ordered) > _GRID:
            whole = ordered[((np.arange(_GRID) + 0.5) / _GRID * len(ordered)).astype(np.intp)]
        return cls(ordered, rows, pd.Series(whole), is_missing, novel(feature, plain), scale)

    def weighted(self, weights: NDArray[np.float64]) -> tuple[pd.Series, float]:
        """Return values that stand for rows of different weights, and how many rows they are worth.

        Args:
            weights: Of each sampled row.
        """
        of_values = weights[self.rows]
        total = of_values.sum()
        if not total > 0:
            return self.whole, float(len(self.values))
        reached = np.cumsum(of_values)
        wanted = (np.arange(_GRID) + 0.5) / _GRID * reached[-1]
        grid = self.values[np.searchsorted(reached, wanted).clip(max=len(reached) - 1)]
        return pd.Series(grid), float(total**2 / (of_values**2).sum())


def weights(parts: NDArray[np.intp], wanted: NDArray[np.intp]) -> NDArray[np.float64]:
    """Weigh the sampled rows so that their parts are as frequent as in a window.

    Rows of a window whose part is unknown, or which no sampled row has, are compared with all.

    Args:
        parts: Of the sampled rows.
        wanted: Of the window's rows.
    """
    size = int(max(parts.max(initial=0), wanted.max(initial=0))) + 1
    there = np.bincount(parts[parts != UNKNOWN], minlength=size)
    asked = np.bincount(wanted[wanted != UNKNOWN], minlength=size).astype(float)
    asked[there == 0] = 0.0
    each = asked / np.maximum(there, 1)
    everything = (len(wanted) - asked.sum()) / len(parts)
    found: NDArray[np.float64] = np.where(parts == UNKNOWN, 0.0, each[parts]) + everything
    return found / len(wanted)


def deviation(values: Any) -> float:
    """Return by what evidently divides the distance of such values."""
    return max(float(np.std(values)), LEAST_DEVIATION)
