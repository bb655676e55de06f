"""How long, how many, how bad?"""

from __future__ import annotations

import json
import re
from itertools import repeat

import pytest
from prometheus_client import Counter, Gauge, Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_classic

from mlguard.messages import Outcome
from mlguard.metrics import METRICS, Family, Metrics, Numbers, expose, merge
from mlguard.metrics.worker import MAX_ERROR_TYPES
from tests.servers import ROOT

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
PAGE = ROOT / "docs" / "observing.md"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def value(families: list[Family], name: str, **labels: str) -> float | None:
    """Return the sum of the samples of this name that have these labels, None without any."""
    found = [
        sample["value"]
        for family in families
        for sample in family["samples"]
        if sample["name"] == name and labels.items() <= sample["labels"].items()
    ]
    return sum(found) if found else None


def openmetrics(page: bytes) -> list[Metric]:
    return list(read_openmetrics(page.decode()))  # type: ignore[no-untyped-call]


def labels(families: list[Family], name: str, label: str) -> set[str]:
    return {
        sample["labels"][label]
        for family in families
        for sample in family["samples"]
        if sample["name"] == name
    }


def test_the_documentation_has_the_table() -> None:
    """The page lists each metric of the table with its labels, and no other."""
    rows = re.findall(
        r"^\| `((?:mlguard|http)_\w+)` \|((?: `\w+`)*) +\|", PAGE.read_text(), re.MULTILINE
    )

    documented = [(name, tuple(re.findall(r"\w+", labels))) for name, labels in rows]
    assert documented == [(metric.name, metric.labels) for metric in METRICS]


def test_what_is_exposed_is_of_the_table() -> None:
    """Each metric has the name, the type, the help and the labels that the table says."""
    numbers = Numbers()
    for metric in METRICS:
        of = (metric.name, *metric.labels)
        if metric.kind == "histogram":
            numbers.histogram(*of).observe(0.1)
        else:
            numbers.add(*of)

    _, page = expose(numbers.families(), OPENMETRICS)

    exposed = {
        (f.name, f.type, f.documentation, *(k for k in f.samples[0].labels if k != "le"))
        for f in openmetrics(page)
    }
    assert exposed == {(m.family, m.kind, m.help, *sorted(m.labels)) for m in METRICS}


def test_names_of_the_kit_are_taken() -> None:
    """A user's metric cannot have the name of one of ours, not even of one without a number."""
    with pytest.raises(ValueError, match="mlguard_drift_score"):
        Gauge("mlguard_drift_score", "A user's.", registry=Metrics().registry)


def test_a_request_is_in_flight_until_it_ended() -> None:
    """A request counts as active between its start and its end, then by method, route, status."""
    metrics = Metrics()
    metrics.active.add(1)
    metrics.active.add(1)
    metrics.active.add(-1)
    metrics.request_ended("POST", "/predict", 200, 0.02)

    families = metrics.snapshot()

    name = "http_server_request_duration_seconds"
    seen = {"http_request_method": "POST", "http_route": "/predict"}
    assert value(families, "http_server_active_requests") == 1
    assert value(families, f"{name}_count", http_response_status_code="200", **seen) == 1
    assert value(families, f"{name}_sum", **seen) == 0.02


@pytest.mark.parametrize(
    ("seconds", "first"),
    [
        pytest.param(0.0, "0.005", id="zero"),
        pytest.param(0.005, "0.005", id="a boundary belongs to its bucket"),
        pytest.param(0.0051, "0.01", id="just above"),
        pytest.param(10.0, "10.0", id="the last boundary"),
        pytest.param(11.0, "+Inf", id="beyond all"),
    ],
)
def test_buckets_are_opentelemetrys(seconds: float, first: str) -> None:
    """A duration falls into the first bucket that it does not exceed, and into all after it."""
    metrics = Metrics([("iris", "3")])
    metrics.inference_ended(Outcome("iris", "3", seconds, 1))

    (family,) = (f for f in metrics.snapshot() if f["name"] == "mlguard_inference_duration_seconds")
    buckets = {s["labels"]["le"]: s["value"] for s in family["samples"] if "le" in s["labels"]}

    assert next(le for le, count in buckets.items() if count) == first
    assert sorted(buckets.values()) == list(buckets.values())


def test_configured_models_begin_at_zero() -> None:
    """A model that nobody asked yet is there with zero: a rate has a beginning."""
    families = Metrics([("iris", "3")]).snapshot()

    assert value(families, "mlguard_inference_rows_total", model="iris", version="3") == 0
    assert value(families, "mlguard_inference_duration_seconds_count", model="iris") == 0


def test_an_error_counts_no_rows() -> None:
    """A failed inference counts its error's class, and none of its rows."""
    metrics = Metrics([("iris", "3")])
    metrics.inference_ended(Outcome("iris", "3", 0.1, 5))
    metrics.inference_ended(Outcome("iris", "3", 0.1, 7, "ValueError"))

    families = metrics.snapshot()

    assert value(families, "mlguard_inference_rows_total") == 5
    assert value(families, "mlguard_inference_errors_total", error_type="ValueError") == 1
    assert value(families, "mlguard_inference_duration_seconds_count") == 2


def test_first_bytes_have_their_own_times() -> None:
    """The time to the first byte is told apart from the time to the last, where there was one."""
    metrics = Metrics()
    metrics.request_ended("GET", "/stream", 200, 9.0, 0.5)
    metrics.request_ended("GET", "/stream", 499, 1.0, None)

    families = metrics.snapshot()

    seen = {"http_request_method": "GET", "http_route": "/stream"}
    assert value(families, "mlguard_first_byte_seconds_count", **seen) == 1
    assert value(families, "mlguard_first_byte_seconds_sum", **seen) == 0.5
    assert value(families, "http_server_request_duration_seconds_sum", **seen) == 10.0


def test_waiting_is_no_inference() -> None:
    """The time before a model's handler begins is told apart from the model's own."""
    metrics = Metrics([("iris", "3")])
    metrics.inference_ended(Outcome("iris", "3", 0.1, 1, waited=2.0))
    metrics.inference_ended(Outcome("iris", "3", 0.1, 1))

    families = metrics.snapshot()

    assert value(families, "mlguard_inference_wait_seconds_sum", model="iris") == 2.0
    assert value(families, "mlguard_inference_wait_seconds_count", model="iris") == 1
    assert value(families, "mlguard_inference_duration_seconds_count", model="iris") == 2


def test_what_was_lost_is_counted() -> None:
    """Records and spans that were dropped are counted."""
    metrics = Metrics()
    metrics.records_dropped(2)
    metrics.spans_dropped(3)

    families = metrics.snapshot()

    assert value(families, "mlguard_records_dropped_total") == 2
    assert value(families, "mlguard_spans_dropped_total") == 3


def test_messages_of_websockets_are_counted_by_direction() -> None:
    """Messages are counted by their route and by who sent them."""
    metrics = Metrics()
    metrics.messages("/chat", "received", 2)
    metrics.messages("/chat", "sent", 3)

    families = metrics.snapshot()

    name = "mlguard_websocket_messages_total"
    assert value(families, name, http_route="/chat", direction="received") == 2
    assert value(families, name, http_route="/chat", direction="sent") == 3


def test_a_snapshot_is_up_to_date() -> None:
    """Whoever reads the numbers has them brought up to date first."""
    metrics = Metrics([("iris", "3")])
    metrics.before_snapshot = lambda: metrics.inference_ended(Outcome("iris", "3", 0.1, 7))

    assert value(metrics.snapshot(), "mlguard_inference_rows_total") == 7


def test_parts_are_counted() -> None:
    """Authentication, refusals, degraded parts and drift rows have their contract's names."""
    metrics = Metrics([("iris", "3")])
    metrics.authenticated("token_expired")
    metrics.refused("iris", "quota_exceeded")
    metrics.refused("", "too_many_in_flight")
    metrics.set_degraded("host", True)
    metrics.rows_observed("iris", "3", 10)
    metrics.rows_sampled("iris", "3", 2)
    metrics.rows_dropped("iris", "3", "queue_full")
    metrics.set_drift_worker_up(False)

    families = metrics.snapshot()

    assert value(families, "mlguard_auth_total", outcome="token_expired") == 1
    assert value(families, "mlguard_quota_refused_total", model="iris") == 1
    assert value(families, "mlguard_quota_refused_total", model="") == 1
    assert value(families, "mlguard_degraded", part="host") == 1
    assert value(families, "mlguard_drift_rows_observed_total", model="iris", version="3") == 10
    assert value(families, "mlguard_drift_rows_sampled_total") == 2
    assert value(families, "mlguard_drift_rows_dropped_total", reason="queue_full") == 1
    assert value(families, "mlguard_drift_worker_up") == 0


def test_every_label_is_bounded() -> None:
    """However many methods, models, versions and error types come, the series stay few."""
    metrics = Metrics([("iris", "3")], max_versions=5)
    for i in range(200):
        metrics.active.add(1)
        metrics.request_ended(f"BREW{i}", "", 404, 0.1)
        metrics.inference_ended(Outcome("iris", str(i), 0.1, 1, f"Error{i}"))
        metrics.inference_ended(Outcome(f"model{i}", str(i), 0.1, 1))
        metrics.refused(f"model{i}", "quota_exceeded")

    families = metrics.snapshot()

    name = "http_server_request_duration_seconds_count"
    assert labels(families, name, "http_request_method") == {"_OTHER"}
    assert value(families, name) == 200
    name = "mlguard_inference_duration_seconds_count"
    assert labels(families, name, "model") == {"iris", "_OTHER"}
    assert labels(families, name, "version") == {"3", "0", "1", "2", "4", "_OTHER"}
    assert value(families, name) == 400
    assert len(labels(families, "mlguard_inference_errors_total", "error_type")) == (
        MAX_ERROR_TYPES + 1
    )
    assert labels(families, "mlguard_quota_refused_total", "model") == {"_OTHER"}


def test_a_snapshot_survives_json_and_has_no_created_samples() -> None:
    """A snapshot is plain JSON, a user's own metrics are in it, creation times are not."""
    metrics = Metrics([("iris", "3")])
    Counter("own_total", "A user's.", registry=metrics.registry).inc()
    metrics.inference_ended(Outcome("iris", "3", 0.1, 1), TRACE)

    families = metrics.snapshot()

    assert json.loads(json.dumps(families)) == families
    assert value(families, "own_total") == 1
    assert not [s for f in families for s in f["samples"] if s["name"].endswith("_created")]


def test_a_multiprocess_folder_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two services in one process share nothing, whatever prometheus-client was told."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/nowhere")
    one, other = Metrics([("iris", "3")]), Metrics([("iris", "3")])
    one.inference_ended(Outcome("iris", "3", 0.1, 1))

    assert value(one.snapshot(), "mlguard_inference_rows_total") == 1
    assert value(other.snapshot(), "mlguard_inference_rows_total") == 0


def test_merge_adds_counts_and_takes_the_worst_state() -> None:
    """Counts, histograms and requests in flight add up; a degraded part anywhere is degraded."""
    workers = [Metrics([("iris", "3")]) for _ in range(3)]
    for i, metrics in enumerate(workers):
        metrics.active.add(1)
        metrics.inference_ended(Outcome("iris", "3", 0.1, 10**i))
        metrics.set_degraded("host", i == 1)
        metrics.set_drift_worker_up(False)
        Gauge("own", "A user's.", registry=metrics.registry).set(2)
    up = Metrics()
    up.set_drift_worker_up(True)

    families = merge([*(metrics.snapshot() for metrics in workers), up.snapshot()])

    assert value(families, "mlguard_inference_rows_total") == 111
    assert value(families, "mlguard_inference_duration_seconds_bucket", le="0.1") == 3
    assert value(families, "http_server_active_requests") == 3
    assert value(families, "mlguard_degraded", part="host") == 1
    assert value(families, "mlguard_drift_worker_up") == 1
    assert value(families, "own") == 6


def test_merge_leaves_what_it_was_given_alone() -> None:
    """Merging twice gives the same twice."""
    metrics = Metrics([("iris", "3")])
    metrics.inference_ended(Outcome("iris", "3", 0.1, 1), TRACE)
    snapshot = metrics.snapshot()

    assert merge([snapshot, snapshot]) == merge([snapshot, snapshot])
    assert merge([snapshot]) == snapshot


@pytest.mark.parametrize("newest_first", [True, False], ids=["newest first", "newest last"])
def test_of_exemplars_the_newest_stays(newest_first: bool) -> None:
    """Of two workers' exemplars for a bucket, the later one is shown."""
    snapshots = []
    for moment, trace in ((2.0, "newest"), (1.0, "older")):
        metrics = Metrics([("iris", "3")], clock=repeat(moment).__next__)
        metrics.inference_ended(Outcome("iris", "3", 0.1, 1), trace)
        snapshots.append(metrics.snapshot())

    _, page = expose(merge(snapshots if newest_first else snapshots[::-1]), OPENMETRICS)

    exemplars = [
        sample.exemplar.labels["trace_id"]
        for family in openmetrics(page)
        for sample in family.samples
        if sample.exemplar
    ]
    assert exemplars == ["newest"]


def test_openmetrics_where_it_is_asked_for() -> None:
    """Prometheus' own Accept header gets OpenMetrics, with exemplars and an end."""
    metrics = Metrics([("iris", "3")])
    metrics.active.add(1)
    metrics.request_ended("GET", "/", 200, 0.1, 0.05, TRACE)

    content_type, page = expose(metrics.snapshot(), OPENMETRICS)

    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert page.endswith(b"# EOF\n")
    assert TRACE.encode() in page
    assert "mlguard_inference_rows" in {f.name for f in openmetrics(page)}


@pytest.mark.parametrize(
    "accept",
    [
        pytest.param("", id="none"),
        pytest.param("*/*", id="anything"),
        pytest.param("text/html;q=nonsense,;;;=", id="nonsense"),
        pytest.param("application/openmetrics-text;version=one", id="no version"),
        pytest.param("application/openmetrics-text;version=1.0.x", id="half a version"),
        pytest.param("application/openmetrics-text;version=1.0.0.\r\nX-A: b", id="injection"),
        pytest.param("application/openmetrics-text;version=1.0.0.<b>", id="echo"),
    ],
)
def test_any_other_accept_header_gets_the_classic_text(accept: str) -> None:
    """A malformed Accept header never fails, nor comes back in the content type."""
    metrics = Metrics([("iris", "3")])
    metrics.inference_ended(Outcome("iris", "3", 0.1, 1), TRACE)

    content_type, page = expose(metrics.snapshot(), accept)

    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert TRACE.encode() not in page
    assert "mlguard_inference_rows" in {f.name for f in read_classic(page.decode())}


def test_an_exemplar_that_openmetrics_forbids_is_left_out() -> None:
    """An exemplar of more than 128 characters costs only itself."""
    metrics = Metrics([("iris", "3")])
    metrics.inference_ended(Outcome("iris", "3", 0.1, 1), "a" * 200)

    _, page = expose(metrics.snapshot(), OPENMETRICS)

    assert b"aaa" not in page
