"""Does every request end exactly once, and as the client saw it?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.endings.runs import Runs, serving
from tests.endings.service import AGAIN, Collector, Ended, leaks
from tests.endings.table import ENDINGS, HOLD, LEFT, SERVED, Ending, Served

pytestmark = pytest.mark.xdist_group("endings")

LAST = "the last request"
PAIRS = [
    pytest.param(name, ending, id=f"{name}-{ending}")
    for name, served in SERVED.items()
    for ending, how in ENDINGS.items()
    if how.only in ("", served.framework) and ending not in served.lacks
    if ending in (served.takes or ENDINGS)
]


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs[dict[str, Ended]]]:
    """Every ending that is asked for, on every server that is asked for."""
    asked: dict[str, dict[str, None]] = {}
    for item in request.session.items:
        params = getattr(getattr(item, "callspec", None), "params", {})
        if item.path == request.path and "served" in params:
            asked.setdefault(params["served"], {})[params["ending"]] = None
        elif "last_of" in params:
            asked.setdefault(params["last_of"], {})
    folder = tmp_path_factory.mktemp("endings")

    def run(name: str) -> dict[str, Ended]:
        served = SERVED[name]
        with serving(
            served.start, served.app, folder=folder / name, collector=collector,
            env=served.env, prefix=served.prefix, is_drained=False,
        ) as service:  # fmt: skip
            ended = {
                ending: service.watch(
                    lambda who, trace, how=ENDINGS[ending]: how.act(service, who, trace),
                    name=ending,
                )
                for ending in asked[name]
            }
            last = service.ask_last()
        service.find_spans([*ended.values(), last])
        return {**ended, LAST: last}

    runs = Runs(asked, run)
    yield runs
    runs.close()


@pytest.mark.parametrize(("served", "ending"), PAIRS)
def test_an_ending(runs: Runs[dict[str, Ended]], served: str, ending: str) -> None:
    """It is counted once, as its only server span says, and its caller may ask again."""
    server, how = SERVED[served], ENDINGS[ending]
    ended = runs[served][ending]

    counted = [record for record, n in ended.records.items() for _ in range(n)]
    assert said_by(ended.spans) == [(record.status, record.route) for record in counted]
    assert len(counted) == 1
    assert (ended.active, ended.is_slot_free) == (0, True)
    (record,) = counted
    assert record.method == how.method
    assert record.status in allowed(server, how, ended)
    assert how.got is None or ended.got.status in how.got or is_lost(how, ended)
    assert how.route is None or record.route == server.prefix + how.route


@pytest.mark.parametrize(("served", "ending"), PAIRS)
def test_what_went_wrong(runs: Runs[dict[str, Ended]], served: str, ending: str) -> None:
    """Metric and span name the class of what was raised, and nothing that it said."""
    how = ENDINGS[ending]
    ended = runs[served][ending]

    if not is_unclear(SERVED[served], how):
        assert named(ended.spans) == [(how.error_type is not None, how.error_type)]
    assert ended.errors == ({("sum", "LookupError"): 1} if how.model_fails else {})
    assert not leaks(ended.trace)
    assert ended.got.is_whole is not True or not how.is_cut


@pytest.mark.parametrize(
    ("served", "ending"), [pair for pair in PAIRS if ENDINGS[pair.values[1]].is_held]
)
def test_a_streams_time(runs: Runs[dict[str, Ended]], served: str, ending: str) -> None:
    """It lasts until its last byte, by the metric and by the span."""
    ended = runs[served][ending]

    assert ended.got.body == b"onetwo"
    assert ended.seconds >= HOLD
    assert [s["end"] - s["start"] >= HOLD * 1e9 for s in ended.spans] == [True]


@pytest.mark.parametrize("last_of", [name for name, s in SERVED.items() if s.lets_exit])
def test_the_last_span(runs: Runs[dict[str, Ended]], last_of: str) -> None:
    """A service that is told to end sends its last span first."""
    last = runs[last_of][LAST]

    assert said_by(last.spans) == [(200, SERVED[last_of].prefix + AGAIN)]


def allowed(served: Served, how: Ending, ended: Ended) -> set[int]:
    """Say which statuses may be counted."""
    seen = ended.got.status or 500
    if how.leaves == "":
        return {seen, 200} if is_lost(how, ended) else {seen}
    if how.leaves == "sending":
        # In WSGI the last chunk is the server's before it is sent.
        return {seen, LEFT} if served.framework == "fastapi" else {seen, LEFT, 200}
    tells = served.tells_leaving if how.leaves == "plain" else served.tells_streams_leaving
    return {LEFT} if tells else {LEFT, 200}


def is_lost(how: Ending, ended: Ended) -> bool:
    """Whether a head that the server had was lost with the stream that failed behind it."""
    return how.is_cut and not ended.got.status


def named(spans: list[dict[str, Any]]) -> list[tuple[bool, str | None]]:
    """What server spans say went wrong; a client that left is nothing wrong."""
    return [(span["failed"], span["attributes"].get("error.type")) for span in spans]


def is_unclear(served: Served, how: Ending) -> bool:
    """Whether nobody can tell a client that left from something that broke."""
    is_swallowed = how.leaves == "stream" and not served.tells_streams_leaving
    return how.leaves == "sending" or is_swallowed


def said_by(spans: list[dict[str, Any]]) -> list[tuple[int, str]]:
    """What server spans say of status and route."""
    attributes = [span["attributes"] for span in spans]
    return [(a.get("http.response.status_code"), a.get("http.route", "")) for a in attributes]
