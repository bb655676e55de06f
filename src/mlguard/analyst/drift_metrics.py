"""What did the last check of each model say, in numbers?"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from mlguard.analyst.config import DriftModel
from mlguard.metrics import Family, Numbers

if TYPE_CHECKING:
    from mlguard.drift import Verdict
    from mlguard.drift.reference import Reference

_RESULTS = ("ok", "drift", "error", "skipped")
_OF_A_FEATURE = (
    "score",
    "threshold",
    "smallest_detectable",
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
_EPISODE = "episode"
_REASONS = ("distribution", "missing", "unseen categories", "out of range")
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
        self.waiting(model, 0)

    def waiting(self, model: DriftModel, rows: int) -> None:
        """Say how many rows of a model wait for a verdict."""
        self._set("rows_waiting", model, to=rows)

    def use(self, model: DriftModel, reference: Reference, rows: int) -> None:
        """Say what a model's inputs are compared with, in windows of so many rows."""
        names = tuple(feature.name for feature in reference.profile)
        self._features[model.name, model.version] = names
        for name in reference.features:
            smallest = reference.calibration.detectable(name, rows)
            self._set("smallest_detectable", model, name, to=smallest)
        self._set("rows_wanted", model, to=rows)
        about = (reference.created, str(reference.rows), str(len(reference.features)))
        self._set("reference_info", model, *about, to=1)

    def restore(self, earlier: Iterable[Family]) -> None:
        """Go on from the numbers of an earlier analyst, for the features that are in use."""
        names = (*_OF_A_FEATURE, *_OF_A_WINDOW, _EPISODE)
        kept = {f"mlguard_drift_{name}" for name in names} | {_CHECKS}
        for sample in [sample for family in earlier for sample in family["samples"]]:
            labels = sample["labels"]
            used = self._features.get((labels.get("model"), labels.get("version")), ())
            if sample["name"] in kept and labels.get("feature") in (None, *used):
                self._numbers.set(sample["name"], *labels.values(), to=sample["value"])

    def lasting(self, model: DriftModel) -> frozenset[str]:
        """Return the features of a model whose drift lasts."""
        names = self._features.get((model.name, model.version), ())
        return frozenset(name for name in names if any(self._episode(model, name).values()))

    def _episode(self, model: DriftModel, feature: str) -> dict[str, bool]:
        """Tell for which reasons a feature's drift lasts."""
        place = (f"mlguard_drift_{_EPISODE}", model.name, model.version, feature)
        return {r: bool(self._numbers.number(*place, _label(r)).value) for r in _REASONS}

    def checked(
        self,
        model: DriftModel,
        verdict: Verdict,
        lasting: Collection[str],
        seconds: float,
        when: float,
    ) -> None:
        """Write down a verdict, and which features' drift lasts."""
        for feature in verdict.features:
            before = self._episode(model, feature.name)
            for reason in _REASONS:
                # A window that does not show a drift that lasts changes nothing of why it does.
                is_why = reason in feature.reasons if feature.reasons else before[reason]
                is_lasting = feature.name in lasting and is_why
                self._set(_EPISODE, model, feature.name, _label(reason), to=is_lasting)
            for name in _OF_A_FEATURE:
                self._set(name, model, feature.name, to=getattr(feature, name))
        numbers = (verdict.detected, len(verdict.drifted), verdict.rows, seconds, when)
        for name, number in zip(_OF_A_WINDOW, numbers, strict=True):
            self._set(name, model, to=number)
        self._numbers.add(_CHECKS, model.name, model.version, "drift" if verdict.detected else "ok")

    def failed(self, model: DriftModel) -> None:
        """Count a check that came to no verdict."""
        self._numbers.add(_CHECKS, model.name, model.version, "error")

    def skipped(self, model: DriftModel) -> None:
        """Count a window that had too few rows."""
        self._numbers.add(_CHECKS, model.name, model.version, "skipped")

    def families(self) -> list[Family]:
        """Write down all numbers."""
        return self._numbers.families()

    def _set(self, name: str, model: DriftModel, *labels: str, to: float) -> None:
        self._numbers.set(f"mlguard_drift_{name}", model.name, model.version, *labels, to=to)


def _label(reason: str) -> str:
    return reason.replace(" ", "_")
