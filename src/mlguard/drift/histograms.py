"""How far apart are two histograms of a feature?

The numbers are evidently's: the Wasserstein distance in standard deviations, the Jensen-Shannon
distance in nats. From histograms a calibration can ask for thousands of them in a second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mlguard.drift.profile import MARGIN, common

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlguard.drift.profile import Feature

_QUANTILES = 160
_STEPS = 96


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """How the comparable values of a feature are put into bins.

    Attributes:
        points: The right end of each bin, where the feature is continuous; else empty.
        size: How many bins there are.
        deviation: The standard deviation of a continuous feature's comparable values.
    """

    points: NDArray[np.float64]
    size: int
    deviation: float = 0.0

    @classmethod
    def of(cls, feature: Feature, values: NDArray[np.float64]) -> Bins:
        """Choose bins for comparable values, none of which is missing."""
        if not feature.is_continuous:
            levels = len(feature.levels) if feature.levels else common(feature)
            return cls(np.empty(0), levels + 1)
        points = np.linspace(-MARGIN, 1 + MARGIN, _STEPS + 1)
        if not len(values):
            return cls(points, len(points))
        quantiles = np.quantile(values, np.linspace(0, 1, _QUANTILES + 1))
        points = np.unique(np.concatenate([quantiles, points]))
        return cls(points, len(points), float(values.std()))

    @property
    def is_continuous(self) -> bool:
        """Say whether the bins are of numbers."""
        return len(self.points) > 0

    def codes(self, values: NDArray[np.float64]) -> NDArray[np.intp]:
        """Return the bin of each comparable value; `size` where it is missing."""
        is_missing = np.isnan(values)
        plain = np.where(is_missing, 0.0, values)
        found = np.searchsorted(self.points, plain) if self.is_continuous else plain
        return np.where(is_missing, self.size, found).astype(np.intp)

    def scores(self, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distances of histograms, whose last axis holds shares that add up to 1."""
        if not self.is_continuous:
            return jensen_shannon(ours, theirs)
        if not self.deviation:
            return np.zeros(np.broadcast_shapes(ours.shape, theirs.shape)[:-1])
        gaps = np.abs(np.cumsum(ours - theirs, axis=-1))[..., :-1]
        # Not `@`: for so little its threads cost more than they save.
        distances: NDArray[np.float64] = (gaps * np.diff(self.points)).sum(axis=-1)
        return distances / self.deviation

    def shifted(self, shares: NDArray[np.float64], deviations: float) -> NDArray[np.float64]:
        """Return histograms of the same values, all moved by so many standard deviations."""
        below = np.concatenate([np.zeros((len(shares), 1)), np.cumsum(shares, axis=1)], axis=1)
        ends = np.concatenate([[self.points[0] - 1e-9], self.points])
        wanted = self.points - deviations * self.deviation
        right = np.clip(np.searchsorted(ends, wanted), 1, len(ends) - 1)
        part = (wanted - ends[right - 1]) / (ends[right] - ends[right - 1])
        part = np.clip(part, 0.0, 1.0)
        moved = below[:, right - 1] * (1 - part) + below[:, right] * part
        moved[:, -1] = 1.0  # what leaves the range is clipped to its end
        return np.diff(moved, axis=1, prepend=0.0)


def jensen_shannon(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the Jensen-Shannon distance in nats: the root of the divergence."""
    middle = (ours + theirs) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        left = np.where(ours > 0, ours * np.log(ours / middle), 0.0).sum(axis=-1)
        right = np.where(theirs > 0, theirs * np.log(theirs / middle), 0.0).sum(axis=-1)
    distance: NDArray[np.float64] = np.sqrt(np.maximum(left + right, 0.0) / 2)
    return distance
