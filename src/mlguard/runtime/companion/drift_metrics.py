"""What did the last check of each model say, in numbers?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlguard.metrics import Family, Numbers
from mlguard.runtime.companion.config import DriftModel

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


class DriftMetrics:
    """The numbers that the companion itself has; workers have the others."""

    def __init__(self) -> None:
        self._numbers = Numbers()

    def set_up(self, is_up: bool) -> None:
        """Say whether checks are ready to run."""
        self._numbers.set("mlguard_drift_worker_up", to=is_up)

    def use(self, model: DriftModel, reference: Reference) -> None:
        """Say what a model's inputs are compared with; its checks begin at zero."""
        about = (reference.created, str(reference.rows), str(len(reference.features)))
        self._set("reference_info", model, *about, to=1)
        for result in _RESULTS:
            self._numbers.number("mlguard_drift_checks_total", model.name, model.version, result)

    def checked(self, model: DriftModel, verdict: Verdict, seconds: float, when: float) -> None:
        """Write down a verdict."""
        for feature in verdict.features:
            for name in _OF_A_FEATURE:
                self._set(name, model, feature.name, to=getattr(feature, name))
        self._set("detected", model, to=verdict.detected)
        self._set("features_detected", model, to=len(verdict.drifted))
        self._set("window_rows", model, to=verdict.rows)
        self._set("check_duration_seconds", model, to=seconds)
        self._set("last_check_timestamp_seconds", model, to=when)
        self._add("checks_total", model, "drift" if verdict.detected else "ok")

    def failed(self, model: DriftModel) -> None:
        """Count a check that came to no verdict."""
        self._add("checks_total", model, "error")

    def dropped(self, model: DriftModel, reason: str) -> None:
        """Count a row that no check will see."""
        self._add("rows_dropped_total", model, reason)

    def families(self) -> list[Family]:
        """Write down all numbers."""
        return self._numbers.families()

    def _set(self, name: str, model: DriftModel, *labels: str, to: float) -> None:
        self._numbers.set(f"mlguard_drift_{name}", model.name, model.version, *labels, to=to)

    def _add(self, name: str, model: DriftModel, *labels: str) -> None:
        self._numbers.add(f"mlguard_drift_{name}", model.name, model.version, *labels)
