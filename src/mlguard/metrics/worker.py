"""What does one worker measure?"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from math import nan

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from mlguard import __version__
from mlguard.messages import Outcome
from mlguard.metrics.cells import Histogram, Number, Numbers
from mlguard.metrics.families import Family, families

OTHER = "_OTHER"
# OpenTelemetry: the methods of RFC 9110, PATCH and QUERY; any other is _OTHER.
METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
MAX_ERROR_TYPES = 50
_FEW = 100  # cells
_REQUESTS = "http_server_request_duration_seconds"


class _Registry(CollectorRegistry):
    """Knows what else was registered."""

    def __init__(self) -> None:
        super().__init__()
        self.others: list[Collector] = []

    def register(self, collector: Collector) -> None:
        super().register(collector)
        self.others.append(collector)

    def unregister(self, collector: Collector) -> None:
        super().unregister(collector)
        self.others.remove(collector)


class Metrics:
    """Count what a worker does; every label is bounded, whatever clients send.

    Attributes:
        active: Counts the requests in flight.
        before_snapshot: Brings the numbers up to date.
        registry: Holds this service's metrics and no one else's; what a user registers here is
            added up over the workers and exposed with the rest.
    """

    def __init__(
        self,
        models: Iterable[tuple[str, str]] = (),
        *,
        max_versions: int = 20,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Begin at zero for the `models`, pairs of name and version."""
        self.registry = _Registry()
        self.before_snapshot: Callable[[], None] = lambda: None
        self._max_versions = max_versions
        self._versions: dict[str, set[str]] = {}
        self._error_types: set[str] = set()
        self._numbers = Numbers(clock)
        self.registry.register(self._numbers)
        self.registry.others.clear()
        self.active = self._numbers.number("http_server_active_requests")
        self._inferences: dict[tuple[str, str], tuple[Histogram, Histogram, Number]] = {}
        self._ages: dict[str, Callable[[], float | None]] = {}
        pairs = tuple(models)
        for name, _ in pairs:
            self._versions[name] = set()
        for name, version in pairs:
            self._inference(name, version)

    def add_model(self, name: str, version: str) -> None:
        """Count one more model by its name, from zero."""
        self._versions.setdefault(name, set())
        self._inference(name, version)

    @property
    def models(self) -> Collection[str]:
        """The models that are counted by their names."""
        return self._versions.keys()

    # ---- what happened

    def request_ended(
        self,
        method: str,
        route: str,
        status: int,
        seconds: float,
        first: float | None = None,
        trace_id: str | None = None,
    ) -> None:
        """Count a request; `route` is the template, "" where none matched."""
        if method not in METHODS:
            method = OTHER
        duration = self._numbers.histogram(_REQUESTS, method, route, str(status))
        duration.observe(seconds, trace_id)
        if first is not None:
            first_byte = self._numbers.histogram("mlguard_first_byte_seconds", method, route)
            first_byte.observe(first, trace_id)

    def messages(self, route: str, direction: str, number: int) -> None:
        """Count messages of a WebSocket, "sent" or "received"."""
        self._numbers.add("mlguard_websocket_messages_total", route, direction, amount=number)

    def records_dropped(self, number: int) -> None:
        """Count ended requests that were not observed."""
        self._numbers.add("mlguard_records_dropped_total", amount=number)

    def spans_dropped(self, number: int) -> None:
        """Count spans that were not exported."""
        self._numbers.add("mlguard_spans_dropped_total", amount=number)

    def inference_ended(self, outcome: Outcome, trace_id: str | None = None) -> None:
        """Count an inference: its rows where it answered, else the class name of its error."""
        seconds, wait, rows = self._inference(outcome.model, outcome.version)
        seconds.observe(outcome.seconds, trace_id)
        if outcome.waited is not None:
            wait.observe(outcome.waited, trace_id)
        if outcome.error_type is None:
            rows.add(outcome.rows)
        else:
            known, error = self._known(outcome.model, outcome.version), outcome.error_type
            self._numbers.add("mlguard_inference_errors_total", *known, self._error(error))

    def authenticated(self, outcome: str) -> None:
        """Count an authentication by its outcome: a code of ours, never a client's word."""
        self._numbers.add("mlguard_auth_total", outcome)

    def keys_fetched(self, result: str) -> None:
        """Count a fetch of an issuer's keys by its result: "ok", or why there was none."""
        self._numbers.add("mlguard_keys_fetches_total", result)

    def measure_keys_age(self, issuer: str, read: Callable[[], float | None]) -> None:
        """Read the age of an issuer's keys from here, in seconds; None where there are none."""
        self._ages[issuer] = read

    def refused(self, model: str, code: str) -> None:
        """Count a refusal by a quota; `model` is "" where the route has none."""
        self._numbers.add("mlguard_quota_refused_total", self._model(model), code)

    def would_refuse(self, model: str, code: str) -> None:
        """Count what is only observed, and would be refused."""
        self._numbers.add("mlguard_observed_refusals_total", self._model(model), code)

    def quota_debt(self, model: str, unit: str, units: int) -> None:
        """Count what calls cost beyond what was reserved for them."""
        self._numbers.add("mlguard_quota_debt_total", self._model(model), unit, amount=units)

    def quota_used(self, model: str, policy: str, share: float) -> None:
        """Count a caller's window that has ended by the share of its limit that was used."""
        use = self._numbers.histogram("mlguard_quota_use_ratio", self._model(model), policy)
        use.observe(share)

    def quota_stored(self, seconds: float) -> None:
        """Count a debit in the quotas' store by how long it took."""
        self._numbers.histogram("mlguard_quota_store_duration_seconds").observe(seconds)

    def set_degraded(self, part: str, on: bool) -> None:
        """Say whether a part works less well than configured."""
        self._numbers.set("mlguard_degraded", part, to=on)

    def workers_lost(self, number: int) -> None:
        """Count workers that were killed, or crashed."""
        self._numbers.add("mlguard_workers_lost_total", amount=number)

    def set_drift_worker_up(self, on: bool) -> None:
        """Say what this worker knows: where drift is checked, False until an analyst knows."""
        self._numbers.set("mlguard_drift_worker_up", to=on)
        self._numbers.number("mlguard_analyst_restarts_total")

    def analyst_restarted(self) -> None:
        """Count an analyst that this worker started in the place of one that was gone."""
        self._numbers.add("mlguard_analyst_restarts_total")

    def rows_observed(self, model: str, version: str, rows: int) -> None:
        """Count rows that the model was asked."""
        known = self._known(model, version)
        self._numbers.add("mlguard_drift_rows_observed_total", *known, amount=rows)

    def rows_sampled(self, model: str, version: str, rows: int) -> None:
        """Count rows that were handed to the drift check."""
        known = self._known(model, version)
        self._numbers.add("mlguard_drift_rows_sampled_total", *known, amount=rows)

    def rows_dropped(self, model: str, version: str, reason: str, rows: int = 1) -> None:
        """Count sampled rows that never reached a drift check."""
        known = self._known(model, version)
        self._numbers.add("mlguard_drift_rows_dropped_total", *known, reason, amount=rows)

    def call_kept(self, model: str, version: str, result: str) -> None:
        """Count a call whose predictions were to be kept."""
        known = self._known(model, version)
        self._numbers.add("mlguard_feedback_calls_total", *known, result)

    def labelled(self, model: str, version: str, result: str, labels: int) -> None:
        """Count labels by what became of them; `model` is "" where nobody knows the call."""
        known = self._known(model, version) if model else ("", "")
        self._numbers.add("mlguard_feedback_labels_total", *known, result, amount=labels)

    def rows_unread(self, model: str, side: str) -> None:
        """Count answered calls whose body or answer showed no rows where the settings look."""
        self._numbers.add("mlguard_rows_unread_total", model, side)

    def forget(self) -> None:
        """Begin at zero, in a forked process: what was counted is the parent's."""
        self._numbers.forget()

    @property
    def are_few(self) -> bool:
        """Whether a snapshot takes a few milliseconds at most: nobody else's, and few cells."""
        return len(self._numbers) <= _FEW and not self.registry.others

    def snapshot(self) -> list[Family]:
        """Write down all numbers, ready for JSON, `merge` and `expose`."""
        self.before_snapshot()
        self._numbers.set("mlguard_build_info", __version__, to=1)
        self._numbers.number(
            "mlguard_workers_lost_total"
        )  # from zero, or the first one is not seen
        for issuer, read in self._ages.items():
            age = read()
            self._numbers.set("mlguard_keys_age_seconds", issuer, to=nan if age is None else age)
        return self._numbers.families() + [
            f for other in self.registry.others for f in families(other)
        ]

    # ---- the bounds of labels

    def known(self, model: str, version: str) -> str:
        """Name a version of a model as all metrics do."""
        return self._known(model, version)[1]

    def _inference(self, model: str, version: str) -> tuple[Histogram, Histogram, Number]:
        """Find what each inference counts: its time, what it waited, and its rows."""
        found = self._inferences.get((model, version))
        if found is None:
            known = self._known(model, version)
            found = self._inferences[known] = (
                self._numbers.histogram("mlguard_inference_duration_seconds", *known),
                self._numbers.histogram("mlguard_inference_wait_seconds", *known),
                self._numbers.number("mlguard_inference_rows_total", *known),
            )
        return found

    def _model(self, name: str) -> str:
        return name if name in self._versions or not name else OTHER

    def _known(self, model: str, version: str) -> tuple[str, str]:
        versions = self._versions.get(model)
        if versions is None:
            return self._model(model), OTHER
        if version not in versions:
            if len(versions) >= self._max_versions:
                return model, OTHER
            versions.add(version)
        return model, version

    def _error(self, error_type: str) -> str:
        if error_type not in self._error_types:
            if len(self._error_types) >= MAX_ERROR_TYPES:
                return OTHER
            self._error_types.add(error_type)
        return error_type
