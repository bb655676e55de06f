"""Who judges the rows of all hosts? One process for each model, wherever it runs."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterable
from threading import Event, Lock

from mlguard.analyst.checker import Checker
from mlguard.analyst.config import AnalystConfig, DriftModel
from mlguard.analyst.drift_metrics import DriftMetrics
from mlguard.analyst.estimator import Estimator
from mlguard.ledger import StoreUnavailable
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.metrics import Family, Numbers, merge
from mlguard.redis.rows import LEASE, Judged, RowStreams

_TOGETHER = 500  # rows
_TICK = 0.5  # seconds


class JudgedModel:
    """One model's rows, judged here as long as this process holds the lease.

    What is read and not judged yet is in Redis still: where anything goes wrong, it begins anew
    from what stands there.

    Args:
        config: What is to be checked, and how: of one model.
        streams: Where its rows come from.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        config: AnalystConfig,
        streams: RowStreams,
        clock: Callable[[], float] = time.time,
    ) -> None:
        (self._model,) = config.models
        self._config = config
        self._streams = streams
        self._clock = clock
        self._renew_at = 0.0
        self._forget()

    def _forget(self) -> None:
        self._judged: Judged | None = None
        self._metrics = DriftMetrics()
        self._now, self._last = 0.0, ""
        self._checker = Checker(self._config, self._metrics, lambda: self._now)
        self._estimator = Estimator(self._config)

    def step(self) -> bool:
        """Judge what has come; say whether there may be more.

        Raises:
            StoreUnavailable: Redis does not answer as it should.
        """
        try:
            if not self._claims():
                return False
            rows = self._streams.read(*self._key, self._last, _TOGETHER)
            for row in rows:
                if not self._goes_on(row.at):
                    return False
                self._last = row.id
                if self._add(row.written) and not self._closes():
                    return False
            if len(rows) < _TOGETHER:  # all that was there before now
                self._goes_on(self._clock())
        except StoreUnavailable:
            self._forget()
            raise
        return len(rows) == _TOGETHER

    def families(self) -> list[Family]:
        """Return what this process says of the model: nothing where another does."""
        return self._said() if self._judged else []

    def leave(self) -> None:
        """Let another judge."""
        if self._judged:
            self._streams.leave(*self._key)
            self._forget()

    @property
    def _key(self) -> tuple[str, str]:
        return self._model.name, self._model.version

    def _claims(self) -> bool:
        if self._judged and time.monotonic() < self._renew_at:
            return True
        judged = self._streams.claim(*self._key)
        self._renew_at = time.monotonic() + LEASE / 3
        if judged is None or (self._judged and judged.last != self._judged.last):
            self._lose()
            return False
        if self._judged is None:
            self._begin(judged)
        return True

    def _begin(self, judged: Judged) -> None:
        self._checker.prepare()
        earlier = json.loads(judged.said) if judged.said else []
        self._checker.resume(earlier)
        self._estimator.prepare(earlier)
        self._judged, self._last = judged, judged.last
        LOGGER.info("the rows of %s are judged here", self._model.name)

    def _lose(self) -> None:
        if self._judged:
            LOGGER.info("the rows of %s are judged elsewhere", self._model.name)
            self._forget()

    def _goes_on(self, now: float) -> bool:
        """Close a window that is too old at some time; False where another has, or judges."""
        self._now = now
        return not self._checker.close_aged() or self._closes()

    def _add(self, written: str) -> bool:
        try:
            _, version, values, said = json.loads(written)
        except ValueError:  # somebody else's
            return False
        self._estimator.add(self._model.name, str(version), said)
        return self._checker.add(self._model.name, str(version), values)

    def _said(self) -> list[Family]:
        return [*self._metrics.families(), *self._estimator.families()]

    def _closes(self) -> bool:
        """Say in Redis what was said of the rows so far; False where another has, or judges."""
        if self._judged is None:
            return False
        said = json.dumps(self._said())
        judged = self._streams.close_window(*self._key, self._judged, self._last, said)
        if judged is None:
            self._lose()
            return False
        self._judged = judged
        return True


class Serving:
    """All models that this process may judge.

    Args:
        config: What is to be checked, and how.
        streams: Where rows come from.
        models: The names of some models; default: all.
    """

    def __init__(
        self, config: AnalystConfig, streams: RowStreams, models: Iterable[str] = ()
    ) -> None:
        names = set(models)
        chosen = [model for model in config.models if not names or model.name in names]
        self._streams = streams
        self._models = [JudgedModel(_of(config, model), streams) for model in chosen]
        self._reading = Lock()
        self._families: list[Family] = []
        self._is_up = False
        self._log = RateLimitedLog()

    def run(self, stop: Event) -> None:
        """Judge until it is told to stop, and let others go on then."""
        from mlguard.drift.evidently_scores import tests

        tests()  # imports evidently, which takes longer than a lease
        while not stop.is_set():
            if not self._step():
                stop.wait(_TICK)
        for model in self._models:
            model.leave()
        self._streams.close()

    def families(self) -> list[Family]:
        """Return what this process says, and whether it can judge."""
        numbers = Numbers()
        with self._reading:
            numbers.set("mlguard_drift_worker_up", to=self._is_up)
            return [*self._families, *numbers.families()]

    def _step(self) -> bool:
        has_more, is_up = False, True
        for model in self._models:
            try:
                has_more |= model.step()
            except StoreUnavailable as error:
                is_up = False
                self._log.warning("away", "drift checks pause: %s", error)
        families = merge([model.families() for model in self._models])
        with self._reading:
            self._families, self._is_up = families, is_up
        return has_more


def _of(config: AnalystConfig, model: DriftModel) -> AnalystConfig:
    scored = tuple(one for one in config.scored if one.name == model.name)
    return dataclasses.replace(config, models=(model,), scored=scored)
