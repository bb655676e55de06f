"""What is measured?"""

from __future__ import annotations

from typing import Literal, NamedTuple

# The boundaries that OpenTelemetry advises for HTTP durations.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
STORE_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.5, 2.0)


class Metric(NamedTuple):
    """One metric, as operators see it.

    Attributes:
        name: A counter's ends in `_total`.
        kind: Its type.
        help: What it says.
        labels: The names of its labels.
        buckets: The upper bounds of a histogram.
        merge: What several workers say together: the sum, or the largest where it is a state.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = SECONDS
    merge: Literal["sum", "largest"] = "sum"

    @property
    def family(self) -> str:
        """Its name in an exposition, which keeps a counter's without the suffix of its samples."""
        return self.name.removesuffix("_total")


_ROUTE = ("http_request_method", "http_route")
_MODEL = ("model", "version")
_FEATURE = (*_MODEL, "feature")
_METRIC = (*_MODEL, "metric")


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "counter", text, labels)


def _gauge(name: str, text: str, *labels: str) -> Metric:
    return Metric(name, "gauge", text, labels)


def _state(name: str, text: str, *labels: str) -> Metric:
    """Declare what is as bad as in the worst worker, or as good as in the only one that knows."""
    return Metric(name, "gauge", text, labels, merge="largest")


def _histogram(name: str, text: str, *labels: str, buckets: tuple[float, ...] = SECONDS) -> Metric:
    return Metric(name, "histogram", text, labels, buckets)


METRICS = (
    _histogram(
        "http_server_request_duration_seconds",
        "Time from the first byte of a request to the last of its response, in seconds.",
        *_ROUTE,
        "http_response_status_code",
    ),
    _gauge("http_server_active_requests", "Requests in flight."),
    _histogram(
        "mlguard_first_byte_seconds",
        "Time from the first byte of a request to the first of its response, in seconds.",
        *_ROUTE,
    ),
    _counter(
        "mlguard_websocket_messages_total",
        "Messages of WebSockets, by who sent them.",
        "http_route",
        "direction",
    ),
    _histogram(
        "mlguard_inference_duration_seconds", "Time that the model took, in seconds.", *_MODEL
    ),
    _histogram(
        "mlguard_inference_wait_seconds",
        "Time between the decision and the model's handler: for a thread, for dependencies.",
        *_MODEL,
    ),
    _counter("mlguard_inference_rows_total", "Rows that the model answered.", *_MODEL),
    _counter("mlguard_inference_errors_total", "Inferences that failed.", *_MODEL, "error_type"),
    _counter("mlguard_auth_total", "Requests by the outcome of authentication.", "outcome"),
    _state("mlguard_keys_age_seconds", "Time since an issuer's keys were fetched.", "issuer"),
    _counter("mlguard_keys_fetches_total", "Fetches of issuers' keys by their result.", "result"),
    _counter("mlguard_quota_refused_total", "Requests that a quota refused.", "model", "code"),
    _counter(
        "mlguard_observed_refusals_total",
        "Requests that would have been refused, were they not only observed.",
        "model",
        "code",
    ),
    _histogram(
        "mlguard_quota_use_ratio",
        "Share of a limit that one caller used in a window, when it has ended.",
        "model",
        "policy",
        buckets=RATIOS,
    ),
    _counter(
        "mlguard_quota_debt_total",
        "Units that calls turned out to cost beyond what was reserved.",
        "model",
        "unit",
    ),
    _histogram(
        "mlguard_quota_store_duration_seconds",
        "Time that charging a request in the quotas' store took, in seconds.",
        buckets=STORE_SECONDS,
    ),
    _counter(
        "mlguard_rows_unread_total",
        "Answered calls that showed no rows where the settings look for them.",
        "model",
        "side",
    ),
    _state("mlguard_build_info", "The kit that guards this service: always 1.", "version"),
    _counter(
        "mlguard_workers_lost_total", "Workers that ended without a goodbye: killed, crashed."
    ),
    _state("mlguard_degraded", "1 while a part works less well than configured.", "part"),
    _counter(
        "mlguard_records_dropped_total",
        "Ended requests whose metrics and spans were dropped, as too many waited.",
    ),
    _counter("mlguard_spans_dropped_total", "Spans that never reached the receiver."),
    _counter("mlguard_drift_rows_observed_total", "Rows that the model was asked.", *_MODEL),
    _counter("mlguard_drift_rows_sampled_total", "Rows handed to the drift check.", *_MODEL),
    _counter(
        "mlguard_drift_rows_dropped_total",
        "Sampled rows that never reached a drift check.",
        *_MODEL,
        "reason",
    ),
    _gauge("mlguard_drift_rows_waiting", "Rows that wait for the next verdict.", *_MODEL),
    _gauge("mlguard_drift_rows_wanted", "Rows that a verdict takes.", *_MODEL),
    _counter(
        "mlguard_analyst_restarts_total", "Analysts started in the place of one that was gone."
    ),
    _state("mlguard_drift_worker_up", "1 while drift checks are ready to run."),
    _gauge("mlguard_drift_score", "Distance of the last window from training.", *_FEATURE),
    _gauge("mlguard_drift_threshold", "The score from which it is drift.", *_FEATURE),
    _gauge(
        "mlguard_drift_smallest_detectable",
        "Smallest shift that such a window shows: standard deviations, or share of the rows.",
        *_FEATURE,
    ),
    _gauge(
        "mlguard_drift_episode",
        "1 where a feature drifts for this reason in enough of the last windows.",
        *_FEATURE,
        "reason",
    ),
    _gauge("mlguard_drift_missing_ratio", "Share of missing values.", *_FEATURE),
    _gauge(
        "mlguard_drift_unseen_category_ratio",
        "Share of values in no category of training.",
        *_FEATURE,
    ),
    _gauge(
        "mlguard_drift_out_of_range_ratio",
        "Share of values outside the range of training.",
        *_FEATURE,
    ),
    _gauge("mlguard_drift_detected", "1 where the last window drifted.", *_MODEL),
    _gauge("mlguard_drift_features_detected", "Features that drifted in the last window.", *_MODEL),
    _gauge("mlguard_drift_window_rows", "Rows in the last window.", *_MODEL),
    _gauge("mlguard_drift_last_check_timestamp_seconds", "When the last check ended.", *_MODEL),
    _gauge("mlguard_drift_check_duration_seconds", "Time that the last check took.", *_MODEL),
    _counter(
        "mlguard_drift_checks_total",
        "Drift checks by result: ok, drift, error, skipped.",
        *_MODEL,
        "result",
    ),
    _gauge(
        "mlguard_drift_reference_info",
        "The reference in use.",
        *_MODEL,
        "created",
        "rows",
        "features",
    ),
    _gauge(
        "mlguard_model_performance_estimated",
        "Performance of the last window as the model's own scores tell it, without labels.",
        *_METRIC,
    ),
    _gauge(
        "mlguard_model_performance_estimated_error",
        "Standard error of the estimated performance.",
        *_METRIC,
    ),
    _gauge(
        "mlguard_model_performance_expected",
        "Performance on the rows that the scores were calibrated with.",
        *_METRIC,
    ),
    _gauge("mlguard_model_performance_estimated_rows", "Rows that it is estimated of.", *_MODEL),
    _state("mlguard_model_performance", "Performance by the last labels that have come.", *_METRIC),
    _state("mlguard_model_performance_labels", "Labels that it is measured by.", *_MODEL),
    _counter(
        "mlguard_feedback_calls_total",
        "Calls whose predictions were to be kept until their labels come.",
        *_MODEL,
        "result",
    ),
    _counter("mlguard_feedback_labels_total", "Labels that came.", *_MODEL, "result"),
)
