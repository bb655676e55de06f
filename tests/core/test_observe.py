"""What happens where nothing is refused, only told? Without a framework."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from mlguard.guard import Guard
from mlguard.messages import Cut
from mlguard.settings import load
from tests.core.guards import (
    SETTINGS,
    Drive,
    answered,
    call,
    guarded,
    in_a_thread,
    instances,
    metric,
    on_a_loop,
    sent,
)

OBSERVING: dict[str, Any] = {**SETTINGS, "service": {"mode": "observe", "max_body": 10_000}}
TOLD = "mlguard_observed_refusals_total"


def test_by_the_environment() -> None:
    """The mode is a setting like any other."""
    settings = load({}, environ={"MLGUARD_SERVICE__MODE": "observe"})

    assert settings.service.mode == "observe"


@pytest.mark.parametrize("decide", [in_a_thread, on_a_loop])
def test_what_is_refused_costs_nothing(decide: Drive) -> None:
    """A request that would be refused is seen, and its rows are nobody's."""
    guard = guarded(OBSERVING)
    for rows in (90, 20, 10):
        exchange = guard.open(call())
        assert decide(exchange, "/predict", instances(rows)) is None
        assert answered(exchange) is None

    assert metric(guard, TOLD, model="iris", code="quota_exceeded") == 1
    assert metric(guard, "mlguard_inference_rows_total", model="iris") == 120
    assert metric(guard, "mlguard_quota_refused_total") == 0


@pytest.mark.parametrize("body", [b"", b"{", Cut.TOO_LARGE], ids=["none", "junk", "cut"])
def test_bodies_that_nobody_reads(body: bytes | Cut) -> None:
    """Whatever a body is, the model that it would ask is seen."""
    guard = guarded(OBSERVING)
    exchange = guard.open(call(None))

    assert in_a_thread(exchange, "/predict", body) is None
    answered(exchange)
    assert metric(guard, TOLD, code="token_missing") == 1
    assert metric(guard, "mlguard_inference_duration_seconds_count", model="iris") == 1


@pytest.mark.parametrize(
    ("body", "rows"),
    [
        ({"left": [1, 2], "right": [3]}, {"left": 2, "right": 1}),
        ({"left": [1, 2]}, {"left": 2}),
    ],
)
def test_models_that_share_a_route(body: dict[str, Any], rows: dict[str, int]) -> None:
    """Of several models, those are seen that the body asks."""
    models = [{"name": name, "route": "/both", "inputs": name} for name in ("left", "right")]
    guard = guarded({**OBSERVING, "models": models})
    exchange = guard.open(call(None))

    assert in_a_thread(exchange, "/both", json.dumps(body).encode()) is None
    answered(exchange)
    for name in ("left", "right"):
        seen = metric(guard, "mlguard_inference_rows_total", model=name)
        assert seen == rows.get(name, 0)


def test_a_request_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """The first refusal of a request counts, and the log says each kind once."""
    guard = guarded(OBSERVING)
    with caplog.at_level(logging.WARNING, "mlguard"):
        for _ in range(3):
            exchange = guard.open(call(None))
            in_a_thread(exchange, "/predict", instances(1))
            with guard.handling(exchange):
                guard.demand(frozenset(["admin"]))
            answered(exchange)

    assert metric(guard, TOLD) == metric(guard, TOLD, code="token_missing") == 3
    texts = [record.getMessage() for record in caplog.records]
    told = "observing only: a request would have been refused with 401 token_missing: "
    assert [t for t in texts if t.startswith("obs")] == [f"{told}A bearer token is required."]


def test_spans() -> None:
    """The server span says what the decision would have been."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    source = {**OBSERVING, "tracing": {"endpoint": "console"}}
    guard = guarded(source, provider)
    exchange = guard.open(call(None))
    with provider.get_tracer("test").start_as_current_span("POST", kind=SpanKind.SERVER):
        exchange.open_span()
        in_a_thread(exchange, "/health", b"")
        exchange = guard.open(call(None))
        exchange.open_span()
        in_a_thread(exchange, "/me", b"")
        sent(exchange, 200)

    told = exporter.get_finished_spans()[-1].attributes or {}
    assert told["mlguard.decision"] == "would_deny"
    assert told["mlguard.deny.code"] == "token_missing"


def test_routes_of_the_kit_stay_closed() -> None:
    """What the kit adds to an app was open to nobody before."""
    feedback = {"feedback": {"route": "/feedback"}}
    models = [{"name": "iris", "task": "regression"}]
    guard: Guard = guarded({**OBSERVING, "models": models, **feedback})
    exchange = guard.open(call(None))
    deny = in_a_thread(exchange, "/feedback", b"")

    assert deny is not None
    assert deny.code == "token_missing"
    assert in_a_thread(guard.open(call(None)), "/me", b"") is None
    exchange = guard.open(call(None, uri=1_000_000))
    assert exchange.opened() is None
    deny = in_a_thread(exchange, "/feedback", b"")
    assert deny is not None
    assert deny.code == "token_missing"


def test_outside_of_a_request() -> None:
    """A handler that is called by nobody is not stopped either."""
    guarded(OBSERVING).demand(frozenset(["admin"]))
