"""Is a refusal a refusal, wherever it is raised and whatever would catch it?"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest

from tests import servers
from tests.endings.runs import Runs, serving, settings
from tests.endings.service import Collector, Ended, Service, leaks
from tests.endings.wire import Got

pytestmark = pytest.mark.xdist_group("refusals")

_EVERYWHERE = ("/plain", "/decorated", "/group", "/stream/unsent", "/stream/empty")


class Framework(NamedTuple):
    """Where handlers are refused.

    Attributes:
        start: Starts the server.
        app: What it serves.
        apps: The apps below it, each with what catches more than it should.
        routes: Where a handler is refused, in every app.
        more: The same in one app.
    """

    start: Any
    app: str
    apps: tuple[str, ...]
    routes: tuple[str, ...]
    more: tuple[tuple[str, str], ...] = ()

    @property
    def cases(self) -> list[tuple[str, str]]:
        return [*((app, route) for app in self.apps for route in self.routes), *self.more]


FRAMEWORKS = {
    "fastapi": Framework(
        partial(servers.uvicorn, ready="/plain/health"),
        "tests.endings.refusing_fastapi:app",
        ("plain", "catchall", "http_handler", "middleware"),
        (*_EVERYWHERE, "/thread", "/dependency", "/group/anyio", "/stream/unsent/thread"),
    ),
    "flask": Framework(
        partial(servers.gunicorn, ready="/plain/health"),
        "tests.endings.refusing_flask:app",
        ("plain", "catchall", "http_handler", "restx", "restful"),
        (*_EVERYWHERE, "/class", "/blueprint/plain", "/stream/unsent/context"),
        (("restx", "/resource"), ("restful", "/resource")),
    ),
}
SENT = "/stream/sent"
CASES = [
    pytest.param(name, *case, id="".join((name, "-", *case)))
    for name, framework in FRAMEWORKS.items()
    for case in framework.cases
]
STREAMS = [
    pytest.param(name, app, id=f"{name}-{app}")
    for name, framework in FRAMEWORKS.items()
    for app in framework.apps
]

Found = dict[tuple[str, str], Ended]


@pytest.fixture(scope="module")
def runs(collector: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs[Found]]:
    """Every refusal, on both frameworks."""
    folder = tmp_path_factory.mktemp("refusals")
    quotas = {"rows": ["10/hour"], "concurrency": 1}
    said = settings(collector.url, models=[{"name": "own"}], quotas=quotas)

    def run(name: str) -> Found:
        framework, found = FRAMEWORKS[name], {}
        with serving(
            framework.start, framework.app, folder=folder / name, collector=collector, said=said,
            prefix="/plain",
        ) as service:  # fmt: skip
            apps = {
                app: Service(service.server, collector, folder / name / "gates", f"/{app}")
                for app in framework.apps
            }
            for app, route in [*framework.cases, *((app, SENT) for app in framework.apps)]:
                found[app, route] = refused(apps[app], route)
            for one in apps.values():
                one.exported()
        service.find_spans(list(found.values()))
        return found

    runs = Runs(FRAMEWORKS, run)
    yield runs
    runs.close()


def refused(service: Service, route: str) -> Ended:
    """Ask for one row more than the caller has."""
    caller = f"spent{service.prefix}{route}"
    assert service.ask("GET", "/spend", subject=caller).status == 200
    return service.watch(
        lambda subject, trace_id: service.ask("GET", route, subject=subject, trace_id=trace_id),
        subject=caller,
        page=f"{service.prefix}/metrics",
    )


def face(got: Got) -> tuple[int, dict[str, str], Any]:
    """What is the same for everybody who is refused: all but trace and seconds."""
    of_servers = {"date", "server", "connection", "keep-alive"}
    headers = {n: re.sub(r"\b(t=|)\d+\b", "N", v) for n, v in got.headers if n not in of_servers}
    try:
        body = {k: v for k, v in json.loads(got.body).items() if k != "trace_id"}
    except ValueError:
        body = {"not": got.body}
    return got.status, headers, body


def said(ended: Ended) -> dict[str, Any]:
    """What metrics and the server span say."""
    spans = [span["attributes"] for span in ended.spans]
    return {
        "records": {(record.status, record.route): n for record, n in ended.records.items()},
        "refused": dict(ended.refused),
        "errors": dict(ended.errors),
        "decisions": [(s.get("mlguard.decision"), s.get("mlguard.deny.code")) for s in spans],
        "statuses": [(s.get("http.response.status_code"), s.get("http.route")) for s in spans],
        "failed": [span["failed"] for span in ended.spans],
        "in flight": (ended.active, ended.is_slot_free),
    }


def expected(status: int, route: str) -> dict[str, Any]:
    return {
        "records": {(status, route): 1},
        "refused": {("own", "quota_exceeded"): 1},
        "errors": {},
        "decisions": [("deny", "quota_exceeded")],
        "statuses": [(status, route)],
        "failed": [False],
        "in flight": (0, True),
    }


@pytest.mark.parametrize(("framework", "app", "route"), CASES)
def test_the_refusal_is_the_answer(runs: Runs[Found], framework: str, app: str, route: str) -> None:
    """Status, headers and body are those of a plain refusal, with the trace of its own request."""
    ended = runs[framework][app, route]

    assert face(ended.got) == face(runs[framework]["plain", "/plain"].got)
    assert ended.got.status == 429
    assert json.loads(ended.got.body)["trace_id"] == ended.trace_id


@pytest.mark.parametrize(("framework", "app", "route"), CASES)
def test_the_refusal_is_counted(runs: Runs[Found], framework: str, app: str, route: str) -> None:
    """Metrics and span say that it was refused, and of nothing that failed."""
    ended = runs[framework][app, route]

    assert said(ended) == expected(429, route)
    assert not leaks(ended.trace)


@pytest.mark.parametrize(("framework", "app"), STREAMS)
def test_a_stream_that_has_begun(runs: Runs[Found], framework: str, app: str) -> None:
    """A refusal amid a stream cuts it, and the span says which."""
    ended = runs[framework][app, SENT]

    assert (ended.got.status, ended.got.body, ended.got.is_whole) == (200, b"one", False)
    found, wanted = said(ended), expected(200, SENT)
    # Whether a stream that was cut on purpose is a failed one is not for this test to say.
    assert {**found, "failed": []} == {**wanted, "failed": []}


def test_both_frameworks_say_the_same(runs: Runs[Found]) -> None:
    """The twins refuse with the same bytes."""
    fastapi, flask = (runs[name]["plain", "/plain"] for name in ("fastapi", "flask"))

    assert face(fastapi.got) == face(flask.got)
    assert said(fastapi) == said(flask)
