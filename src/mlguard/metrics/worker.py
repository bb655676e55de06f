"""What does one worker measure?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from mlguard.messages import Outcome
from mlguard.metrics.cells import SHARES, Counters, Gauges, Histogram, Histograms, Number, Readings
from mlguard.metrics.families import Family, families

OTHER = "_OTHER"
# OpenTelemetry: the methods of RFC 9110, PATCH and QUERY; any other is _OTHER.
METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
)
MAX_ERROR_TYPES = 50
STORE_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
_VERSIONED = ("model", "version")


class _Inference(NamedTuple):
    seconds: Histogram
    wait: Histogram
    rows: Number


def degraded() -> Gauges:
    """Return what says which parts are degraded."""
    return Gauges("mlguard_degraded", "1 while a part works less well than configured.", ("part",))


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
        self._declare(clock)
        self.active = self._active_requests.cell()
        self._requests: dict[tuple[str, str, int], Histogram] = {}
        self._first_bytes: dict[tuple[str, str], Histogram] = {}
        self._outcomes: dict[str, Number] = {}
        self._versioned: dict[tuple[Counters, str, str], Number] = {}
        self._inferences: dict[tuple[str, str], _Inference] = {}
        pairs = tuple(models)
        for name, _ in pairs:
            self._versions[name] = set()
        for name, version in pairs:
            self._begin(name, version)

    def _declare(self, clock: Callable[[], float]) -> None:
        self._http = Histograms(
            "http_server_request_duration_seconds",
            "Time from the first byte of a request to the last of its response, in seconds.",
            ("http_request_method", "http_route", "http_response_status_code"),
            clock=clock,
        )
        self._first_byte = Histograms(
            "mlguard_first_byte_seconds",
            "Time from the first byte of a request to the first of its response, in seconds.",
            ("http_request_method", "http_route"),
            clock=clock,
        )
        self._messages = Counters(
            "mlguard_websocket_messages_total",
            "Messages of WebSockets, by who sent them.",
            ("http_route", "direction"),
        )
        self._records_dropped = Counters(
            "mlguard_records_dropped_total",
            "Ended requests whose metrics and spans were dropped, as too many waited.",
        )
        self._spans_dropped = Counters(
            "mlguard_spans_dropped_total", "Spans that never reached the receiver."
        )
        self._wait = Histograms(
            "mlguard_inference_wait_seconds",
            "Time between the decision and the model's handler: for a thread, for dependencies.",
            _VERSIONED,
            clock=clock,
        )
        self._active_requests = Gauges("http_server_active_requests", "Requests in flight.")
        self._seconds = Histograms(
            "mlguard_inference_duration_seconds",
            "Time that the model took, in seconds.",
            _VERSIONED,
            clock=clock,
        )
        self._rows = Counters(
            "mlguard_inference_rows_total", "Rows that the model answered.", _VERSIONED
        )
        self._errors = Counters(
            "mlguard_inference_errors_total",
            "Inferences that failed.",
            (*_VERSIONED, "error_type"),
        )
        self._auth = Counters(
            "mlguard_auth_total", "Requests by the outcome of authentication.", ("outcome",)
        )
        self._keys_age = Readings(
            "mlguard_keys_age_seconds", "Time since an issuer's keys were fetched.", ("issuer",)
        )
        self._keys_fetches = Counters(
            "mlguard_keys_fetches_total", "Fetches of issuers' keys by their result.", ("result",)
        )
        self._refused = Counters(
            "mlguard_quota_refused_total", "Requests that a quota refused.", ("model", "code")
        )
        self._debt = Counters(
            "mlguard_quota_debt_total",
            "Units that calls turned out to cost beyond what was reserved.",
            ("model", "unit"),
        )
        self._use = Histograms(
            "mlguard_quota_use_ratio",
            "Share of a limit that one caller used in a window, when it has ended.",
            ("model", "policy"),
            bounds=SHARES,
        )
        self._stored = Histograms(
            "mlguard_quota_store_duration_seconds",
            "Time that charging a request in the quotas' store took, in seconds.",
            bounds=STORE_BOUNDS,
        )
        self._degraded = degraded()
        self._observed = Counters(
            "mlguard_drift_rows_observed_total", "Rows that the model was asked.", _VERSIONED
        )
        self._sampled = Counters(
            "mlguard_drift_rows_sampled_total", "Rows handed to the drift check.", _VERSIONED
        )
        self._dropped = Counters(
            "mlguard_drift_rows_dropped_total",
            "Sampled rows that never reached a drift check.",
            (*_VERSIONED, "reason"),
        )
        self._unread = Counters(
            "mlguard_rows_unread_total",
            "Answered calls that showed no rows where the settings look for them.",
            ("model", "side"),
        )
        self._worker_up = Gauges(
            "mlguard_drift_worker_up", "1 while drift checks are ready to run."
        )
        self._own = (
            *(self._http, self._active_requests, self._seconds, self._rows, self._errors),
            *(self._first_byte, self._messages, self._wait),
            *(self._records_dropped, self._spans_dropped),
            *(
                self._auth,
                self._keys_age,
                self._keys_fetches,
                self._refused,
                self._debt,
                self._use,
                self._stored,
                self._degraded,
                self._unread,
            ),
            *(self._observed, self._sampled, self._dropped, self._worker_up),
        )
        for labelled in self._own:
            self.registry.register(labelled)
        self.registry.others.clear()

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
        latency = self._requests.get((method, route, status))
        if latency is None:
            latency = self._http.cell(method, route, str(status))
            self._requests[method, route, status] = latency
        latency.observe(seconds, trace_id)
        if first is not None:
            byte = self._first_bytes.get((method, route))
            if byte is None:
                byte = self._first_bytes[method, route] = self._first_byte.cell(method, route)
            byte.observe(first, trace_id)

    def messages(self, route: str, direction: str, number: int) -> None:
        """Count messages of a WebSocket, "sent" or "received"."""
        self._messages.cell(route, direction).add(number)

    def records_dropped(self, number: int) -> None:
        """Count ended requests that were not observed."""
        self._records_dropped.cell().add(number)

    def spans_dropped(self, number: int) -> None:
        """Count spans that were not exported."""
        self._spans_dropped.cell().add(number)

    def inference_ended(self, outcome: Outcome, trace_id: str | None = None) -> None:
        """Count an inference: its rows where it answered, else the class name of its error."""
        model, version = outcome.model, outcome.version
        inference = self._inferences.get((model, version)) or self._begin(model, version)
        inference.seconds.observe(outcome.seconds, trace_id)
        if outcome.waited is not None:
            inference.wait.observe(outcome.waited, trace_id)
        if outcome.error_type is None:
            inference.rows.add(outcome.rows)
        else:
            self._errors.cell(*self._known(model, version), self._error(outcome.error_type)).add()

    def authenticated(self, outcome: str) -> None:
        """Count an authentication by its outcome: a code of ours, never a client's word."""
        cell = self._outcomes.get(outcome)
        if cell is None:
            cell = self._outcomes[outcome] = self._auth.cell(outcome)
        cell.add()

    def keys_fetched(self, result: str) -> None:
        """Count a fetch of an issuer's keys by its result: "ok", or why there was none."""
        self._keys_fetches.cell(result).add()

    def measure_keys_age(self, issuer: str, read: Callable[[], float | None]) -> None:
        """Read the age of an issuer's keys from here, in seconds; None where there are none."""
        self._keys_age.cell(issuer).read = read

    def refused(self, model: str, code: str) -> None:
        """Count a refusal by a quota; `model` is "" where the route has none."""
        self._refused.cell(self._model(model), code).add()

    def quota_debt(self, model: str, unit: str, units: int) -> None:
        """Count what calls cost beyond what was reserved for them."""
        self._debt.cell(self._model(model), unit).add(units)

    def quota_used(self, model: str, policy: str, share: float) -> None:
        """Count a caller's window that has ended by the share of its limit that was used."""
        self._use.cell(self._model(model), policy).observe(share)

    def quota_stored(self, seconds: float) -> None:
        """Count a debit in the quotas' store by how long it took."""
        self._stored.cell().observe(seconds)

    def set_degraded(self, part: str, on: bool) -> None:
        """Say whether a part works less well than configured."""
        self._degraded.cell(part).set(on)

    def set_drift_worker_up(self, on: bool) -> None:
        """Say what this worker knows: where drift is checked, False until it is known."""
        self._worker_up.cell().set(on)

    def rows_observed(self, model: str, version: str, rows: int) -> None:
        """Count rows that the model was asked."""
        self._cell(self._observed, model, version).add(rows)

    def rows_sampled(self, model: str, version: str, rows: int) -> None:
        """Count rows that were handed to the drift check."""
        self._cell(self._sampled, model, version).add(rows)

    def rows_dropped(self, model: str, version: str, reason: str, rows: int = 1) -> None:
        """Count sampled rows that never reached a drift check."""
        self._dropped.cell(*self._known(model, version), reason).add(rows)

    def rows_unread(self, model: str, side: str) -> None:
        """Count answered calls whose body or answer showed no rows where the settings look."""
        self._unread.cell(model, side).add()

    def forget(self) -> None:
        """Begin at zero, in a forked process: what was counted is the parent's."""
        for labelled in self._own:
            labelled.forget()

    def snapshot(self) -> list[Family]:
        """Write down all numbers, ready for JSON, `merge` and `expose`."""
        self.before_snapshot()
        own = [told for labelled in self._own if (told := labelled.told()) is not None]
        return own + [f for other in self.registry.others for f in families(other)]

    # ---- the bounds of labels

    def _begin(self, model: str, version: str) -> _Inference:
        known = self._known(model, version)
        inference = _Inference(
            self._seconds.cell(*known), self._wait.cell(*known), self._rows.cell(*known)
        )
        return self._inferences.setdefault(known, inference)

    def _cell(self, family: Counters, model: str, version: str) -> Number:
        """Find a cell without a lock; those of versions beyond the bound are found with one."""
        cell = self._versioned.get((family, model, version))
        if cell is None:
            known = self._known(model, version)
            cell = family.cell(*known)
            if known == (model, version):
                self._versioned[family, model, version] = cell
        return cell

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
