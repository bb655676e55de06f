"""How do calls and their labels get where they are kept, off the request's path?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from mlguard import forks
from mlguard.call_ids import time_of
from mlguard.host.database import DatabaseFailed
from mlguard.ledger import StoreUnavailable
from mlguard.logs import RateLimitedLog
from mlguard.metrics import Family, Metrics, Numbers
from mlguard.performance import CallStore, KeptCall, Task
from mlguard.performance.labels import (
    DROPPED,
    GRACE,
    UNKNOWN,
    Label,
    join,
    label_of,
    performances,
)
from mlguard.settings import FeedbackSettings, Quotas

MAX_QUEUED = 10_000  # calls, and labels, that wait in a worker
MAX_TRUTHS = 100_000  # in those labels
_TOGETHER = 1000
_FORGET = 10.0  # seconds
_Trouble = (DatabaseFailed, StoreUnavailable)


class Feedback:
    """What a worker has of calls and labels; one thread hands them on.

    Observers fail open: while they cannot be kept they wait, in bounds, and requests go on.

    Args:
        settings: How long and how many.
        tasks: What the predictions of each model are.
        store: Where they are kept.
        metrics: Told what becomes of each.
        clock: Seconds since 1970.
    """

    def __init__(
        self,
        settings: FeedbackSettings,
        tasks: Mapping[str, Task],
        store: CallStore,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._tasks = tasks
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._log = RateLimitedLog()
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._calls: deque[KeptCall] = deque()
        self._labels: deque[Label] = deque()
        self._truths = 0
        self._forgot = 0.0

    def before_fork(self) -> None:
        """Do nothing: who runs the thread does."""

    def after_fork(self, *, in_child: bool) -> None:
        """Have nothing of the parent's in a child."""
        if in_child:
            self._begin()

    def keep(self, call: KeptCall) -> str:
        """Queue what is kept of a call, and say what becomes of it; never blocks."""
        if len(self._calls) >= MAX_QUEUED:
            return "queue_full"
        self._calls.append(call)
        return "kept"

    def label(self, call_id: object, truths: Any) -> bool:
        """Queue the truths of a call; False where there is no room. Never blocks.

        Raises:
            TypeError: The call's name is none.
        """
        label = label_of(call_id, truths)
        number = len(label.truths)
        if len(self._labels) >= MAX_QUEUED or self._truths + number > MAX_TRUTHS:
            self._metrics.labelled("", "", DROPPED, number)
            return False
        self._truths += number
        self._labels.append(label)
        return True

    def flush(self) -> None:
        """Hand on what waits; to be called about twice a second, by one thread."""
        try:
            self._keep()
            self._join()
            now = self._clock()
            if abs(now - self._forgot) > _FORGET and self._store.forget(now):
                self._forgot = now
        except _Trouble as error:
            self._metrics.set_degraded("feedback", True)
            self._log.warning("store", "labels wait, as calls cannot be kept: %s", error)
        else:
            self._metrics.set_degraded("feedback", False)

    def replace_for_tests(self, store: CallStore) -> None:
        """Keep calls elsewhere, for tests."""
        self._store = store

    def families(self) -> list[Family]:
        """Measure the models by their last labels; nothing where those cannot be read."""
        numbers, window = Numbers(), self._settings.window
        for model, task in self._tasks.items():
            try:
                labelled = self._store.recent(model, window)
            except _Trouble as error:
                self._log.warning("read", "performance cannot be measured: %s", error)
                return []
            # As in other metrics, of very many versions those that came last are one.
            named = [c._replace(version=self._metrics.known(model, c.version)) for c in labelled]
            for version, labels, metrics in performances(task, named, window):
                numbers.set("mlguard_model_performance_labels", model, version, to=labels)
                for name, value in metrics.items():
                    numbers.set("mlguard_model_performance", model, version, name, to=value)
        return numbers.families()

    def close(self) -> None:
        """Hand on what waits once more."""
        self.flush()
        while self._labels:  # whose calls another worker may have had
            label = self._labels.popleft()
            self._metrics.labelled("", "", DROPPED, max(1, len(label.truths)))
        self._store.close()

    def _keep(self) -> None:
        while self._calls:
            calls = [self._calls[n] for n in range(min(len(self._calls), _TOGETHER))]
            self._store.keep(calls)
            for _ in calls:  # not before: what could not be kept waits
                self._calls.popleft()

    def _join(self) -> None:
        again: list[Label] = []
        try:
            for _ in range(-(-len(self._labels) // _TOGETHER)):
                self._join_some(again)
        finally:
            self._labels.extend(again)

    def _join_some(self, again: list[Label]) -> None:
        """Join some labels with their calls; those whose calls may still come are put aside."""
        labels = [self._labels[n] for n in range(min(len(self._labels), _TOGETHER))]
        now, retention = self._clock(), self._settings.retention
        for became in join(self._store, self._tasks, labels, now=now, retention=retention):
            self._labels.popleft()
            label, result, model, version = became
            if result == UNKNOWN and _is_young(label.call_id, now):
                again.append(label)
                continue
            self._truths -= len(label.truths)
            self._metrics.labelled(model, version, result, max(1, len(label.truths)))


def kept_in_redis(service: str, feedback: FeedbackSettings, quotas: Quotas) -> CallStore:
    """Return where the calls of a service that counts in a Redis wait for their labels."""
    from mlguard.redis.kept_calls import RedisCalls  # what no Redis needs is not loaded

    return RedisCalls(
        quotas.store,
        quotas.prefix,
        service,
        most=feedback.max_calls,
        retention=float(feedback.retention),
    )


def _is_young(call_id: str, now: float) -> bool:
    """Say whether another worker, or host, may still have the call in its queue."""
    at = time_of(call_id)
    return at is not None and abs(now - at) < GRACE
