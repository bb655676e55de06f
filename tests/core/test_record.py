"""How do requests that have ended become metrics, spans and sampled rows?"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Span

from mlguard.guard.models import ServedModel
from mlguard.guard.record import BATCH, Record, Recorder
from mlguard.messages import Call, Outcome
from mlguard.metrics import Metrics
from mlguard.settings import Drift, Model, load
from mlguard.tracing import Tracing
from tests.core.guards import guarded, served

COUNT = "http_server_request_duration_seconds_count"
ROWS = "mlguard_inference_rows_total"


class Told(Tracing):
    """Tracing that keeps what it is handed, in the batches in which it comes."""

    def __init__(self) -> None:
        super().__init__(load({}))
        self.batches: list[list[Span]] = []

    def take(self, spans: Any) -> None:
        self.batches.append(list(spans))


def a_model(offer: Callable[..., bool]) -> ServedModel:
    """Make a model whose rows are sampled."""
    model = Model(name="iris", version="3", features=("a", "b"), reference=Path("reference"))
    return ServedModel(model, Drift(), offer, Random(0))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics([("iris", "3")])


def recorder(metrics: Metrics, tracing: Tracing | None = None, **others: Any) -> Recorder:
    models = others.pop("models", {"iris": a_model(lambda *_: True)})
    made = Recorder(metrics, tracing or Told(), models, **others)
    metrics.before_snapshot = made.fold
    return made


def value(metrics: Metrics, name: str, **labels: str) -> float:
    return sum(
        float(sample["value"])
        for family in metrics.snapshot()
        for sample in family["samples"]
        if sample["name"] == name and labels.items() <= sample["labels"].items()
    )


def asked(rows: int = 1, *, sampled: tuple[Any, ...] = ()) -> Record:
    """Write what is told of an answered request to a model."""
    outcome = Outcome("iris", "3", 0.1, rows, sampled=sampled, is_observed=bool(sampled))
    return Record("POST", "/predict", 200, 0.2, 0.1, None, [outcome])


class TestFolding:
    def test_whoever_reads_folds_first(self, metrics: Metrics) -> None:
        """A snapshot holds all that was put before it."""
        records = recorder(metrics)
        records.put(asked(5))
        records.put(asked(7))

        assert value(metrics, COUNT, http_route="/predict") == 2
        assert value(metrics, ROWS) == 12

    def test_a_request(self, metrics: Metrics) -> None:
        """A record is one request: its method, route, status and times."""
        recorder(metrics).put(Record("GET", "/stream", 499, 2.0, 0.5))

        seen = {"http_request_method": "GET", "http_route": "/stream"}
        name = "http_server_request_duration_seconds"
        assert value(metrics, f"{name}_count", http_response_status_code="499", **seen) == 1
        assert value(metrics, f"{name}_sum", **seen) == 2.0
        assert value(metrics, "mlguard_first_byte_seconds_sum", **seen) == 0.5

    def test_an_inference_without_a_request(self, metrics: Metrics) -> None:
        """An inference that is told alone is no request."""
        recorder(metrics).put(Record(outcomes=[Outcome("iris", "3", 0.1, 4)]))

        assert value(metrics, COUNT) == 0
        assert value(metrics, ROWS) == 4

    def test_exemplars_lead_to_the_trace(self, metrics: Metrics) -> None:
        """A trace that is kept is named at the request and at its inferences."""
        trace = "0af7651916cd43dd8448eb211c80319c"
        record = asked()
        record.trace_id = trace
        recorder(metrics).put(record)

        named = {
            family["name"]
            for family in metrics.snapshot()
            for sample in family["samples"]
            if sample.get("exemplar") and sample["exemplar"]["labels"]["trace_id"] == trace
        }
        assert named == {
            "http_server_request_duration_seconds",
            "mlguard_first_byte_seconds",
            "mlguard_inference_duration_seconds",
        }

    def test_sampled_rows_are_handed_on(self, metrics: Metrics) -> None:
        """Sampled rows are offered when a record is folded, not before."""
        offered: list[Any] = []
        models = {"iris": a_model(lambda *row: not offered.append(row))}
        records = recorder(metrics, models=models)
        records.put(asked(3, sampled=([1, 2],)))
        before = list(offered)

        records.fold()

        assert before == []
        assert offered == [("iris", "3", [1, 2], None)]
        assert value(metrics, "mlguard_drift_rows_observed_total") == 3

    def test_spans_are_handed_on_once(self, metrics: Metrics) -> None:
        """The spans of all that waits are handed on in one batch, in order, once."""
        tracing = Told()
        records = recorder(metrics, tracing)
        one, other, last = (Told().inference_span(name, {})[0] for name in ("1", "2", "3"))
        records.put(Record("GET", "/", 200, spans=[one, other]))
        records.put(Record("GET", "/", 200, spans=[last]))
        records.put(Record("GET", "/", 200))

        records.fold()
        records.fold()

        assert tracing.batches == [[one, other, last]]

    def test_spans_are_exported(self) -> None:
        """A request's spans reach who takes them, its own the last."""
        guard = guarded({"models": [], "tracing": {"endpoint": "http://127.0.0.1:1"}})
        exporter = InMemorySpanExporter()
        guard.parts.tracing.replace_for_tests(SimpleSpanProcessor(exporter))
        exchange = guard.open(Call("GET"))
        exchange.open_span()
        exchange.started(204)
        exchange.ended()
        guard.parts.recorder.fold()

        assert [span.name for span in exporter.get_finished_spans()] == ["GET"]

    def test_exactly(self, metrics: Metrics) -> None:
        """No record is lost or counted twice, whatever threads put and fold at once."""
        offered: Counter[int] = Counter()
        tracing = Told()

        def offer(_name: str, _version: str, row: list[int], _said: object) -> bool:
            offered[row[0]] += 1
            return True

        records = recorder(metrics, tracing, models={"iris": a_model(offer)}, most=10**6)
        spans = [[Told().inference_span(str(n), {})[0] for _ in range(500)] for n in range(8)]
        still = threading.Event()
        still.set()

        def put(number: int) -> None:
            for turn, span in enumerate(spans[number]):
                record = asked(2, sampled=([number * 500 + turn, 0],))
                record.spans.append(span)
                records.put(record)

        def fold() -> None:
            while still.is_set():
                records.fold()

        with ThreadPoolExecutor(10) as pool:
            folding = [pool.submit(fold) for _ in range(2)]
            putting = [pool.submit(put, number) for number in range(8)]
            for done in putting:
                done.result()
            still.clear()
            for done in folding:
                done.result()

        assert value(metrics, COUNT) == 4000
        assert value(metrics, ROWS) == 8000
        assert value(metrics, "mlguard_drift_rows_sampled_total") == 4000
        assert offered == Counter(range(4000))
        handed = Counter(id(span) for batch in tracing.batches for span in batch)
        assert handed == Counter(id(span) for thread in spans for span in thread)


class TestBounds:
    def test_no_more_than_there_is_room_for(self, metrics: Metrics) -> None:
        """What does not fit is dropped and counted; what waits is not."""
        records = recorder(metrics, most=3)
        for _ in range(5):
            records.put(asked())

        assert value(metrics, "mlguard_records_dropped_total") == 2
        assert value(metrics, COUNT) == 3

    def test_there_is_room_again(self, metrics: Metrics) -> None:
        """When what waited is folded there is room again."""
        records = recorder(metrics, most=1)
        for _ in range(3):
            records.put(asked())
            records.fold()

        assert value(metrics, "mlguard_records_dropped_total") == 0
        assert value(metrics, COUNT) == 3

    def test_a_request_is_answered_all_the_same(self) -> None:
        """A request whose record is dropped is in flight no longer."""
        guard = guarded()
        guard.parts.recorder._most = 0

        assert served(guard, 1) is None
        assert value(guard.parts.metrics, COUNT) == 0
        assert value(guard.parts.metrics, "http_server_active_requests") == 0


class TestFailures:
    DEGRADED = "mlguard_degraded"

    def test_observers_fail_open(self, metrics: Metrics, caplog: pytest.LogCaptureFixture) -> None:
        """What cannot be observed is said in a metric and the log, and the others are observed."""

        def broken(*_: object) -> bool:
            raise OSError("no room at all")

        records = recorder(metrics, models={"iris": a_model(broken)})
        records.put(asked(1, sampled=([1, 2],)))
        records.put(asked(1, sampled=([1, 2],)))

        assert value(metrics, COUNT) == 2
        assert value(metrics, self.DEGRADED, part="observers") == 1
        assert [r.getMessage() for r in caplog.records] == [
            "a request was not observed: OSError('no room at all')"
        ]

    def test_observers_that_work_again(self, metrics: Metrics) -> None:
        """When something is observed again, that is said too."""
        outcomes = iter([OSError("for a while"), None])

        def shaky(*_: object) -> bool:
            if error := next(outcomes):
                raise error
            return True

        records = recorder(metrics, models={"iris": a_model(shaky)})
        records.put(asked(1, sampled=([1, 2],)))
        assert value(metrics, self.DEGRADED, part="observers") == 1

        records.put(asked(1, sampled=([1, 2],)))
        assert value(metrics, self.DEGRADED, part="observers") == 0

    def test_rows_that_cannot_be_sampled(self, metrics: Metrics) -> None:
        """What fails where the request ends is said in the same way."""
        records = recorder(metrics)

        records.failed(TypeError("a set"))

        assert value(metrics, self.DEGRADED, part="observers") == 1


def test_a_batch_wakes(metrics: Metrics) -> None:
    """Where many requests come, somebody is woken once for each batch, and waits for nobody."""
    woken: list[None] = []
    records = recorder(metrics, wake=lambda: woken.append(None))

    for _ in range(BATCH):
        records.put(asked())
    assert woken == []
    for _ in range(10):
        records.put(asked())

    assert len(woken) == 1


def test_spans_that_are_not_taken(metrics: Metrics) -> None:
    """Whatever fails with the spans, what comes next is told."""

    class Broken(Told):
        def take(self, spans: Any) -> None:
            raise OSError("of a span")

    records = recorder(metrics, Broken())
    records.put(Record("GET", "/", 200, spans=[Told().inference_span("1", {})[0]]))
    records.fold()
    records.put(Record("GET", "/", 200))

    assert value(metrics, COUNT) == 2


def test_a_fork(metrics: Metrics) -> None:
    """What waits at a fork is told by the parent alone."""
    records = recorder(metrics)
    records.put(asked())

    records.forked()

    assert value(metrics, COUNT) == 0
