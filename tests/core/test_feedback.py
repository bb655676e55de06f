"""Do labels that come late find their calls, in bounds, and is a model measured by them?"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlguard.app.feedback import MAX_QUEUED, MAX_TRUTHS, Feedback
from mlguard.bodies import Layout
from mlguard.call_ids import first_id, new_call_id, time_of
from mlguard.host import kept_calls
from mlguard.host.database import Database
from mlguard.host.kept_calls import HostCalls
from mlguard.metrics import Metrics, merge
from mlguard.performance import MOST_ROWS, CallStore, KeptCall, Task
from mlguard.settings import FeedbackSettings
from tests.core.guards import MODEL, answered, call, guarded, in_a_thread, metric, predictions
from tests.redis_servers import Redis
from tests.servers import wait_until

pytest.importorskip("hiredis", reason="the redis extra is not installed")
from mlguard.redis.kept_calls import RedisCalls

NOW = 1_800_000_000.0
DAY = 86_400.0
TASKS = {"iris": Task("classification"), "price": Task("regression")}


class Clock:
    """Tells what it is set to."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Worker:
    """What a worker has of calls and labels, with a clock that stands still."""

    def __init__(self, store: CallStore, clock: Clock, **settings: Any) -> None:
        self.clock = clock
        self.store = store
        self.metrics = Metrics([("iris", "3"), ("price", "1")])
        self.feedback = Feedback(
            FeedbackSettings(retention=int(DAY), **settings), TASKS, store, self.metrics, clock
        )

    def keep(self, *said: Any, model: str = "iris", version: str = "3") -> str:
        """Have a call of so many rows kept; return its name."""
        call_id = new_call_id(self.clock.now)
        assert self.feedback.keep(KeptCall(call_id, model, version, list(said))) == "kept"
        return call_id

    def label(self, call_id: str, truths: Any) -> None:
        assert self.feedback.label(call_id, truths)
        self.feedback.flush()

    def number(self, name: str, **labels: str) -> float:
        families = merge([self.metrics.snapshot(), self.feedback.families()])
        samples = [sample for family in families for sample in family["samples"]]
        return sum(
            float(s["value"])
            for s in samples
            if s["name"] == f"mlguard_{name}" and labels.items() <= s["labels"].items()
        )

    def labels(self, result: str) -> float:
        return self.number("feedback_labels_total", result=result)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


Make = Callable[..., CallStore]


@pytest.fixture(params=["file", "redis"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """Makes what several workers have of one place."""
    made: list[Any] = []
    service = uuid.uuid4().hex

    def make(most: int = 1000) -> CallStore:
        if request.param == "file":
            database = Database(tmp_path / "host.db", wait=2.0)
            made.append(database)
            return HostCalls(database, most=most, retention=DAY)
        url = request.getfixturevalue("redis").url
        store = RedisCalls(url, "mlguard", service, most=most, retention=DAY, timeout=5.0)
        made.append(store)
        return store

    yield make
    for each in made:
        each.close()


@pytest.fixture
def worker(make: Make) -> Worker:
    return Worker(make(), Clock())


YES, NO = ["1", 0.9], ["0", 0.2]


@pytest.mark.xdist_group("feedback stores")
class TestLabels:
    def test_they_find_their_call(self, worker: Worker) -> None:
        """A model is measured by the truths of the calls that it answered."""
        first, second = worker.keep(YES, NO), worker.keep(YES)
        worker.label(first, [1, 0])
        worker.label(second, 0)

        assert worker.labels("ok") == 3
        assert worker.number("model_performance", model="iris", metric="accuracy") == 2 / 3
        assert worker.number("model_performance", model="iris", metric="precision") == 0.5
        assert worker.number("model_performance", model="iris", metric="recall") == 1
        assert worker.number("model_performance", model="iris", metric="auc") == 0.75
        assert worker.number("model_performance_labels", model="iris", version="3") == 3

    def test_numbers_are_measured_by_their_errors(self, worker: Worker) -> None:
        """Truths of a regression are numbers."""
        worker.label(worker.keep([1.0], [5.0], model="price", version="1"), [3, 5])

        assert worker.number("model_performance", model="price", metric="mae") == 1
        assert worker.number("model_performance", metric="rmse") == pytest.approx(2**0.5)

    def test_whichever_worker_gets_them(self, make: Make) -> None:
        """A label may come to another worker than the one that answered, and before its call."""
        clock = Clock()
        one, other = Worker(make(), clock), Worker(make(), clock)
        call_id = one.keep(YES)
        other.label(call_id, [1])
        assert other.labels("ok") + other.labels("unknown") == 0
        one.feedback.flush()
        other.feedback.flush()

        assert other.labels("ok") == 1
        assert one.number("model_performance", metric="accuracy") == 1

    def test_a_restart_loses_none(self, make: Make) -> None:
        """What was kept outlives who kept it."""
        clock = Clock()
        before = Worker(make(), clock)
        call_id = before.keep(YES)
        before.feedback.close()
        after = Worker(make(), clock)
        clock.now += DAY - 60
        after.label(call_id, [1])

        assert after.labels("ok") == 1

    def test_the_second_label_of_a_call_is_none(self, worker: Worker) -> None:
        """Who is first is believed, in the same batch as in a later one."""
        call_id = worker.keep(YES)
        worker.feedback.label(call_id, [1])
        worker.label(call_id, [0])
        worker.label(call_id, [0])

        assert (worker.labels("ok"), worker.labels("duplicate")) == (1, 2)
        assert worker.number("model_performance", metric="accuracy") == 1

    @pytest.mark.parametrize(
        "name", ["", "junk", "x" * 10_000, str(uuid.UUID(int=7)), "\ud800", "\0"], ids=ascii
    )
    def test_unknown_calls(self, worker: Worker, name: str) -> None:
        """What names no call is counted, under no model."""
        worker.label(name, [1])

        assert worker.number("feedback_labels_total", model="", result="unknown") == 1

    def test_calls_that_nobody_made(self, worker: Worker) -> None:
        """A name of now may still be on its way; after half a minute it is unknown."""
        worker.label(new_call_id(NOW), [1])
        assert worker.labels("unknown") == 0
        worker.clock.now += 31
        worker.feedback.flush()

        assert worker.labels("unknown") == 1

    def test_labels_that_are_late(self, worker: Worker) -> None:
        """After the retention a label is late, whether or not the call is forgotten already."""
        call_id = worker.keep(YES)
        worker.feedback.flush()
        worker.clock.now += DAY + 1
        worker.label(call_id, [1])

        assert worker.labels("late") == 1
        assert worker.store.find([call_id]) == {}

    @pytest.mark.parametrize(
        ("truths", "result"),
        [
            pytest.param([1], "wrong_length", id="too few"),
            pytest.param([1, 0, 1], "wrong_length", id="too many"),
            pytest.param([], "wrong_length", id="none"),
            pytest.param([1] * (MOST_ROWS + 5), "wrong_length", id="far too many"),
            pytest.param(1, "wrong_length", id="one for many"),
            pytest.param([1, 2], "invalid", id="no class"),
            pytest.param([1, {"a": []}], "invalid", id="no value"),
            pytest.param([None, None], "invalid", id="nothing known"),
            pytest.param([float("nan"), 1], "invalid", id="NaN"),
        ],
    )
    def test_truths_that_cannot_be(self, worker: Worker, truths: Any, result: str) -> None:
        """Truths that do not fit are counted, and the call waits for others."""
        call_id = worker.keep(YES, NO)
        worker.label(call_id, truths)
        worker.label(call_id, np.array([1, 0]))

        assert worker.number("feedback_labels_total", model="iris", result=result) > 0
        assert worker.labels("ok") == 2

    def test_some_rows_may_stay_unlabelled(self, worker: Worker) -> None:
        """None is a truth that is not known; a row whose answer made no sense is not measured."""
        worker.label(worker.keep(YES, YES, None), [1, None, 1])

        assert worker.number("model_performance_labels") == 1

    def test_versions_are_measured_apart(self, worker: Worker) -> None:
        """A canary has numbers of its own; of very many versions, those that came last are one."""
        for number in range(25):
            worker.clock.now += 1
            worker.label(worker.keep(YES, version=str(number)), [number % 2])

        assert worker.number("model_performance", version="8", metric="accuracy") == 0
        assert worker.number("model_performance", version="7", metric="accuracy") == 1
        labels = "model_performance_labels"
        assert (worker.number(labels), worker.number(labels, version="_OTHER")) == (25, 5)

    def test_the_window_moves_on(self, make: Make) -> None:
        """The last labels count, as many as the settings say."""
        worker = Worker(make(), Clock(), window=10)
        for truth in [0] * 30 + [1] * 8:
            worker.clock.now += 1
            worker.label(worker.keep(YES), [truth])

        assert worker.number("model_performance", metric="accuracy") == 0.8
        assert worker.number("model_performance_labels") == 10

    def test_the_oldest_calls_give_way(self, make: Make) -> None:
        """Of more calls than may be kept, the newest stay."""
        worker = Worker(make(most=100), Clock(), max_calls=100)
        ids = []
        for _ in range(2000):
            worker.clock.now += 0.01
            ids.append(worker.keep(YES))
        worker.feedback.flush()
        worker.clock.now += 11
        worker.feedback.flush()

        assert worker.store.find(ids).keys() == set(ids[-100:])

    def test_what_is_kept_comes_back(self, worker: Worker) -> None:
        """Any version and any class is kept as it was."""
        for version, said in (("v\udcff", YES), ('"', ["\u2028", 0.1]), ("", [1e308])):
            call_id = worker.keep(said, None, version=version)
            worker.feedback.flush()
            found = worker.store.find([call_id])[call_id]

            assert found.call.said == [said, None]
            assert found.call.version == version


class TestBounds:
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        database = Database(tmp_path / "folder" / "host.db", wait=2.0)
        yield lambda: HostCalls(database, most=1000, retention=DAY)
        database.close()

    def test_what_cannot_be_kept_waits(self, worker: Worker, tmp_path: Path) -> None:
        """Without the file calls and labels wait in bounds, and nothing is raised."""
        call_id = worker.keep(YES)
        worker.label(call_id, [1])
        assert worker.number("degraded", part="feedback") == 1
        assert worker.number("model_performance_labels") == 0
        (tmp_path / "folder").mkdir(0o700)
        worker.feedback.flush()

        assert worker.labels("ok") == 1
        assert worker.number("degraded", part="feedback") == 0

    def test_the_queues_are_bounded(self, worker: Worker) -> None:
        """Calls and labels beyond what may wait are dropped, and counted."""
        call = KeptCall(new_call_id(NOW), "iris", "3", [YES])
        kept = [worker.feedback.keep(call) for _ in range(MAX_QUEUED + 2)]
        taken = [worker.feedback.label(call.id, [1]) for _ in range(MAX_QUEUED + 2)]

        assert kept.count("queue_full") == 2
        assert taken.count(False) == 2
        assert worker.labels("dropped") == 2

    def test_truths_that_wait_are_bounded(self, worker: Worker) -> None:
        """Many truths in few labels are too many as well."""
        number = MAX_TRUTHS // MOST_ROWS
        taken = [worker.feedback.label("junk", [1] * MOST_ROWS) for _ in range(number + 1)]

        assert taken == [True] * number + [False]

    def test_the_file_is_bounded(
        self, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Calls that together are too large give way, the oldest first."""
        monkeypatch.setattr(kept_calls, "MAX_BYTES", 20_000)
        (tmp_path / "folder").mkdir(0o700)
        ids = []
        for _ in range(100):
            worker.clock.now += 0.1
            ids.append(worker.keep(*[YES] * 100))
        worker.feedback.flush()
        found = worker.store.find(ids)

        assert 0 < len(found) < 20
        assert found.keys() == set(ids[-len(found) :])

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
    def test_a_fork_takes_nothing_along(self, worker: Worker, tmp_path: Path) -> None:
        """What waits in a parent is handed on by the parent alone."""
        (tmp_path / "folder").mkdir(0o700)
        call_id = worker.keep(YES)
        pid = os.fork()
        if not pid:
            worker.feedback.flush()
            os._exit(len(worker.store.find([call_id])))

        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

    def test_what_is_left_at_the_end_is_counted(self, worker: Worker, tmp_path: Path) -> None:
        """A label whose call may still be on its way to the file is not lost silently."""
        (tmp_path / "folder").mkdir(0o700)
        worker.label(new_call_id(NOW), [1, 0])
        worker.feedback.close()

        assert worker.labels("dropped") == 2

    def test_much_is_forgotten_in_steps(
        self, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Forgetting never holds up what else is done for long, and goes on the next time."""
        monkeypatch.setattr(kept_calls, "_TOGETHER", 100)
        (tmp_path / "folder").mkdir(0o700)
        for _ in range(900):
            worker.clock.now += 0.001
            worker.keep(YES)
        worker.feedback.flush()
        monkeypatch.setattr(kept_calls, "_STEPS", 2)
        done = [worker.store.forget(NOW + 2 * DAY) for _ in range(6)]

        assert done == [False] * 4 + [True] * 2

    def test_names_must_be_text(self, worker: Worker) -> None:
        """Who hands over something else has made a mistake, and is told."""
        with pytest.raises(TypeError, match="call_id must be the text"):
            worker.feedback.label(7, [1])


def test_a_redis_that_is_away(tmp_path: Path) -> None:
    """While the Redis is away, calls and labels wait; a scrape goes on, without performance."""
    with Redis(tmp_path) as server:
        store = RedisCalls(server.url, "mlguard", "x", most=9, retention=DAY, timeout=0.5)
        worker = Worker(store, Clock())
        server.kill()
        worker.label(worker.keep(YES), [1])
        assert worker.number("degraded", part="feedback") == 1
        assert worker.number("model_performance_labels") == 0
        server.start()
        wait_until(lambda: worker.feedback.flush() or worker.labels("ok") == 1, "it is joined")

        assert worker.number("degraded", part="feedback") == 0
        assert worker.number("model_performance_labels") == 1
        store.close()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)


@given(predictions=VALUES, scores=VALUES, rows=st.integers(1, 3), which=st.data())
def test_no_answer_is_an_error(predictions: Any, scores: Any, rows: int, which: Any) -> None:
    """Whatever a model answers, what is kept of it is ready for JSON, or nothing is."""
    layout = which.draw(st.sampled_from([*TestAnswers.LAYOUTS.values()]))
    task = which.draw(st.sampled_from([*TASKS.values(), Task("classification", ("a", "b", "1"))]))
    pairs = layout.each(predictions, scores, rows)
    said = [task.said(*pair) for pair in pairs or ()]

    assert len(said) in (0, rows)
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert [layout.one(predictions, scores, rows, n) for n in range(len(said))] == (pairs or [])


@given(truth=VALUES, task=st.sampled_from([*TASKS.values()]))
def test_no_truth_is_an_error(truth: Any, task: Task) -> None:
    """Whatever is sent as a truth, it is one or it is not."""
    read = task.truth(truth)

    assert read is None or task.truth(read) == read


class TestNames:
    def test_they_are_uuids_of_their_time(self) -> None:
        """A call's name is a UUID of version 7 (RFC 9562), and no two are the same."""
        names = {new_call_id(NOW) for _ in range(1000)}

        assert len(names) == 1000
        parsed = {uuid.UUID(name) for name in names}
        assert {(u.version, u.variant, str(u) in names) for u in parsed} == {
            (7, uuid.RFC_4122, True)
        }
        assert {time_of(name) for name in names} == {NOW}

    def test_they_sort_by_time(self) -> None:
        """What stands before a moment's names stands after those of the moment before."""
        assert new_call_id(NOW - 0.001) < first_id(NOW) <= new_call_id(NOW)

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="nothing"),
            pytest.param("junk", id="junk"),
            pytest.param(str(uuid.uuid4()), id="another version"),
            pytest.param(new_call_id(NOW).upper(), id="upper case"),
            pytest.param(new_call_id(NOW) + " ", id="a blank"),
        ],
    )
    def test_what_is_none(self, text: str) -> None:
        """Whatever else is sent names no moment."""
        assert time_of(text) is None


SCORED = MODEL | {"task": "classification", "scores": "scores"}


class TestAnswers:
    """What is read of a model's answer, and kept of it."""

    LAYOUTS: ClassVar = {
        "beside": Layout((), "x", "classes", scores="scores"),
        "within": Layout((), "x", "rows", scores="rows.score"),
        "same": Layout((), "x", "scores", scores="scores"),
        "none": Layout((), "x", "classes"),
        "v2": Layout((), protocol="v2", scores="proba"),
    }
    TENSORS: ClassVar = [
        {"name": "label", "shape": [2], "datatype": "INT64", "data": [1, 0]},
        {"name": "proba", "shape": [2, 2], "datatype": "FP64", "data": [0.1, 0.9, 0.8, 0.2]},
    ]

    @pytest.mark.parametrize(
        ("layout", "predictions", "scores", "rows", "pairs"),
        [
            pytest.param("beside", [1, 0], [0.9, 0.2], 2, [(1, 0.9), (0, 0.2)], id="lists"),
            pytest.param("none", [1, 0], None, 2, [(1, None), (0, None)], id="no scores"),
            pytest.param("same", [0.9, 0.2], None, 2, [(None, 0.9), (None, 0.2)], id="scores only"),
            pytest.param("v2", TENSORS, None, 2, [([1], [0.1, 0.9]), ([0], [0.8, 0.2])], id="v2"),
            pytest.param("v2", TENSORS[:1], None, 2, [([1], None), ([0], None)], id="v2 classes"),
            pytest.param("none", np.array([1, 0]), np.array([[0.1, 0.9], [0.8, 0.2]]), 2,
                         [(1, [0.1, 0.9]), (0, [0.8, 0.2])], id="NumPy"),
            pytest.param("none", pd.Series([1, 0], index=[7, 8]), None, 2,
                         [(1, None), (0, None)], id="pandas"),
            pytest.param("none", "a", 0.5, 1, [("a", 0.5)], id="one row"),
            pytest.param("none", ["a"], [0.2, 0.8], 1, [("a", [0.2, 0.8])], id="its scores"),
            pytest.param("none", None, {"a": 0.5}, 1, [(None, {"a": 0.5})], id="by name"),
            pytest.param("none", [1, 0, 1], None, 2, None, id="more than asked"),
            pytest.param("none", "ab", None, 2, None, id="one for two"),
            pytest.param("none", None, None, 2, None, id="nothing"),
            pytest.param("v2", [], None, 2, None, id="no tensors"),
            pytest.param("none", {"a": [1, 2]}, None, 2, None, id="columns"),
        ],
    )  # fmt: skip
    def test_rows(self, layout: str, predictions: Any, scores: Any, rows: int, pairs: Any) -> None:
        """Each row's prediction stands beside its scores; one is picked as all are listed."""
        found = self.LAYOUTS[layout].each(predictions, scores, rows)

        assert found == pairs
        ones = [
            self.LAYOUTS[layout].one(predictions, scores, rows, n) if pairs else None
            for n in range(rows)
        ]
        assert ones == (pairs or [None] * rows)

    @pytest.mark.parametrize(
        ("raw", "scores"),
        [
            (b'{"rows": [{"score": 0.1}, {"score": 0.7}, 3]}', [0.1, 0.7, None]),
            (b'{"rows": {"score": [0.1]}}', [0.1]),
            (b'{"rows": 3}', None),
            (b"[1]", None),
            (b"{", None),
        ],
        ids=repr,
    )
    def test_scores_within_rows(self, raw: bytes, scores: Any) -> None:
        """Keys that lead into a list go on in each of its entries."""
        layout = self.LAYOUTS["within"]

        assert layout.answered(raw, layout.read(b'{"x": [[1], [2]]}')).scores == scores

    def kept(self, body: bytes, *, rows: int = 2, status: int = 200, **model: Any) -> Any:
        """Ask a guard, and return the header, what is kept and what became of it."""
        calls: list[KeptCall] = []
        source = {"models": [SCORED | model], "feedback": {}}
        guard = guarded(source, keep=lambda call: calls.append(call) or "kept")
        exchange = guard.open(call(None))
        asked = b'{"instances": [%s]}' % b",".join([b"[1, 2]"] * rows)
        in_a_thread(exchange, "/predict", asked)
        answered(exchange, status, body)
        told = dict(exchange.headers).get("MLGuard-Call-ID")
        guard.parts.recorder.fold()
        results = [
            result
            for result in ("kept", "unreadable", "too_large")
            if metric(guard, "mlguard_feedback_calls_total", model="iris", result=result)
        ]
        return told, calls, results

    def test_a_call_is_kept(self) -> None:
        """Of an answer its predictions and scores are kept, under the name that it tells."""
        told, (kept,), results = self.kept(b'{"predictions": [1, 0], "scores": [0.9, 0.2]}')

        assert kept == KeptCall(told, "iris", "3", [["1", 0.9], ["0", 0.2]])
        assert results == ["kept"]

    def test_rows_without_sense_are_gaps(self) -> None:
        """A row whose prediction is none of the classes does not spoil the others."""
        _, (kept,), _ = self.kept(b'{"predictions": [1, "x"], "scores": [0.9, null]}')

        assert kept.said == [["1", 0.9], None]

    @pytest.mark.parametrize(
        ("body", "rows", "result"),
        [
            pytest.param(b'{"predictions": ["a", "b"]}', 2, "unreadable", id="other classes"),
            pytest.param(b'{"other": 1}', 2, "unreadable", id="no predictions"),
            pytest.param(b"junk", 2, "unreadable", id="no JSON"),
            pytest.param(predictions(MOST_ROWS + 1), MOST_ROWS + 1, "too_large", id="many rows"),
        ],
    )
    def test_what_is_not_kept(self, body: bytes, rows: int, result: str) -> None:
        """What cannot be labelled is counted, and not kept."""
        _, calls, results = self.kept(body, rows=rows)

        assert (calls, results) == ([], [result])

    def test_failures_are_not_kept(self) -> None:
        """A call that the model did not answer waits for no label."""
        assert self.kept(b"", status=500)[1:] == ([], [])

    def test_without_a_task_nothing_is_kept(self) -> None:
        """A model that the settings say nothing of has no names of calls."""
        source = {"models": [SCORED, {"name": "own"}], "feedback": {}}
        guard = guarded(source, keep=lambda _: pytest.fail("it was kept"))

        assert guard.parts.models["own"].keep is None

    def test_off_means_off(self) -> None:
        """Without [feedback] an answer tells no name."""
        guard = guarded({"models": [SCORED]})
        exchange = guard.open(call(None))
        in_a_thread(exchange, "/predict", b'{"instances": [[1, 2]]}')
        answered(exchange, 200, b'{"predictions": [1]}')

        assert exchange.headers == ()

    def test_scores_travel_with_the_sampled_row(self, tmp_path: Path) -> None:
        """What the drift check gets of a request is a row, and what was said of that row."""
        from mlguard.reference import Reference

        Reference.build({"a": [1.0, 2.0], "b": [1.0, 2.0]}).save(tmp_path / "r.parquet")
        offered: list[tuple[Any, ...]] = []
        source = {
            "models": [SCORED | {"reference": str(tmp_path / "r.parquet")}],
            "drift": {"rows_per_request": 3},
        }
        guard = guarded(source, offer=lambda *row: not offered.append(row))
        exchange = guard.open(call(None))
        in_a_thread(exchange, "/predict", b'{"instances": [[1, 2], [3, 4], [5, 6]]}')
        answered(exchange, 200, b'{"predictions": [1, 0, 1], "scores": [0.8, 0.1, 0.6]}')
        guard.parts.recorder.fold()

        assert sorted(offered) == [
            ("iris", "3", [1, 2], ["1", 0.8]),
            ("iris", "3", [3, 4], ["0", 0.1]),
            ("iris", "3", [5, 6], ["1", 0.6]),
        ]


def test_measuring_is_quick(make: Make) -> None:
    """A scrape measures a full window in far less time than scrapes are apart."""
    worker = Worker(make(most=100_000), Clock(), window=10_000, max_calls=100_000)
    for number in range(1000):
        worker.clock.now += 0.001
        worker.feedback.label(worker.keep(*[YES, NO] * 5), [number % 2] * 10)
    worker.feedback.flush()
    began = time.thread_time()

    assert worker.number("model_performance_labels") == 10_000
    assert time.thread_time() - began < 2
