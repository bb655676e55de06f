"""Does the analyst judge each row once at most, whatever dies? Real processes, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mlguard.analyst import Analyst, AnalystConfig, DriftModel, ScoredModel
from mlguard.analyst.analyst import HUNG
from mlguard.analyst.checker import Checker
from mlguard.analyst.drift_metrics import DriftMetrics
from mlguard.analyst.estimator import Estimator
from mlguard.analyst.queue import MAX_QUEUED
from mlguard.analyst.starting import python
from mlguard.app.host import Host
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.host.sampled_rows import MAX_BYTES, MAX_ROW, MAX_ROWS, SampledRows, write_row
from mlguard.host.verdicts import LATE, Verdicts
from mlguard.metrics import Family, Metrics
from mlguard.performance import Task
from mlguard.performance.calibration import ScoreCalibration
from mlguard.revocations import Revocations
from mlguard.settings import load

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the tests find processes in /proc"
)

T = TypeVar("T")
SERVICE = "test-" + secrets.token_hex(4)
# Its reference is nowhere, so that each full window is a check that fails, without evidently.
IRIS = DriftModel("iris", "3", ("a",), "/nowhere/reference.parquet")
WINDOW = 50


def analysts(service: str = SERVICE) -> list[int]:
    """Return the ids of the analysts of services whose names begin so."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and Process.of(int(folder.name)).runs():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mlguard.analyst" in words and words[-2].startswith(service.encode()):
                found.append(int(folder.name))
    return found


def eventually(
    ask: Callable[[], T], seconds: float = 30.0, doing: Callable[[], object] = lambda: None
) -> T:
    """Return the first true answer; fail where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        doing()
        time.sleep(0.05)
    return answer


def value(families: list[Family], name: str, **labels: str) -> float | None:
    found = [
        sample["value"]
        for family in families
        for sample in family["samples"]
        if sample["name"] == name and labels.items() <= sample["labels"].items()
    ]
    return sum(found) if found else None


class Worker:
    """A worker of a service, in this process."""

    def __init__(
        self,
        root: Path,
        config: AnalystConfig,
        timer: Callable[[], float] = time.monotonic,
        wait: float = 2.0,
    ) -> None:
        self.config = config
        self.folder = Folder.of(config.service, root)
        self.folder.prepare()
        self.database = Database(self.folder.database, wait=wait)
        self.metrics = Metrics([("iris", "3")])
        self.metrics.set_drift_worker_up(False)
        self.states: list[bool] = []
        self.analyst = Analyst(
            config,
            self.database,
            on_up=self.states.append,
            on_restart=self.metrics.analyst_restarted,
            on_drop=self.metrics.rows_dropped,
            timer=timer,
        )

    def until(self, ask: Callable[[], T], seconds: float = 30.0) -> T:
        """Look after the analyst until something is true."""
        return eventually(ask, seconds, self.analyst.look_after)

    def offer(self, rows: int, version: str = "3") -> None:
        for _ in range(rows):
            assert self.analyst.offer("iris", version, [1.0])

    def drift(self, name: str, **labels: str) -> float | None:
        return value(self.analyst.families(), f"mlguard_drift_{name}", **labels)

    def failed(self) -> float:
        """Return how many windows were judged, where all checks fail."""
        return self.drift("checks_total", result="error") or 0

    def restarts(self) -> float | None:
        return value(self.metrics.snapshot(), "mlguard_analyst_restarts_total")

    def dropped(self, reason: str) -> float | None:
        return value(self.metrics.snapshot(), "mlguard_drift_rows_dropped_total", reason=reason)

    def close(self) -> None:
        self.analyst.close()
        self.database.close()


@pytest.fixture(scope="module", autouse=True)
def nothing_remains() -> Iterator[None]:
    """When all is done, no analyst of these tests runs."""
    yield
    eventually(lambda: not analysts())


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mg"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def config() -> Iterator[AnalystConfig]:
    service = f"{SERVICE}-{secrets.token_hex(4)}"
    yield AnalystConfig(service, "digest", (IRIS,), window=WINDOW)
    for pid in analysts(service):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)


@pytest.fixture
def worker(root: Path, config: AnalystConfig) -> Iterator[Worker]:
    worker = Worker(root, config)
    yield worker
    worker.close()


def running(worker: Worker) -> int:
    """Return the process of the worker's analyst, once that has something to say."""
    worker.until(lambda: worker.drift("checks_total") is not None)
    (pid,) = worker.until(lambda: analysts(worker.config.service))
    return pid


def test_a_service_that_ends_hands_over_its_rows(tmp_path: Path) -> None:
    """What was offered last is in the file when a service is closed."""
    import pandas as pd

    from mlguard.reference import Reference

    reference = tmp_path / "reference.parquet"
    Reference.build(pd.DataFrame({"a": range(100)})).save(reference)
    model = {"name": "iris", "features": ["a"], "reference": str(reference)}
    service = {"name": SERVICE, "folder": str(tmp_path)}
    settings = load({"service": service, "models": [model], "drift": {}}, environ={})
    host = Host(settings, Metrics([("iris", "1")]), Revocations())
    host.start(Process.mine())
    assert host.offer is not None
    host.offer("iris", "1", [1.0])

    host.close()

    database = Database(Folder.of(settings.meeting, settings.folder).database, wait=2.0)
    assert SampledRows(database, settings.digest()).take(9) == [["iris", "1", [1.0], None]]
    database.close()


class TestRows:
    """Rows wait in the file, in bounds, and are taken once."""

    def test_they_come_out_as_they_went_in(self, worker: Worker) -> None:
        """In their order, whatever text they hold, and only those of the same settings."""
        rows = SampledRows(worker.database, "one")
        odd = [["\ud800", None, float("inf")], {"a": {"b": []}}, "\0", 2**70]

        assert rows.put([write_row("iris", "\ud800", row)[0] for row in odd]) == 4
        assert SampledRows(worker.database, "other").take(9) == []
        assert rows.take(3) + rows.take(3) == [["iris", "\ud800", row, None] for row in odd]

    def test_too_many_are_lost_and_counted(self, worker: Worker) -> None:
        """While nobody takes them, no more rows wait than there is room for: the first ones."""
        rows = SampledRows(worker.database, worker.config.digest)
        assert rows.put([str(n) for n in range(MAX_ROWS - 2)]) == MAX_ROWS - 2

        worker.offer(3)
        worker.analyst.look_after()

        assert worker.dropped("busy") == 1
        assert rows.put(["1"]) == 0
        assert SampledRows(worker.database, "other").put(["1"]) == 1
        assert len(rows.take(2 * MAX_ROWS)) == MAX_ROWS

    def test_too_many_bytes_are_lost(self, worker: Worker) -> None:
        """A few large rows fill the room as well; the file has a bound."""
        rows = SampledRows(worker.database, "digest")
        large = json.dumps("x" * 2**20)

        kept = [rows.put([large]) for _ in range(MAX_BYTES // 2**20 + 2)]

        assert sum(kept) == MAX_BYTES // 2**20
        assert kept[-1] == 0

    @pytest.mark.parametrize(
        ("row", "reason"),
        [
            pytest.param(["x" * MAX_ROW], "too_large", id="too large"),
            pytest.param({("a",): 1}, "unreadable", id="not JSON"),
        ],
    )
    def test_some_cannot_be_judged(self, worker: Worker, row: object, reason: str) -> None:
        """Such a row is counted with its reason, and the others go on."""
        assert worker.analyst.offer("iris", "3", row)
        worker.offer(1)
        worker.analyst.look_after()

        assert worker.dropped(reason) == 1
        assert SampledRows(worker.database, "digest").take(9) == [["iris", "3", [1.0], None]]

    def test_a_worker_has_room_for_so_many(self, worker: Worker) -> None:
        """Rows that no thread takes to the file are refused, not heaped up."""
        worker.offer(MAX_QUEUED)

        assert not worker.analyst.offer("iris", "3", [1.0])

    def test_two_who_take_at_once_share_no_row(self, worker: Worker) -> None:
        """Each row is taken by one, even where a lock failed to keep analysts apart."""
        rows = SampledRows(worker.database, "digest")
        rows.put([str(number) for number in range(5000)])
        taken: list[object] = []

        def take() -> None:
            database = Database(worker.folder.database, wait=5.0)
            mine = SampledRows(database, "digest")
            while mine._database.read("SELECT 1 FROM sampled LIMIT 1"):
                taken.extend(mine.take(7))
            database.close()

        threads = [threading.Thread(target=take) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert len(taken) == len(set(taken))
        assert len(taken) > 2500


class TestTurn:
    """Which worker may start an analyst, and when."""

    @pytest.fixture
    def clock(self) -> list[float]:
        return [1000.0]

    @pytest.fixture
    def verdicts(self, worker: Worker, clock: list[float]) -> Verdicts:
        return Verdicts(worker.database, "digest", lambda: clock[0])

    def test_one_gets_it(self, verdicts: Verdicts) -> None:
        """Of all who find no analyst, one starts it."""
        assert [verdicts.claim("") for _ in range(3)] == [True, False, False]

    def test_it_follows_the_analyst_that_was_seen(self, verdicts: Verdicts) -> None:
        """Who has not seen that there is another one starts none."""
        verdicts.begin()

        assert not verdicts.claim("")
        assert verdicts.claim(verdicts.read().process)

    def test_it_comes_later_after_each_failure(
        self, verdicts: Verdicts, clock: list[float]
    ) -> None:
        """The pause doubles up to a minute, until checks have run; a checker's death has none."""
        pauses = []
        for _ in range(6):
            assert verdicts.claim(verdicts.read().process)
            started = clock[0]
            verdicts.begin()
            while not verdicts.claim(verdicts.read().process):
                clock[0] += 0.5
            pauses.append(clock[0] - started)
            clock[0] += 61

        assert pauses[0] == pytest.approx(5, abs=1)
        assert pauses[1] > 2 * pauses[0] - 1
        assert pauses[-1] == pytest.approx(60, abs=1)
        verdicts.say(is_ready=True, families="[]")
        assert verdicts.claim(verdicts.read().process)

    def test_times_of_another_start_of_the_machine_count_for_nothing(
        self, verdicts: Verdicts, clock: list[float]
    ) -> None:
        """The clock begins again with the machine: what lies ahead of it is past."""
        assert verdicts.claim("")
        clock[0] = 10.0

        assert verdicts.claim("")


class TestProcess:
    """The process that the workers start."""

    def test_rows_of_all_workers_are_judged_together(
        self, root: Path, config: AnalystConfig, worker: Worker
    ) -> None:
        """One analyst fills windows with the rows of all, and every worker tells what it says."""
        other = Worker(root, config)
        running(worker)
        worker.offer(30)
        other.offer(20)
        other.analyst.look_after()

        worker.until(lambda: worker.failed() == 1)
        assert other.failed() == 1
        assert (worker.restarts(), other.restarts()) == (0, 0)
        assert len(analysts(config.service)) == 1
        other.close()

    def test_other_settings_have_another(
        self, root: Path, config: AnalystConfig, worker: Worker
    ) -> None:
        """Workers whose settings differ share neither an analyst nor rows."""
        other = Worker(root, replace(config, digest="other"))
        running(worker)
        other.offer(WINDOW)
        other.until(lambda: other.failed() == 1)

        assert len(analysts(config.service)) == 2
        assert worker.failed() == 0
        other.close()

    def test_there_is_never_a_second(self, config: AnalystConfig, worker: Worker) -> None:
        """One that is started besides leaves at once, and is not counted."""
        pid = running(worker)
        order = {"config": config.to_json(), "file": str(worker.folder.database)}

        second = subprocess.run(
            [sys.executable, "-P", "-m", "mlguard.analyst", config.service],
            input=json.dumps(order).encode(),
            timeout=20,
            check=True,
        )

        assert second.returncode == 0
        assert analysts(config.service) == [pid]
        worker.analyst.look_after()
        assert worker.restarts() == 0

    def test_killed_it_is_started_again_and_counts_on(self, worker: Worker) -> None:
        """The gauge falls at once, each restart is counted, and no total falls."""
        for number in range(3):
            pid = running(worker)
            worker.offer(WINDOW)
            worker.until(lambda: worker.failed() == number + 1)  # noqa: B023 - called here

            os.kill(pid, signal.SIGKILL)
            eventually(lambda: not Process.of(pid).runs())  # noqa: B023

            assert worker.drift("worker_up") == 0
            assert worker.failed() == number + 1
            worker.until(lambda: analysts(worker.config.service) not in ([], [pid]))  # noqa: B023
            assert worker.restarts() == number + 1

    def test_no_row_is_judged_twice(self, root: Path, config: AnalystConfig) -> None:
        """Killed at random while rows come, fewer windows are judged than were put, never more."""
        rng = random.Random(secrets.token_bytes(8))
        workers = [Worker(root, config) for _ in range(2)]
        put = killed = 0
        running(workers[0])
        while killed < 4:
            deadline = time.monotonic() + rng.uniform(0.2, 2.5)
            while time.monotonic() < deadline:
                for worker in workers:
                    worker.offer(WINDOW + 1)
                    worker.analyst.look_after()
                    put += WINDOW + 1
            before = workers[0].failed()
            for pid in analysts(config.service):
                os.kill(pid, signal.SIGKILL)
                eventually(lambda: not Process.of(pid).runs())  # noqa: B023
                killed += 1
            assert workers[0].failed() >= before
        left = SampledRows(workers[0].database, config.digest)
        workers[0].until(lambda: not left._database.read("SELECT 1 FROM sampled LIMIT 1"))

        judged = WINDOW * workers[0].failed()
        dropped = sum(worker.dropped("busy") or 0 for worker in workers)
        assert 0 < judged <= put - dropped
        # The last one is replaced a while after it was killed, later each time.
        workers[0].until(lambda: sum(worker.restarts() or 0 for worker in workers) >= killed)
        for worker in workers:
            worker.close()

    def test_stopped_it_is_not_up_and_is_replaced(self, root: Path, config: AnalystConfig) -> None:
        """Without a sign of life for ten seconds it is down; a minute later it is killed."""
        ahead = [0.0]
        worker = Worker(root, config, timer=lambda: time.monotonic() + ahead[0])
        pid = running(worker)
        os.kill(pid, signal.SIGSTOP)
        worker.offer(1)

        ahead[0] += LATE
        worker.analyst.look_after()
        assert worker.drift("worker_up") == 0
        for _ in range(int(HUNG) - 1):
            ahead[0] += 1
            worker.analyst.look_after()
        assert analysts(config.service) == [pid]
        ahead[0] += 2
        worker.analyst.look_after()

        eventually(lambda: pid not in analysts(config.service))
        ahead[0] = 0.0
        worker.until(lambda: analysts(config.service) not in ([], [pid]))
        assert worker.restarts() == 1
        worker.close()

    def test_stopped_with_the_file_in_its_hands_it_is_killed(
        self, root: Path, config: AnalystConfig
    ) -> None:
        """Whatever it holds when it is stopped, that ends with it: debits wait a minute at most."""
        ahead = [0.0]
        worker = Worker(root, config, timer=lambda: time.monotonic() + ahead[0], wait=0.01)
        pid = running(worker)
        os.kill(pid, signal.SIGSTOP)
        worker.offer(1)
        with contextlib.closing(sqlite3.connect(worker.folder.database)) as its_own:
            its_own.execute("BEGIN IMMEDIATE")  # stands for its own lock

            for _ in range(int(LATE + HUNG) + 2):
                ahead[0] += 1
                worker.analyst.look_after()

            eventually(lambda: pid not in analysts(config.service))
        worker.close()

    def test_stopped_without_rows_it_may_go_on(self, root: Path, config: AnalystConfig) -> None:
        """Where nothing waits for it, nobody kills it; going on, it is up again."""
        ahead = [0.0]
        worker = Worker(root, config, timer=lambda: time.monotonic() + ahead[0])
        pid = running(worker)
        os.kill(pid, signal.SIGSTOP)

        for _ in range(int(LATE + HUNG) + 5):
            ahead[0] += 1
            worker.analyst.look_after()

        assert analysts(config.service) == [pid]
        os.kill(pid, signal.SIGCONT)
        ahead[0] = 0.0
        worker.offer(WINDOW)
        worker.until(lambda: worker.failed() == 1)
        assert worker.restarts() == 0
        worker.close()

    def test_it_ends_when_told_and_not_by_ctrl_c(self, worker: Worker) -> None:
        """SIGTERM ends it; a terminal's Ctrl-C, which reaches all, does not."""
        pid = running(worker)
        os.kill(pid, signal.SIGINT)
        worker.offer(WINDOW)
        worker.until(lambda: worker.failed() == 1)
        assert analysts(worker.config.service) == [pid]

        os.kill(pid, signal.SIGTERM)

        eventually(lambda: not analysts(worker.config.service))
        assert worker.analyst._verdicts.read().process == ""

    def test_it_ends_with_its_file(self, worker: Worker) -> None:
        """Where the folder is swept it leaves; the workers' new file gets a new one."""
        pid = running(worker)
        worker.database.close()
        for path in worker.folder.path.iterdir():
            path.unlink()

        eventually(lambda: pid not in analysts(worker.config.service))
        assert not worker.folder.database.exists()
        running(worker)

    def test_it_ends_after_the_last_worker(self, root: Path, config: AnalystConfig) -> None:
        """A worker that is killed takes it along ten seconds later; one that lives on keeps it."""
        code = (
            "import sys, time; from pathlib import Path; from tests.core.test_analyst import *\n"
            "worker = Worker(Path(sys.argv[1]), AnalystConfig.from_json(sys.argv[2]))\n"
            "running(worker); print('up', flush=True); time.sleep(60)"
        )
        command = [sys.executable, "-c", code, str(root), config.to_json()]
        other = Worker(root, config)
        with subprocess.Popen(command, stdout=subprocess.PIPE) as worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == b"up\n"
            (pid,) = analysts(config.service)
            other.analyst.look_after()
            worker.kill()
        killed = time.monotonic()

        assert other.analyst._verdicts.has_workers()
        other.close()
        eventually(lambda: not analysts(config.service))
        assert time.monotonic() - killed > 5
        assert pid not in analysts()

    def test_a_forked_worker_begins_with_nothing(self, worker: Worker) -> None:
        """Neither the parent's rows nor its child are the child's."""
        running(worker)
        worker.offer(3)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, b"%d" % len(worker.analyst._queue))
            os._exit(worker.analyst._child is not None)
        os.close(write)

        assert os.read(read, 9) == b"0"
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(worker.analyst._queue) == 3
        os.close(read)

    def test_without_the_file_nothing_is_lost_or_raised(
        self, worker: Worker, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rows wait in the worker, and one line and the gauge say so, until the file is back."""
        pid = running(worker)
        worker.database.close()
        away = worker.folder.path.with_name("away")
        worker.folder.path.rename(away)
        worker.offer(WINDOW)
        checks = worker.drift("checks_total")

        for _ in range(3):
            worker.analyst.look_after()

        assert worker.states[-3:] == [False] * 3
        assert worker.drift("worker_up") == 0
        assert worker.drift("checks_total") == checks
        assert len([r for r in caplog.records if "no rows reach" in r.message]) == 1
        eventually(lambda: pid not in analysts())
        away.rename(worker.folder.path)
        worker.until(lambda: worker.failed() == 1)

    def test_one_that_cannot_be_started_stops_nobody(
        self, worker: Worker, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that embeds Python may not know where that is: the gauge says so."""
        monkeypatch.setattr(sys, "executable", "/usr/bin/uwsgi")
        assert python() == f"{sys.exec_prefix}/bin/python3"
        monkeypatch.setattr(sys, "exec_prefix", "/nowhere")

        worker.analyst.look_after()

        assert worker.drift("worker_up") == 0
        assert worker.restarts() == 0


def test_rows_find_their_window() -> None:
    """A version that is not configured is compared like the first that is; others with nothing."""
    other = replace(IRIS, version="4")
    metrics = DriftMetrics()
    checker = Checker(AnalystConfig("service", "digest", (IRIS, other), window=2), metrics)

    full = [
        checker.add(*row)
        for row in [
            ("iris", "3", 1),
            ("iris", "4", 1),
            ("unknown", "3", 1),
            ("iris", "5-canary", 1),
            ("iris", "4", 1),
        ]
    ]

    assert full == [False, False, False, True, True]
    families = metrics.families()
    assert value(families, "mlguard_drift_checks_total", version="3", result="error") == 1
    assert value(families, "mlguard_drift_checks_total", version="4", result="error") == 1


def test_what_is_missing_to_a_verdict(caplog: pytest.LogCaptureFixture) -> None:
    """The first row is told, and how many wait; a verdict begins anew."""
    caplog.set_level("INFO", "mlguard")
    metrics = DriftMetrics()
    checker = Checker(AnalystConfig("service", "digest", (IRIS,), window=3), metrics)

    waiting = []
    for _ in range(4):
        checker.add("iris", "3", [1.0])
        waiting.append(value(metrics.families(), "mlguard_drift_rows_waiting", version="3"))

    assert waiting == [1, 2, 0, 1]
    assert caplog.messages.count("drift: the first row of iris 3 is here, of 3") == 1


@pytest.mark.parametrize(
    ("rows", "sample", "requests"), [(1, 1.0, 1000), (4, 1.0, 250), (1, 0.3, 3334)]
)
def test_how_many_requests_a_verdict_takes(rows: int, sample: float, requests: int) -> None:
    """A batch gives as few rows as the settings say, however large it is."""
    model = {"name": "iris", "reference": "reference.parquet"}
    drift = {"rows_per_request": rows, "sample": sample, "window": 1000}
    settings = load({"drift": drift, "models": [model]}, environ={}, named=())
    config = AnalystConfig.of(settings)

    assert config.requests_for(config.rows_wanted(config.models[0])) == requests


def test_windows_are_closed_by_rows_or_by_age() -> None:
    """A window that is too old is judged with the rows it has, or skipped where they are few."""
    metrics, now = DriftMetrics(), [1000.0]
    config = AnalystConfig("service", "digest", (IRIS,), window=50, max_age=60.0, min_rows=30)
    checker = Checker(config, metrics, lambda: now[0])

    def results() -> list[float | None]:
        names = ("error", "skipped")
        families = metrics.families()
        return [value(families, "mlguard_drift_checks_total", result=name) for name in names]

    def close_after(rows: int) -> bool:
        for _ in range(rows):
            assert not checker.add("iris", "3", [1.0])
        now[0] += 60
        return checker.close_aged()

    metrics.begin(IRIS)
    assert not checker.close_aged()
    assert close_after(29)
    assert results() == [0, 1]
    assert close_after(30)
    assert results() == [1, 1]
    now[0] += 60
    assert not checker.close_aged()


class TestEstimator:
    """Performance by scores alone, without a process."""

    SCORED = (ScoredModel("iris", ("0", "1")),)

    def estimator(self, *scored: ScoredModel, window: int = 4) -> Estimator:
        pytest.importorskip("numpy", reason="the drift extra is not installed")
        config = AnalystConfig("s", "digest", (IRIS,), window=window, scored=scored or self.SCORED)
        return Estimator(AnalystConfig.from_json(config.to_json()))

    def test_a_full_window_is_estimated(self) -> None:
        """Of each version's windows the last is told; rows without scores are in none."""
        estimator = self.estimator()
        estimator.prepare([])
        rows: list[list[Any] | None] = [["1", 0.9], None, ["0", 0.1], ["1"], ["1", 0.7], ["0", 0.3]]

        full = [estimator.add("iris", "3", said) for said in rows]

        assert full == [False] * 5 + [True]
        families = estimator.families()
        name = "mlguard_model_performance_estimated"
        accuracy = value(families, name, model="iris", version="3", metric="accuracy")
        assert accuracy == pytest.approx(0.8)
        assert value(families, f"{name}_rows") == 4
        assert (value(families, f"{name}_error", metric="accuracy") or 0) > 0
        assert not estimator.add("unknown", "3", ["1", 0.9])

    def test_the_next_one_goes_on(self) -> None:
        """What was estimated last stands until there is more, for the models that are scored."""
        before, after, other = (
            self.estimator(),
            self.estimator(),
            self.estimator(ScoredModel("other", ("0", "1"))),
        )
        before.prepare([])
        for _ in range(4):
            before.add("iris", "3", ["1", 0.9])
        for each in (after, other):
            each.prepare(before.families())

        assert after.families() == before.families()
        assert other.families() == []

    def test_what_is_not_defined_any_more(self) -> None:
        """A window in which no row was called positive has no precision."""
        estimator = self.estimator(window=1)
        estimator.prepare([])
        name = "mlguard_model_performance_estimated"

        precision = []
        for said in (["1", 0.9], ["0", 0.2]):
            estimator.add("iris", "3", said)
            precision.append(value(estimator.families(), name, metric="precision"))

        assert precision == [0.9, None]

    def test_versions_are_bounded(self) -> None:
        """Beyond twenty versions of a model, all are one."""
        estimator = self.estimator(window=1)
        estimator.prepare([])
        for number in range(30):
            estimator.add("iris", str(number), ["1", 0.9])

        rows = "mlguard_model_performance_estimated_rows"
        assert value(estimator.families(), rows) == 21
        assert value(estimator.families(), rows, version="_OTHER") == 1

    def test_what_is_expected_is_told_beside_it(self, tmp_path: Path) -> None:
        """How well the model did on the rows of its calibration stands beside the estimate."""
        task, scores = Task("classification"), [0.1] * 50 + [0.9] * 50
        learned = ScoreCalibration.fit(task, scores, [0] * 45 + [1] * 55)
        learned.save(tmp_path / "calibration.json")
        scored = ScoredModel("iris", ("0", "1"), str(tmp_path / "calibration.json"))
        estimator = self.estimator(scored, window=1)
        estimator.prepare([])
        estimator.add("iris", "3", ["1", 0.9])

        told = estimator.families()
        expected = value(told, "mlguard_model_performance_expected", metric="accuracy")
        estimated = value(told, "mlguard_model_performance_estimated", metric="accuracy")
        assert (expected, estimated) == (0.95, 1.0)

    def test_without_its_calibration_there_is_no_estimate(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A model whose calibration is gone is said to have none, and the others go on."""
        lost = ScoredModel("lost", ("0", "1"), "/nowhere/calibration.json")
        estimator = self.estimator(lost, *self.SCORED, window=1)
        estimator.prepare([])

        assert not estimator.add("lost", "3", ["1", 0.9])
        assert estimator.add("iris", "3", ["1", 0.9])
        assert "performance of lost is not estimated" in caplog.text


@pytest.fixture(scope="module")
def judged() -> Iterator[Worker]:
    """A worker whose reference has two normal features."""
    pytest.importorskip("evidently", reason="the drift extra is not installed")
    import numpy as np

    from mlguard.reference import Reference

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="mg") as name:
        path, report = Path(name) / "reference.parquet", Path(name) / "report.html"
        Reference.build({"a": rng.normal(size=500), "b": rng.normal(size=500)}).save(path)
        model = DriftModel("iris", "3", ("b", "a"), str(path))
        service = f"{SERVICE}-drift"
        scored = (ScoredModel("iris", ("0", "1")),)
        config = AnalystConfig(
            service, "digest", (model,), window=100, report=str(report), scored=scored
        )
        worker = Worker(Path(name), config)
        yield worker
        worker.close()
        for pid in analysts(service):
            os.kill(pid, signal.SIGTERM)


@pytest.mark.xdist_group("drift")
class TestDrift:
    """The real checks, by one analyst for all tests here: importing evidently takes seconds."""

    def test_rows_come_back_as_verdicts(self, judged: Worker) -> None:
        """Rows that differ from training drift, by feature; the report is written."""
        import numpy as np

        ask = judged.drift
        judged.analyst.look_after()
        assert ask("worker_up") == 0
        for row in np.random.default_rng(1).normal(loc=[5.0, 0.0], size=(100, 2)):
            assert judged.analyst.offer("iris", "3", row, ["1", 0.75])
            assert judged.analyst.offer("unknown", "3", row)
        judged.until(lambda: ask("checks_total", result="drift") == 1, 120)
        judged.until(lambda: judged.states[-1])

        assert ask("worker_up") == 1
        assert ask("detected", model="iris", version="3") == 1
        assert ask("features_detected") == 1
        assert (ask("score", feature="b") or 0) > (ask("threshold", feature="b") or 0)
        assert (ask("score", feature="a") or 0) < (ask("threshold", feature="a") or 0)
        assert 0.1 < (ask("smallest_detectable", feature="b") or 0) < 1
        assert ask("episode") == 0
        assert ask("window_rows") == 100
        assert ask("rows_wanted") == 100
        judged.until(lambda: ask("rows_waiting") == 0)
        estimated = "mlguard_model_performance_estimated"
        judged.until(lambda: value(judged.analyst.families(), f"{estimated}_rows") == 100)
        told = value(judged.analyst.families(), estimated, version="3", metric="accuracy")
        assert told == pytest.approx(0.75)
        assert ask("reference_info", rows="500") == 1
        assert judged.config.report is not None
        eventually(Path(judged.config.report).exists)

    def test_rows_that_cannot_be_read_are_missing_values(self, judged: Worker) -> None:
        """A window of junk is a verdict as well, and the checks go on."""
        for _ in range(100):
            judged.analyst.offer("iris", "3", {"a": "junk", "b": [1]})
        judged.until(lambda: judged.drift("checks_total", result="drift") == 2, 120)

        assert judged.drift("missing_ratio", feature="a") == 1
        assert judged.drift("episode", feature="a") == 0
        assert judged.drift("episode", feature="b", reason="missing") == 1
        assert judged.drift("episode", feature="b", reason="distribution") == 0

    def test_verdicts_outlive_who_gave_them(self, judged: Worker) -> None:
        """A killed analyst's last verdict and episode stand; the next counts on from them."""
        import numpy as np

        ask = judged.drift
        (pid,) = analysts(judged.config.service)
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: ask("worker_up") == 0)
        quiet = np.random.default_rng(2).normal(size=(200, 2))
        for row in quiet[:100]:
            judged.analyst.offer("iris", "3", row)

        assert (ask("detected"), ask("missing_ratio", feature="a"), ask("episode")) == (1, 1, 1)
        judged.until(lambda: ask("checks_total", result="ok") == 1, 120)
        assert ask("checks_total", result="drift") == 2
        assert (ask("detected"), ask("episode")) == (0, 1)
        for row in quiet[100:]:
            judged.analyst.offer("iris", "3", row)
        judged.until(lambda: ask("checks_total", result="ok") == 2, 120)
        assert ask("episode") == 0
        assert ask("reference_info", rows="500") == 1
        assert judged.restarts() == 1
