"""What does the published online detector do? PRADA (Juuti et al. 2019), from its paper.

For each class, the distance of each new query to the nearest earlier one of its class; where these
distances are no longer normally distributed (Shapiro-Wilk below 0.95), an attack is reported.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import shapiro

from benchmarks.extraction_data import Matrix

LEAST = 100  # distances, before anything is said
EVERY = 20  # queries
THRESHOLD = 0.95
WILD = 3.0  # standard deviations: outliers that are left out


class Prada:
    """Watches one principal."""

    def __init__(self) -> None:
        self._seen: dict[int, list[Matrix]] = {}
        self._least: list[float] = []
        self._rows = 0

    def observe(self, row: Matrix, label: int) -> bool:
        """Take a row, scaled; say whether this is an attack."""
        self._rows += 1
        seen = self._seen.setdefault(label, [])
        if seen:
            distance = float(np.sqrt(((np.array(seen) - row) ** 2).sum(axis=1).min()))
            # As the paper's growing sets do: only what is new enough is kept to compare with.
            if not self._least or distance > np.mean(self._least) - np.std(self._least):
                seen.append(row)
            self._least.append(distance)
        else:
            seen.append(row)
        if len(self._least) < LEAST or self._rows % EVERY:
            return False
        given = np.array(self._least)
        inner = given[np.abs(given - given.mean()) <= WILD * given.std()]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return bool(inner.std() and shapiro(inner).statistic < THRESHOLD)
