"""Is the model's time the model's own?"""

from __future__ import annotations

import json
from contextlib import ExitStack
from time import monotonic
from typing import NamedTuple

import pytest

from tests import servers
from tests.endings.runs import serving
from tests.endings.service import Collector, Scrape, Service, new_trace

pytestmark = pytest.mark.xdist_group("time")

THREADS = 40  # of anyio's limiter, in which FastAPI runs `def` handlers
ASKED = 2 * THREADS
HOLD = 0.5  # seconds for which every thread is kept, at least
SLACK = 0.2  # of what all waited together, that may be counted wrongly
MODEL = {"model": "sum", "version": "3"}


class Saturated(NamedTuple):
    """What was measured while every thread was kept.

    Attributes:
        statuses: What the clients got.
        scrape: What the metrics say afterwards.
        own: Seconds that the model took by its own clock, all calls together.
        held: Seconds for which those without a thread waited at least, each.
        inferences: Seconds that each inference's span lasted.
    """

    statuses: list[int]
    scrape: Scrape
    own: float
    held: float
    inferences: list[float]


@pytest.fixture(scope="module")
def saturated(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Saturated:
    folder = tmp_path_factory.mktemp("time") / "saturated"
    trace_id = new_trace()
    with serving(
        servers.uvicorn, "tests.endings.saturated:app", folder=folder, collector=collector
    ) as service:
        with ExitStack() as stack:
            wires = [
                stack.enter_context(
                    service.open(
                        "POST", "/predict", subject=f"thread-{n}", trace_id=trace_id,
                        body=b'{"instances": [[1, 2]]}',
                    )
                )
                for n in range(ASKED)
            ]  # fmt: skip
            servers.wait_until(
                lambda: service.scrape().one("http_server_active_requests") == ASKED,
                "all have arrived",
            )
            servers.wait_until(lambda: inside(service)[0] == THREADS, "every thread is kept")
            since = monotonic()
            servers.wait_until(lambda: monotonic() - since > HOLD, "they were held")
            held = monotonic() - since
            service.ask("GET", "/open", subject="opens")
            statuses = [wire.rest().status for wire in wires]
        scrape, own = service.scrape(), inside(service)[1]
    spans = [s for s in collector.trace(trace_id) if s["name"] == "inference sum"]
    return Saturated(statuses, scrape, own, held, [(s["end"] - s["start"]) / 1e9 for s in spans])


def inside(service: Service) -> tuple[int, float]:
    found = json.loads(service.ask("GET", "/inside", subject="looks").body)
    return found["inside"], found["taken"]


def test_waiting_for_a_thread_is_not_inference(saturated: Saturated) -> None:
    """All inferences together took what the model itself says."""
    measured = saturated.scrape.one("mlguard_inference_duration_seconds_sum", **MODEL)
    waited = saturated.held * THREADS

    assert saturated.statuses == [200] * ASKED
    assert saturated.scrape.one("mlguard_inference_duration_seconds_count", **MODEL) == ASKED
    assert abs(measured - saturated.own) < SLACK * waited


def test_waiting_for_a_thread_is_told_apart(saturated: Saturated) -> None:
    """What the others waited is a metric of its own."""
    name = "mlguard_inference_wait_seconds"
    waited = saturated.scrape.one(f"{name}_sum", **MODEL)

    assert saturated.scrape.one(f"{name}_count", **MODEL) == ASKED
    assert waited >= saturated.held * THREADS


def test_spans_tell_the_same(saturated: Saturated) -> None:
    """The inference's span begins when the model does."""
    waited = saturated.held * THREADS

    assert len(saturated.inferences) == ASKED
    assert abs(sum(saturated.inferences) - saturated.own) < SLACK * waited
