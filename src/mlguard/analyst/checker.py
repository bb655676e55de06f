"""Who compares the windows with training?"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from mlguard.analyst.config import AnalystConfig, DriftModel, model_of
from mlguard.analyst.drift_metrics import DriftMetrics
from mlguard.analyst.windows import RowWindow, Windows
from mlguard.drift.episodes import Episodes
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.metrics import Family

if TYPE_CHECKING:
    from mlguard.drift import Verdict
    from mlguard.drift.history import History
    from mlguard.drift.reference import Reference

_WINDOW = 1000  # rows, of a model whose reference cannot be read


class Checker:
    """Fills windows of rows for each model, and checks each that is closed.

    Args:
        config: What is to be checked, and how.
        metrics: Where verdicts are written down.
        clock: Seconds since 1970: when a row comes, and how old a window is.

    Attributes:
        is_ready: Whether every model's inputs can be checked.
    """

    def __init__(
        self,
        config: AnalystConfig,
        metrics: DriftMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.is_ready = False
        self._config = config
        self._metrics = metrics
        self._clock = clock
        size = config.window or _WINDOW
        self._windows = {model: Windows(size, config.max_age) for model in config.models}
        k, n = config.drifted_windows, config.last_windows
        self._episodes = {model: Episodes(k, n) for model in config.models}
        self._known: dict[DriftModel, Reference] = {}
        self._drifting: set[DriftModel] = set()
        self._has_begun: set[DriftModel] = set()
        self._histories: dict[DriftModel, History] = {}
        self._log = RateLimitedLog()

    def prepare(self) -> None:
        """Import evidently and load what windows are compared with; takes a while."""
        for model in self._config.models:
            self._prepare(model)
        self.is_ready = len(self._known) == len(self._config.models)
        text = "ready" if self.is_ready else "not ready for every model"
        LOGGER.info("drift checks are %s", text)

    def resume(self, earlier: Iterable[Family]) -> None:
        """Go on from the numbers of an earlier analyst."""
        self._metrics.restore(earlier)
        for model, episodes in self._episodes.items():
            episodes.resume(self._metrics.lasting(model))

    def add(self, name: str, version: str, values: object) -> bool:
        """Add a row, and check its window where that is full now; say whether it was."""
        model = model_of(self._config.models, name, version)
        if model is None:
            return False
        windows = self._windows[model]
        window = windows.add(values, self._clock())
        if model not in self._has_begun:
            self._has_begun.add(model)
            LOGGER.info("drift: the first row of %s is here, of %d", _named(model), windows.size)
        self._metrics.waiting(model, windows.waiting)
        if window is not None:
            self._check(model, window)
        return window is not None

    def close_aged(self) -> bool:
        """Check the windows that are too old to wait for more rows; say whether there were any."""
        now = self._clock()
        aged = {model: windows.aged(now) for model, windows in self._windows.items()}
        closed = [(model, window) for model, window in aged.items() if window is not None]
        for model, window in closed:
            if len(window.rows) < self._config.min_rows:
                self._metrics.skipped(model)
            else:
                self._check(model, window)
            self._metrics.waiting(model, 0)
        return bool(closed)

    def _prepare(self, model: DriftModel) -> None:
        self._metrics.begin(model)
        try:
            from mlguard.drift.evidently_scores import tests
            from mlguard.drift.reference import Reference

            reference = Reference.load(model.reference_path)
            tests()
            size = self._config.window or reference.calibration.window
            self._windows[model] = Windows(size, self._config.max_age)
            self._known[model] = reference
            self._metrics.use(model, reference, size)
            self._tell_what_is_missing(model, size)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            LOGGER.error("model %s has no drift checks: %s", model.name, error)

    def _tell_what_is_missing(self, model: DriftModel, rows: int) -> None:
        requests = self._config.requests_for(rows)
        text = "drift: %s needs %d rows to a verdict, those of %d requests at least"
        LOGGER.info(text, _named(model), rows, requests)

    def _check(self, model: DriftModel, window: RowWindow) -> None:
        started = time.monotonic()
        try:
            from mlguard.drift import check

            reference = self._known[model]
            rows = [_by_name(row, model.features, reference.features) for row in window.rows]
            verdict = check(reference, rows, times=window.times)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            self._metrics.failed(model)
            text = "a drift check of model %s failed: %r"
            self._log.warning(model.name, text, model.name, error)
            return
        lasting = self._episodes[model].add(verdict.drifted)
        self._metrics.checked(model, verdict, lasting, time.monotonic() - started, time.time())
        self._tell(model, lasting)
        if (path := self._config.report_of(model)) is not None:
            self._report(model, verdict, reference, rows, path)

    def _tell(self, model: DriftModel, lasting: frozenset[str]) -> None:
        if lasting and model not in self._drifting:
            self._drifting.add(model)
            LOGGER.warning("model %s drifts: %s", model.name, ", ".join(sorted(lasting)))
        elif not lasting and model in self._drifting:
            self._drifting.discard(model)
            LOGGER.warning("model %s no longer drifts", model.name)

    def _report(
        self,
        model: DriftModel,
        verdict: Verdict,
        reference: Reference,
        window: list[object],
        path: Path,
    ) -> None:
        try:
            from mlguard.drift.history import History
            from mlguard.drift.report import render

            when = datetime.now(UTC)
            if model not in self._histories:
                self._histories[model] = History(path.with_suffix(".history"))
            history = self._histories[model]
            history.add(verdict, when.timestamp())
            html = render(
                verdict,
                reference,
                window,
                model=model.name,
                version=model.version,
                when=when,
                history=history.windows,
            )
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            part.write_text(html, encoding="utf-8")
            part.replace(path)
        except Exception as error:  # noqa: BLE001 - one model or window must not stop the others
            self._log.warning(str(path), "the drift report %s cannot be written: %r", path, error)


def _named(model: DriftModel) -> str:
    return f"{model.name} {model.version}"


def _by_name(row: object, ours: tuple[str, ...], theirs: tuple[str, ...]) -> object:
    """Name a row's values where the reference has the features in another order."""
    if ours == theirs or not isinstance(row, list) or len(row) != len(ours):
        return row
    return dict(zip(ours, row, strict=True))
