"""Who compares the windows with training?"""

from __future__ import annotations

import os
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlguard.logs import LOGGER
from mlguard.runtime.companion.config import CompanionConfig, DriftModel
from mlguard.runtime.companion.drift_metrics import DriftMetrics
from mlguard.runtime.companion.windows import Windows

if TYPE_CHECKING:
    from mlguard.drift import Calibration, Verdict
    from mlguard.drift.reference import Reference


class Checker:
    """One thread that imports evidently, and then checks window after window."""

    def __init__(self, config: CompanionConfig, windows: Windows, metrics: DriftMetrics) -> None:
        self._config = config
        self._windows = windows
        self._metrics = metrics
        self._known: dict[DriftModel, tuple[Reference, Calibration]] = {}
        self._drifting: set[DriftModel] = set()

    def run(self) -> None:
        """Prepare, then check for ever; a check that fails does not stop the next."""
        self._metrics.set_up(False)
        for model in self._config.drift_models:
            self._prepare(model)
        is_ready = len(self._known) == len(self._config.drift_models)
        self._metrics.set_up(is_ready)
        LOGGER.info("drift checks are %s", "ready" if is_ready else "not ready for every model")
        while True:
            taken = self._windows.take()
            if taken is not None:
                self._check(*taken)

    def _prepare(self, model: DriftModel) -> None:
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
            LOGGER.error("a drift check of model %s failed: %r", model.name, error)
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
        if len(self._config.drift_models) > 1:
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
            LOGGER.error("the drift report %s cannot be written: %r", path, error)


def _by_name(row: object, ours: tuple[str, ...], theirs: tuple[str, ...]) -> object:
    """Name a row's values where the reference has the features in another order."""
    if ours == theirs or not isinstance(row, list) or len(row) != len(ours):
        return row
    return dict(zip(ours, row, strict=True))
