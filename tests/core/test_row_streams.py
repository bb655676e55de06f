"""Does each sampled row of all hosts get judged once? A real Redis, alone and as a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import pytest

from mlguard.analyst.config import DriftModel
from mlguard.analyst.sender import RowSender
from mlguard.app.service import Service
from mlguard.drift.hashing import CategoryHash
from mlguard.ledger import StoreUnavailable
from mlguard.redis import rows as module
from mlguard.redis.rows import RowStreams
from mlguard.reference import Reference
from tests.redis_servers import Cluster, Redis
from tests.servers import wait_until

IRIS = ("iris", "3")
Make = Callable[..., RowStreams]


@pytest.fixture(scope="module", params=["single", "cluster"])
def url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("redis")
    with Redis(folder) if request.param == "single" else Cluster(folder) as server:
        yield server.url


@pytest.fixture
def make(url: str) -> Iterator[Make]:
    made: list[RowStreams] = []
    service = uuid4().hex

    def streams(**more: Any) -> RowStreams:
        made.append(RowStreams(url, service, **more))
        return made[-1]

    yield streams
    for each in made:
        each.close()


def texts(streams: RowStreams, after: str = "0-0", most: int = 100) -> list[str]:
    return [row.written for row in streams.read(*IRIS, after, most)]


def test_rows_come_in_their_order_from_all_hosts(make: Make) -> None:
    """Whoever reads gets every host's rows, the oldest first, and goes on behind the last."""
    one, other = make(), make()

    assert (one.put(*IRIS, ["a", "b"]), other.put(*IRIS, ["c"])) == (2, 1)

    assert texts(make()) == ["a", "b", "c"]
    second = one.read(*IRIS, "0-0", 2)[-1].id
    assert texts(one, second) == ["c"]
    assert one.read("iris", "4", "0-0", 9) == []


def test_only_so_many_wait(make: Make) -> None:
    """What there is no room for is not taken, and whoever put it knows."""
    streams = make(most=3)

    assert [streams.put(*IRIS, ["a", "b"]), streams.put(*IRIS, ["c", "d"])] == [2, 1]
    assert streams.put(*IRIS, ["e"]) == 0
    assert texts(streams) == ["a", "b", "c"]


def test_one_judges(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another may when the one has left, or has given no sign of life for the lease's time."""
    one, other = make(), make()

    assert one.claim(*IRIS) == ("0-0", 0, "")
    assert one.claim(*IRIS) is not None
    assert other.claim(*IRIS) is None
    assert other.claim("iris", "4") is not None

    one.leave(*IRIS)
    monkeypatch.setattr(module, "LEASE", 0.05)
    assert other.claim(*IRIS) is not None
    wait_until(lambda: one.claim(*IRIS) is not None, "the lease is over")


def test_a_window_is_judged_once(make: Make) -> None:
    """Two who filled the same window: what the first says stands; its rows are gone."""
    one, other = make(), make()
    one.put(*IRIS, ["a", "b", "c"])
    judged = one.claim(*IRIS)
    assert judged is not None
    last = one.read(*IRIS, judged.last, 2)[-1].id
    one.leave(*IRIS)
    assert other.claim(*IRIS) == judged

    assert one.close_window(*IRIS, judged, last, "mine") is None
    assert other.close_window(*IRIS, judged, last, "yours") == (last, 1, "yours")
    assert other.close_window(*IRIS, judged, last, "again") is None

    assert texts(one) == ["c"]
    other.leave(*IRIS)
    assert one.claim(*IRIS) == (last, 1, "yours")


def test_whoever_starts_anew_goes_on_where_another_stopped(make: Make) -> None:
    """Rows of a window that was not closed are still there."""
    one = make()
    one.put(*IRIS, ["a", "b"])
    assert one.claim(*IRIS) is not None
    assert texts(one) == ["a", "b"]
    one.leave(*IRIS)

    other = make()
    judged = other.claim(*IRIS)
    assert judged is not None
    assert texts(other, judged.last) == ["a", "b"]


def test_a_redis_that_is_gone(make: Make, tmp_path: Any) -> None:
    """It is an error that names it, without its password."""
    streams = RowStreams("redis://:secret@127.0.0.1:1/0", "x", timeout=0.5)

    with pytest.raises(StoreUnavailable, match=r"127\.0\.0\.1:1") as caught:
        streams.put(*IRIS, ["a"])

    assert "secret" not in str(caught.value)


def test_rows_can_be_forgotten(make: Make) -> None:
    """What waits is deleted, of one model."""
    streams = make()
    streams.put(*IRIS, ["a", "b"])
    streams.put("iris", "4", ["c"])

    assert (streams.forget(*IRIS), streams.forget(*IRIS)) == (2, 0)
    assert texts(streams) == []
    assert len(streams.read("iris", "4", "0-0", 9)) == 1


class TestSender:
    """A worker's end."""

    MODELS = (DriftModel("iris", "3", ("a",), ""), DriftModel("churn", "1", ("a",), ""))

    def test_rows_go_to_their_models(self, make: Make) -> None:
        """A version that is not configured is judged with the first that is."""
        streams = make()
        sender = RowSender(self.MODELS, streams)

        for model, version in (("iris", "3"), ("churn", "9"), ("iris", "3"), ("other", "1")):
            assert sender.offer(model, version, [1.5])
        sender.send()

        assert texts(streams) == ['["iris","3",[1.5],null]'] * 2
        assert [x.written for x in streams.read("churn", "1", "0-0", 9)] == [
            '["churn","9",[1.5],null]'
        ]

    def test_what_has_no_room_is_counted(self, make: Make) -> None:
        """Rows beyond those that may wait are lost, as busy."""
        dropped: list[tuple[Any, ...]] = []
        sender = RowSender(self.MODELS, make(most=1), on_drop=lambda *told: dropped.append(told))

        for _ in range(3):
            sender.offer("iris", "3", [1])
        sender.send()

        assert dropped == [("iris", "3", "busy", 1)] * 2

    def test_rows_wait_while_redis_is_away(self, tmp_path: Any) -> None:
        """None is lost, and the worker says that it is away as long as it is."""
        away: list[bool] = []
        with Redis(tmp_path) as server:
            streams = RowStreams(server.url, "x", timeout=5)
            sender = RowSender(self.MODELS, streams, on_away=away.append)
            server.kill()
            sender.offer("iris", "3", [1])
            sender.send()
            sender.offer("iris", "3", [2])
            sender.send()
            server.start()
            sender.send()

            assert away == [True, True, False]
            assert texts(streams) == ['["iris","3",[1],null]', '["iris","3",[2],null]']
            sender.close()


def test_texts_leave_the_worker_hashed(
    make: Make, url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a key of categories, no text of a row reaches whoever judges it."""
    key = b"a key of categories"
    monkeypatch.setenv("CATEGORIES", key.decode())
    saved = tmp_path / "reference.parquet"
    rows = {"colour": ["red", "blue"] * 50, "size": [1.0] * 100}
    Reference.build(rows, category_key=key).save(saved)
    service = Service(
        {
            "service": {"name": uuid4().hex, "host_file": False},
            "models": [{"name": "iris", "version": "3", "reference": str(saved)}],
            "drift": {"store": url, "category_key_env": "CATEGORIES"},
        }
    )
    service.start()
    offer = service.guard.parts.models["iris"].offer
    assert offer is not None

    assert offer("iris", "3", ["red", 1.5], None)
    service.close()

    streams = RowStreams(url, service.settings.service.name)
    (row,) = streams.read(*IRIS, "0-0", 9)
    streams.close()
    assert json.loads(row.written) == ["iris", "3", [CategoryHash(key).value("red"), 1.5], None]
