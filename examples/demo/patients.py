"""What do the clients send?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

MISREAD = {"blood_pressure": 1.12, "glucose": 1.12}
"""What new bedside monitors multiply the true values by."""


@dataclass(frozen=True, slots=True)
class Patients:
    """Patients whom the model never saw.

    Attributes:
        features: Names of a row's fields, in order.
        rows: One patient a row.
        truth: How fast each patient's disease did progress.
    """

    features: tuple[str, ...]
    rows: np.ndarray
    truth: np.ndarray

    @classmethod
    def load(cls, folder: Path) -> Patients:
        """Read what the training kept back."""
        with np.load(folder / "heldout.npz") as file:
            return cls(tuple(file["features"].tolist()), file["rows"], file["truth"])

    def rounds(self, rng: np.random.Generator) -> Iterator[list[float]]:
        """Visit each patient in turn, round after round, in an order of chance."""
        while True:
            yield from self.rows[rng.permutation(len(self.rows))].tolist()

    def misread(self) -> Patients:
        """The same patients, measured by the new monitors."""
        factors = [MISREAD.get(name, 1.0) for name in self.features]
        return replace(self, rows=self.rows * factors)
