"""What did the last check of each model say, in numbers?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlguard.analyst.config import DriftModel
from mlguard.metrics import Family, Numbers

if TYPE_CHECKING:
    from mlguard.drift import Verdict
    from mlguard.drift.reference import Reference

_RESULTS = ("ok", "drift", "error")
_OF_A_FEATURE = (
    "score",
    "threshold",
    "missing_ratio",
    "unseen_category_ratio",
    "out_of_range_ratio",
)
_OF_A_WINDOW = (
    "detected",
    "features_detected",
    "window_rows",
    "check_duration_seconds",
    "last_check_timestamp_seconds",
)
_CHECKS = "mlguard_drift_checks_total"


class DriftMetrics:
    """The numbers that the analyst has; workers have the others."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._features: dict[tuple[str, str], tuple[str, ...]] = {}

    def begin(self, model: DriftModel) -> None:
        """Let a model's checks begin at zero."""
        for result in _RESULTS:
            self._numbers.number(_CHECKS, model.name, model.version, result)

    def use(self, model: DriftModel, reference: Reference) -> None:
        """Say what a model's inputs are compared with."""
        self._features[model.name, model.version] = reference.features
        about = (reference.created, str(reference.rows), str(len(reference.features)))
        self._set("reference_info", model, *about, to=1)

    def restore(self, earlier: Iterable[Family]) -> None:
        """Go on from the numbers of an earlier analyst, for the features that are in use."""
        kept = {f"mlguard_drift_{name}" for name in (*_OF_A_FEATURE, *_OF_A_WINDOW)} | {_CHECKS}
        for sample in [sample for family in earlier for sample in family["samples"]]:
            labels = sample["labels"]
            used = self._features.get((labels.get("model"), labels.get("version")), ())
            if sample["name"] in kept and labels.get("feature") in (None, *used):
                self._numbers.set(sample["name"], *labels.values(), to=sample["value"])

    def checked(self, model: DriftModel, verdict: Verdict, seconds: float, when: float) -> None:
        """Write down a verdict."""
        for feature in verdict.features:
            for name in _OF_A_FEATURE:
                self._set(name, model, feature.name, to=getattr(feature, name))
        numbers = (verdict.detected, len(verdict.drifted), verdict.rows, seconds, when)
        for name, number in zip(_OF_A_WINDOW, numbers, strict=True):
            self._set(name, model, to=number)
        self._numbers.add(_CHECKS, model.name, model.version, "drift" if verdict.detected else "ok")

    def failed(self, model: DriftModel) -> None:
        """Count a check that came to no verdict."""
        self._numbers.add(_CHECKS, model.name, model.version, "error")

    def families(self) -> list[Family]:
        """Write down all numbers."""
        return self._numbers.families()

    def _set(self, name: str, model: DriftModel, *labels: str, to: float) -> None:
        self._numbers.set(f"mlguard_drift_{name}", model.name, model.version, *labels, to=to)
