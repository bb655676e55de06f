"""Is there one server span a request, whoever else instruments the app?"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import servers
from tests.endings.runs import Runs, serving, settings
from tests.endings.service import SECRET, Collector, Ended, leaks
from tests.endings.table import ENDINGS

pytestmark = pytest.mark.xdist_group("spans")

PARENT = "b7ad6b7169203331"  # what each client of the harness says
LAUNCHER = Path(sys.executable).with_name("opentelemetry-instrument")
ASKED = (
    "a-plain-answer",
    "a-models-answer",
    "a-mounted-app",
    "no-route",
    "no-such-method",
    "an-http-exception",
    "an-exception",
    "a-models-exception",
    "a-stream",
    "a-stream-that-fails-late",
    "a-client-that-leaves-a-stream",
)


@dataclass(frozen=True)
class Traced:
    """A way to be instrumented.

    Attributes:
        env: Variables that bring it about; `{collector}` is where spans are to go.
        launcher: A command that brings it about.
        is_their_own: Whether the app's own instrumentation makes the spans: what it writes on them
            is its own business, of which the kit's log warns.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    launcher: tuple[str, ...] = ()
    is_their_own: bool = False


_TO_COLLECTOR = {
    "OTEL_EXPORTER_OTLP_ENDPOINT": "{collector}",
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    "OTEL_BSP_SCHEDULE_DELAY": "200",
    "OTEL_BLRP_SCHEDULE_DELAY": "200",
}
_LAUNCHED = (
    str(LAUNCHER),
    *("--traces_exporter", "otlp_proto_http"),
    *("--metrics_exporter", "none"),
    *("--logs_exporter", "none"),
)
_BOTH = {
    "plain": Traced(),
    "before-with-provider": Traced(_TO_COLLECTOR, is_their_own=True),
    "before-without-provider": Traced(),
    "class-wide-without-provider": Traced(),
    "launched": Traced(_TO_COLLECTOR, _LAUNCHED, is_their_own=True),
}
TRACED = {
    **{f"fastapi-{name}": traced for name, traced in _BOTH.items()},
    "fastapi-auto-configured": Traced(
        {**_TO_COLLECTOR, "FASTAPI_OTEL_AUTO_CONFIGURE": "true"}, is_their_own=True
    ),
    **{f"flask-{name}": traced for name, traced in _BOTH.items()},
}


KEEPS_200 = ("fastapi-auto-configured",)
"""FastAPI's own telemetry writes the status that was sent, after us, when the client has left."""


class Found(NamedTuple):
    """What came of it.

    Attributes:
        ended: By the ending's name.
        log: What the server wrote.
        others: What it sent beside spans.
    """

    ended: dict[str, Ended]
    log: str
    others: list[bytes]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs[Found]]:
    """Some endings, however the app is instrumented."""
    folder = tmp_path_factory.mktemp("spans")
    params = [getattr(item, "callspec", None) for item in request.session.items]
    asked = {p.params["traced"] for p in params if p is not None and "traced" in p.params}

    def run(name: str) -> Found:
        framework, _, how = name.partition("-")
        traced, ended = TRACED[name], {}
        start = {"fastapi": servers.uvicorn, "flask": servers.gunicorn}[framework]
        env = {k: v.format(collector=collector.url) for k, v in traced.env.items()}
        said = settings(collector.url, service={"name": name, "host_file": False})
        with serving(
            partial(start, launcher=traced.launcher),
            f"tests.endings.traced_{framework}:app",
            folder=folder / name,
            collector=collector,
            said=said,
            env={"ENDINGS_TRACED": how, "OTEL_SERVICE_NAME": name, **env},
        ) as service:
            for ending in ASKED:
                act = ENDINGS[ending].act
                ended[ending] = service.watch(
                    lambda who, trace, act=act: act(service, who, trace), name=ending
                )
        service.find_spans(list(ended.values()))
        others = [post for post in collector.others if name.encode() in post]
        return Found(ended, service.server.log(), others)

    runs = Runs(sorted(asked), run)
    yield runs
    runs.close()


CASES = [
    pytest.param(traced, ending, id=f"{traced}-{ending}") for traced in TRACED for ending in ASKED
]


@pytest.mark.parametrize(("traced", "ending"), CASES)
def test_one_server_span(runs: Runs[Found], traced: str, ending: str) -> None:
    """Never two and never none; it has the metric's status, the decision and the right parent."""
    ended = runs[traced].ended[ending]
    spans: list[dict[str, Any]] = [span["attributes"] for span in ended.spans]

    assert [span["parent_id"] for span in ended.spans] == [PARENT]
    assert [span.get("mlguard.decision") for span in spans] == ["allow"]
    assert [span.get("http.response.status_code") for span in spans] == [
        record.status if traced not in KEEPS_200 or record.status != 499 else 200
        for record in ended.records
    ]


@pytest.mark.parametrize("traced", TRACED)
def test_the_inference_is_below_it(runs: Runs[Found], traced: str) -> None:
    """The inference's span hangs in the trace, below the server's span."""
    ended = runs[traced].ended["a-models-answer"]
    above = {span["span_id"]: span["parent_id"] for span in ended.trace}
    (inference,) = (span for span in ended.trace if span["name"] == "inference sum")

    ways = [inference["span_id"]]
    while ways[-1] in above:
        ways.append(above[ways[-1]])
    assert ways[-1] == PARENT
    assert ended.spans[0]["span_id"] in ways


@pytest.mark.parametrize(("traced", "ending"), CASES)
def test_no_span_tells(runs: Runs[Found], traced: str, ending: str) -> None:
    """No value of a query, no message, no stack: or the start-up log says whose they are."""
    found = runs[traced]
    ended = found.ended[ending]

    assert not leaks([span for span in ended.trace if span["scope"].startswith("mlguard")])
    told = leaks(ended.trace)
    assert not told or (TRACED[traced].is_their_own and "instrument" in found.log.lower())


@pytest.mark.parametrize("traced", TRACED)
def test_nothing_else_tells(runs: Runs[Found], traced: str) -> None:
    """Nothing is sent beside spans that shows more than they may."""
    found = runs[traced]
    told = [post for post in found.others if SECRET.encode() in post or b"Traceback" in post]

    assert not told or (TRACED[traced].is_their_own and "instrument" in found.log.lower())
