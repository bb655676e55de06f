"""Is a WebSocket one request, from its handshake to its end?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from time import monotonic
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests import servers
from tests.endings.runs import Runs, serving
from tests.endings.service import Collector, Ended, Service, leaks, token_of
from tests.endings.table import HOLD
from tests.endings.wire import Got

pytestmark = pytest.mark.xdist_group("sockets")

SERVERS = {"uvicorn": servers.uvicorn, "hypercorn": servers.hypercorn, "granian": servers.granian}


def _talk(socket: ClientConnection) -> None:
    """Stay for a while, and close."""
    since = monotonic()
    while monotonic() - since <= HOLD:
        socket.send("secret-text")
        assert socket.recv(5) == "secret-text"


def _drop(socket: ClientConnection) -> None:
    """Stay for a while, and die."""
    _talk(socket)
    socket.socket.close()


def _break(socket: ClientConnection) -> None:
    """Stay for a while, and make the handler fail."""
    _talk(socket)
    socket.send("break")
    with suppress(ConnectionClosed):
        socket.recv(5)


ENDINGS: dict[str, tuple[str, Callable[[ClientConnection], None], int]] = {
    "the-client-closes": ("/ws", _talk, 101),
    "the-client-dies": ("/ws", _drop, 101),
    "the-handler-fails": ("/ws", _break, 101),
    "the-handler-refuses": ("/closed", _talk, 403),
    "no-route": ("/nowhere", _talk, 403),
}
CASES = [
    pytest.param(server, ending, id=f"{server}-{ending}")
    for server in SERVERS
    for ending in ENDINGS
]


def act(service: Service, ending: str, subject: str, trace_id: str) -> Got:
    path, talk, _ = ENDINGS[ending]
    url = service.server.url.replace("http", "ws", 1)
    headers = {
        "Authorization": f"Bearer {token_of(subject)}",
        "traceparent": f"00-{trace_id}-b7ad6b7169203331-01",
    }
    try:
        with connect(f"{url}{path}/7", additional_headers=headers, proxy=None) as socket:
            talk(socket)
    except InvalidStatus as refusal:
        return Got(refusal.response.status_code)
    return Got(101)


@pytest.fixture(scope="module")
def runs(
    collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Runs[dict[str, Ended]]]:
    """Every ending of a WebSocket, on every ASGI server."""
    folder = tmp_path_factory.mktemp("sockets")

    def run(name: str) -> dict[str, Ended]:
        with serving(
            SERVERS[name], "tests.endings.served_fastapi:app", folder=folder / name,
            collector=collector,
        ) as service:  # fmt: skip
            ended = {
                ending: service.watch(
                    lambda who, trace, ending=ending: act(service, ending, who, trace), name=ending
                )
                for ending in ENDINGS
            }
        service.find_spans(list(ended.values()))
        return ended

    runs = Runs(SERVERS, run)
    yield runs
    runs.close()


@pytest.mark.parametrize(("server", "ending"), CASES)
def test_a_session(runs: Runs[dict[str, Ended]], server: str, ending: str) -> None:
    """It is counted once, when it ends, as its only server span says."""
    ended = runs[server][ending]
    path, _, status = ENDINGS[ending]
    route = f"{path}/{{room}}" if path != "/nowhere" else ""

    assert ended.got.status == status
    assert {(r.status, r.route): n for r, n in ended.records.items()} == {(status, route): 1}
    assert [told(span) for span in ended.spans] == [(status, route)]
    assert (ended.active, ended.is_slot_free) == (0, True)
    assert not leaks(ended.trace)


@pytest.mark.parametrize(
    ("server", "ending"), [case for case in CASES if ENDINGS[str(case.values[1])][2] == 101]
)
def test_a_sessions_time(runs: Runs[dict[str, Ended]], server: str, ending: str) -> None:
    """It lasts as long as the session, by the metric and by the span."""
    ended = runs[server][ending]

    assert ended.seconds >= HOLD
    assert [span["end"] - span["start"] >= HOLD * 1e9 for span in ended.spans] == [True]
    assert [span["failed"] for span in ended.spans] == [ending == "the-handler-fails"]


def told(span: dict[str, Any]) -> tuple[Any, Any]:
    """The status and the route that a span tells."""
    attributes = span["attributes"]
    return attributes.get("http.response.status_code"), attributes.get("http.route", "")
