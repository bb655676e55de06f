"""What did the last check of each model say, in numbers?"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry

from mlguard.metrics import Counters, Family, Gauges, families
from mlguard.runtime.companion.config import DriftModel

if TYPE_CHECKING:
    from mlguard.drift import Verdict
    from mlguard.drift.reference import Reference

_MODEL = ("model", "version")
_FEATURE = (*_MODEL, "feature")
_RESULTS = ("ok", "drift", "error")

M = TypeVar("M", Counters, Gauges)


class DriftMetrics:
    """The numbers that the companion itself has; workers have the others."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._score = self._gauge("score", "Distance of the last window from training.", _FEATURE)
        self._threshold = self._gauge("threshold", "The score from which it is drift.", _FEATURE)
        self._missing = self._gauge("missing_ratio", "Share of missing values.", _FEATURE)
        self._unseen = self._gauge(
            "unseen_category_ratio", "Share of values in no category of training.", _FEATURE
        )
        self._out_of_range = self._gauge(
            "out_of_range_ratio", "Share of values outside the range of training.", _FEATURE
        )
        self._detected = self._gauge("detected", "1 where the last window drifted.")
        self._count = self._gauge("features_detected", "Features that drifted in the last window.")
        self._rows = self._gauge("window_rows", "Rows in the last window.")
        self._when = self._gauge("last_check_timestamp_seconds", "When the last check ended.")
        self._seconds = self._gauge("check_duration_seconds", "Time that the last check took.")
        self._reference = self._gauge(
            "reference_info", "The reference in use.", (*_MODEL, "created", "rows", "features")
        )
        self._up = self._gauge("worker_up", "1 while drift checks are ready to run.", ())
        self._checks = self._counter(
            "checks_total", "Drift checks by result: ok, drift, error.", "result"
        )
        self._dropped = self._counter(
            "rows_dropped_total", "Sampled rows that never reached a drift check.", "reason"
        )

    def set_up(self, is_up: bool) -> None:
        """Say whether checks are ready to run."""
        self._up.cell().set(is_up)

    def use(self, model: DriftModel, reference: Reference) -> None:
        """Say what a model's inputs are compared with; its checks begin at zero."""
        about = (reference.created, str(reference.rows), str(len(reference.features)))
        self._reference.cell(model.name, model.version, *about).set(1)
        for result in _RESULTS:
            self._checks.cell(model.name, model.version, result)

    def checked(self, model: DriftModel, verdict: Verdict, seconds: float, when: float) -> None:
        """Write down a verdict."""
        of = (model.name, model.version)
        for feature in verdict.features:
            self._score.cell(*of, feature.name).set(feature.score)
            self._threshold.cell(*of, feature.name).set(feature.threshold)
            self._missing.cell(*of, feature.name).set(feature.missing_ratio)
            self._unseen.cell(*of, feature.name).set(feature.unseen_category_ratio)
            self._out_of_range.cell(*of, feature.name).set(feature.out_of_range_ratio)
        self._detected.cell(*of).set(verdict.detected)
        self._count.cell(*of).set(sum(feature.detected for feature in verdict.features))
        self._rows.cell(*of).set(verdict.rows)
        self._seconds.cell(*of).set(seconds)
        self._when.cell(*of).set(when)
        self._checks.cell(*of, "drift" if verdict.detected else "ok").add()

    def failed(self, model: DriftModel) -> None:
        """Count a check that came to no verdict."""
        self._checks.cell(model.name, model.version, "error").add()

    def dropped(self, model: DriftModel, reason: str) -> None:
        """Count a row that no check will see."""
        self._dropped.cell(model.name, model.version, reason).add()

    def families(self) -> list[Family]:
        """Write down all numbers."""
        return families(self._registry)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = _MODEL) -> Gauges:
        return self._register(Gauges(f"mlguard_drift_{name}", text, labels))

    def _counter(self, name: str, text: str, label: str) -> Counters:
        return self._register(Counters(f"mlguard_drift_{name}", text, (*_MODEL, label)))

    def _register(self, metric: M) -> M:
        self._registry.register(metric)
        return metric
