"""How does the analyst live and end?"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Event, Lock, Thread

from mlguard.analyst.checker import Checker
from mlguard.analyst.config import AnalystConfig
from mlguard.analyst.drift_metrics import DriftMetrics
from mlguard.analyst.estimator import Estimator
from mlguard.host.database import Database
from mlguard.host.sampled_rows import Row, SampledRows
from mlguard.host.verdicts import Verdicts
from mlguard.logs import RateLimitedLog
from mlguard.metrics import Family

_WAIT = 5.0  # seconds for which others may hold the file
_TICK = 0.5
_LONELY = 10.0
_TOGETHER = 500  # rows


class Analysis:
    """One thread takes rows out of the file and checks them; this one says that it lives.

    Args:
        config: What is to be checked.
        path: The workers' file.
    """

    def __init__(self, config: AnalystConfig, path: Path) -> None:
        self._path = path
        database = Database(path, wait=_WAIT)
        self._rows = SampledRows(database, config.digest)
        self._verdicts = Verdicts(database, config.digest)
        self._metrics = DriftMetrics()
        self._checker = Checker(config, self._metrics)
        self._estimator = Estimator(config)
        self._is_prepared = False
        self._saying = Lock()
        self._said: str | None = None
        self._log = RateLimitedLog()

    def run(self, stop: Event) -> str:
        """Live until `stop`, until the file is gone, or until no worker lived for ten seconds.

        Returns:
            Why it ends.

        Raises:
            OSError: There is no file.
            DatabaseFailed: It cannot be used.
        """
        earlier = json.loads(self._verdicts.begin())
        file = self._path.stat()
        Thread(target=self._work, args=(earlier, stop), name="mlguard-drift", daemon=True).start()
        last_company = time.monotonic()
        while not stop.wait(_TICK):
            if not _is(self._path, file):
                return "its file is gone"
            if not self._say():
                return "another has taken its place"
            with self._going_on():
                if self._verdicts.has_workers():
                    last_company = time.monotonic()
            if time.monotonic() - last_company > _LONELY:
                break
        with self._going_on():
            self._verdicts.end()
        return "it was told to" if stop.is_set() else "no worker is left"

    def _work(self, earlier: list[Family], stop: Event) -> None:
        self._checker.prepare()
        with self._going_on():
            self._checker.resume(earlier)
            self._estimator.prepare(earlier)
        self._is_prepared = True
        self._say()
        while not stop.is_set():
            rows: list[Row] = []
            with self._going_on():
                rows = self._rows.take(_TOGETHER)
                for row in rows:
                    model, version, values, said = row
                    is_checked = self._checker.add(model, version, values)
                    if self._estimator.add(model, version, said) or is_checked:
                        self._say()
                if self._checker.close_aged():
                    self._say()
            if not rows:
                stop.wait(_TICK)

    def _say(self) -> bool:
        """Give a sign of life, and say what is new; False where another is the analyst."""
        with self._saying, self._going_on():
            # Until then what an earlier one said stands.
            families = json.dumps(self._families()) if self._is_prepared else None
            is_ours = self._verdicts.say(
                is_ready=self._is_prepared and self._checker.is_ready,
                families=None if families == self._said else families,
            )
            self._said = families
            return is_ours
        return True

    def _families(self) -> list[Family]:
        return [*self._metrics.families(), *self._estimator.families()]

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 - a bad row, or a full disk, must not end it
            self._log.warning(type(error).__name__, "drift checks pause: %r", error)


def _is(path: Path, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), file)
    except OSError:
        return False
