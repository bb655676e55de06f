"""How well do the models do, as far as their scores of sampled rows tell?"""

from __future__ import annotations

from collections.abc import Iterable
from math import nan
from typing import TYPE_CHECKING

from mlguard.analyst.config import AnalystConfig
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.metrics import OTHER, Family, Numbers
from mlguard.performance import Said, Task

if TYPE_CHECKING:
    from mlguard.performance.calibration import ScoreCalibration

MAX_VERSIONS = 20
_WINDOW = 1000  # rows, where the settings leave it to each reference
_NAME = "mlguard_model_performance_estimated"
_EXPECTED = "mlguard_model_performance_expected"


class Estimator:
    """Fills windows of what each version of a model said, and estimates from each that is full.

    Args:
        config: Which models, and how many rows are a window.
    """

    def __init__(self, config: AnalystConfig) -> None:
        self._window = config.window or _WINDOW
        self._scored = {model.name: model for model in config.scored}
        self._tasks = {m.name: Task("classification", m.classes) for m in config.scored}
        self._calibrations: dict[str, ScoreCalibration] = {}
        self._windows: dict[str, dict[str, list[Said]]] = {}
        self._numbers = Numbers()
        self._log = RateLimitedLog()

    def prepare(self, earlier: Iterable[Family]) -> None:
        """Load the calibrations, and go on from the numbers of an earlier analyst."""
        for model in self._scored.values():
            try:
                self._prepare(model.name, model.calibration_path)
            except Exception as error:  # noqa: BLE001 - one model must not stop the others
                LOGGER.error("performance of %s is not estimated: %s", model.name, error)
        for sample in [sample for family in earlier for sample in family["samples"]]:
            labels = sample["labels"]
            if sample["name"].startswith((_NAME, _EXPECTED)) and labels["model"] in self._windows:
                self._windows[labels["model"]].setdefault(labels["version"], [])
                self._numbers.set(sample["name"], *labels.values(), to=sample["value"])

    def _prepare(self, name: str, path: str | None) -> None:
        if path is not None:
            from mlguard.performance.calibration import ScoreCalibration

            self._calibrations[name] = ScoreCalibration.load(path)
        self._windows[name] = {}

    def add(self, name: str, version: str, said: Said | None) -> bool:
        """Add what was said of a row; say whether a window was full, and there is an estimate."""
        windows = self._windows.get(name)
        if windows is None or not said or len(said) < 2:
            return False
        if version not in windows and len(windows) >= MAX_VERSIONS:
            version = OTHER
        rows = windows.setdefault(version, [])
        rows.append(said)
        if len(rows) < self._window:
            return False
        windows[version] = []
        self._estimate(name, version, rows)
        return True

    def _estimate(self, name: str, version: str, rows: list[Said]) -> None:
        try:
            from mlguard.performance.estimate import estimate

            calibration = self._calibrations.get(name)
            found = estimate(self._tasks[name], rows, calibration)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            self._log.warning(name, "the performance of %s cannot be estimated: %r", name, error)
            return
        self._numbers.set(f"{_NAME}_rows", name, version, to=len(rows))
        expected = calibration.performance if calibration else {}
        for metric in self._tasks[name].metrics:
            # What is not defined for these rows is told no longer.
            value, deviation = found.get(metric, (nan, nan))
            self._numbers.set(_NAME, name, version, metric, to=value)
            self._numbers.set(f"{_NAME}_error", name, version, metric, to=deviation)
            self._numbers.set(_EXPECTED, name, version, metric, to=expected.get(metric, nan))

    def families(self) -> list[Family]:
        """Write down all numbers."""
        return self._numbers.families()
