"""What did the last check of each model say, in numbers?"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mlguard.analyst.config import DriftModel
from mlguard.metrics import Counters, Family, Gauges

if TYPE_CHECKING:
    from mlguard.drift import Verdict
    from mlguard.reference import Reference

_MODEL = ("model", "version")
_OF_FEATURE = {
    "score": "Distance of the last window from training.",
    "threshold": "The score from which it is drift.",
    "missing_ratio": "Share of missing values.",
    "unseen_category_ratio": "Share of values in no category of training.",
    "out_of_range_ratio": "Share of values outside the range of training.",
}
_OF_MODEL = {
    "detected": "1 where the last window drifted.",
    "features_detected": "Features that drifted in the last window.",
    "window_rows": "Rows in the last window.",
    "last_check_timestamp_seconds": "When the last check ended.",
    "check_duration_seconds": "Time that the last check took.",
}
_RESULTS = ("ok", "drift", "error")


class DriftMetrics:
    """The numbers that the analyst has; workers have the others."""

    def __init__(self) -> None:
        self._gauges = {
            name: Gauges(f"mlguard_drift_{name}", text, labels)
            for texts, labels in ((_OF_FEATURE, (*_MODEL, "feature")), (_OF_MODEL, _MODEL))
            for name, text in texts.items()
        }
        self._checks = Counters(
            "mlguard_drift_checks_total",
            "Drift checks by result: ok, drift, error.",
            (*_MODEL, "result"),
        )
        self._reference = Gauges(
            "mlguard_drift_reference_info",
            "The reference in use.",
            (*_MODEL, "created", "rows", "features"),
        )
        self._features: dict[tuple[str, str], tuple[str, ...]] = {}

    def begin(self, model: DriftModel) -> None:
        """Let a model's checks begin at zero."""
        for result in _RESULTS:
            self._checks.cell(model.name, model.version, result)

    def use(self, model: DriftModel, reference: Reference) -> None:
        """Say what a model's inputs are compared with."""
        self._features[model.name, model.version] = reference.features
        about = (reference.created, str(reference.rows), str(len(reference.features)))
        self._reference.cell(model.name, model.version, *about).set(1)

    def restore(self, earlier: Iterable[Family]) -> None:
        """Go on from the numbers of an earlier analyst, for the features that are in use."""
        kept = {f"mlguard_drift_{name}": gauges for name, gauges in self._gauges.items()}
        for family in earlier:
            metric = {**kept, "mlguard_drift_checks": self._checks}.get(family["name"])
            for sample in family["samples"] if metric else ():
                labels = sample["labels"]
                used = self._features.get((labels["model"], labels["version"]), ())
                if metric and labels.get("feature") in (None, *used):
                    metric.cell(*labels.values()).set(sample["value"])

    def checked(self, model: DriftModel, verdict: Verdict, seconds: float, when: float) -> None:
        """Write down a verdict."""
        of = (model.name, model.version)
        for feature in verdict.features:
            for name in _OF_FEATURE:
                self._gauges[name].cell(*of, feature.name).set(getattr(feature, name))
        numbers = (verdict.detected, len(verdict.drifted), verdict.rows, when, seconds)
        for name, number in zip(_OF_MODEL, numbers, strict=True):
            self._gauges[name].cell(*of).set(number)
        self._checks.cell(*of, "drift" if verdict.detected else "ok").add()

    def failed(self, model: DriftModel) -> None:
        """Count a check that came to no verdict."""
        self._checks.cell(model.name, model.version, "error").add()

    def families(self) -> list[Family]:
        """Write down all numbers."""
        all_of_them = (*self._gauges.values(), self._checks, self._reference)
        return [told for metric in all_of_them if (told := metric.told()) is not None]
