"""Who compares the windows with training?"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlguard.analyst.config import AnalystConfig, DriftModel
from mlguard.analyst.drift_metrics import DriftMetrics
from mlguard.logs import LOGGER, RateLimitedLog

if TYPE_CHECKING:
    from mlguard.drift import Calibration, Verdict
    from mlguard.drift.reference import Reference


class Checker:
    """Fills windows of rows for each model, and checks each that is full.

    Attributes:
        is_ready: Whether every model's inputs can be checked.
    """

    def __init__(self, config: AnalystConfig, metrics: DriftMetrics) -> None:
        self.is_ready = False
        self._config = config
        self._metrics = metrics
        self._models: dict[tuple[str, str], DriftModel] = {}
        for model in config.models:
            self._models[model.name, model.version] = model
            # Rows of a version that is not configured are compared with the first that is.
            self._models.setdefault((model.name, ""), model)
        self._windows: dict[DriftModel, list[object]] = {model: [] for model in config.models}
        self._known: dict[DriftModel, tuple[Reference, Calibration]] = {}
        self._drifting: set[DriftModel] = set()
        self._log = RateLimitedLog()

    def prepare(self) -> None:
        """Import evidently and load what windows are compared with; takes a while."""
        for model in self._config.models:
            self._prepare(model)
        self.is_ready = len(self._known) == len(self._config.models)
        text = "ready" if self.is_ready else "not ready for every model"
        LOGGER.info("drift checks are %s", text)

    def add(self, name: str, version: str, values: object) -> bool:
        """Add a row, and check its window where that is full now; say whether it was."""
        model = self._models.get((name, version)) or self._models.get((name, ""))
        if model is None:
            return False
        self._windows[model].append(values)
        if len(self._windows[model]) < self._config.window:
            return False
        rows, self._windows[model] = self._windows[model], []
        self._check(model, rows)
        return True

    def _prepare(self, model: DriftModel) -> None:
        self._metrics.begin(model)
        try:
            from mlguard.drift import Calibration
            from mlguard.drift.reference import Reference

            reference = Reference.load(model.reference_path)
            self._known[model] = (reference, Calibration.of(reference))
            self._metrics.use(model, reference)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            LOGGER.error("model %s has no drift checks: %s", model.name, error)

    def _check(self, model: DriftModel, rows: list[object]) -> None:
        started = time.monotonic()
        try:
            from mlguard.drift import check

            reference, calibration = self._known[model]
            window = [_by_name(row, model.features, reference.features) for row in rows]
            verdict = check(reference, window, calibration=calibration)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            self._metrics.failed(model)
            text = "a drift check of model %s failed: %r"
            self._log.warning(model.name, text, model.name, error)
            return
        self._metrics.checked(model, verdict, time.monotonic() - started, time.time())
        self._tell(model, verdict)
        if self._config.report is not None:
            self._report(model, verdict, reference, window, self._config.report)

    def _tell(self, model: DriftModel, verdict: Verdict) -> None:
        if verdict.detected and model not in self._drifting:
            self._drifting.add(model)
            LOGGER.warning("model %s drifts: %s", model.name, ", ".join(verdict.drifted))
        elif not verdict.detected and model in self._drifting:
            self._drifting.discard(model)
            LOGGER.warning("model %s no longer drifts", model.name)

    def _report(
        self,
        model: DriftModel,
        verdict: Verdict,
        reference: Reference,
        window: list[object],
        report: str,
    ) -> None:
        path = Path(report)
        if len(self._config.models) > 1:
            name = re.sub(r"[^\w.-]", "_", model.name)
            path = path.with_name(f"{path.stem}-{name}{path.suffix}")
        try:
            from mlguard.drift.report import render

            when = datetime.now(UTC)
            html = render(
                verdict, reference, window, model=model.name, version=model.version, when=when
            )
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            part.write_text(html, encoding="utf-8")
            part.replace(path)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            self._log.warning(str(path), "the drift report %s cannot be written: %r", path, error)


def _by_name(row: object, ours: tuple[str, ...], theirs: tuple[str, ...]) -> object:
    """Name a row's values where the reference has the features in another order."""
    if ours == theirs or not isinstance(row, list) or len(row) != len(ours):
        return row
    return dict(zip(ours, row, strict=True))
