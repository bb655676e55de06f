"""Where do the model and its reference come from?

Trains a classifier that says how fast a patient's diabetes will progress within a year, on the
442 patients of Efron, Hastie, Johnstone and Tibshirani (2004) that scikit-learn ships. Writes

    model.joblib        the model that both services load
    reference.parquet   what the inputs looked like in training: what drift is measured against
    heldout.npz         patients the model never saw: the traffic of the demonstration

    python -m examples.train                # into examples/build
    python -m examples.train elsewhere
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

from mlguard.reference import Reference

BUILD = Path(__file__).with_name("build")
PACE = np.array(["slow", "medium", "fast"])
NAMES = {
    "bp": "blood_pressure",
    "s1": "cholesterol",
    "s2": "ldl",
    "s3": "hdl",
    "s4": "cholesterol_to_hdl",
    "s5": "log_triglycerides",
    "s6": "glucose",
}


@dataclass(frozen=True, slots=True)
class Trained:
    """What the training gave.

    Attributes:
        model: The classifier.
        seen: The patients it learned from, one column a feature.
        unseen: The patients it never saw.
        truth: How fast the unseen patients' disease did progress.
    """

    model: GradientBoostingClassifier
    seen: pd.DataFrame
    unseen: pd.DataFrame
    truth: np.ndarray

    @property
    def accuracy(self) -> float:
        """Share of the unseen patients that the model gets right."""
        return float(self.model.score(self.unseen.to_numpy(), self.truth))


def train() -> Trained:
    """Fit the classifier on three fifths of the patients.

    With so few of them chance alone may make the rest look different, so the split is one whose
    two parts look alike: what the services meet later is drift only where something changed.
    """
    raw = load_diabetes(scaled=False, as_frame=True)
    patients = raw.data.rename(columns=NAMES)
    pace = PACE[np.searchsorted(np.quantile(raw.target, [1 / 3, 2 / 3]), raw.target)]
    seen, unseen, learned, truth = train_test_split(
        patients, pace, test_size=0.4, random_state=12, stratify=pace
    )
    model = GradientBoostingClassifier(n_estimators=100, max_depth=3, random_state=0)
    return Trained(model.fit(seen.to_numpy(), learned), seen, unseen, truth)


def save_model(trained: Trained, folder: Path) -> None:
    """Write the model and the unseen patients."""
    if not folder.exists():
        folder.mkdir(parents=True)
        (folder / ".gitignore").write_text("*\n")
    joblib.dump(trained.model, folder / "model.joblib")
    columns = trained.unseen.columns.to_numpy(dtype=str)
    rows, truth = trained.unseen.to_numpy(), trained.truth
    np.savez(folder / "heldout.npz", features=columns, rows=rows, truth=truth)


def save_reference(trained: Trained, folder: Path) -> None:
    """Write what the inputs looked like in training."""
    Reference.build(trained.seen).save(folder / "reference.parquet")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else BUILD
    done = train()
    save_model(done, target)
    save_reference(done, target)
    right = f"{done.accuracy:.0%} of {len(done.truth)} unseen patients right; guessing gets 34%"
    print(f"{right}. Written to {target}")
