"""Do the workers of a service count as one, whatever dies? Real processes, real signals."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, TypeVar

import pytest

from mlguard.metrics import Family, Metrics
from mlguard.runtime.companion import Companion, CompanionConfig, DriftModel
from mlguard.runtime.companion.folder import Folder
from mlguard.runtime.companion.processes import Process, supervisor
from mlguard.runtime.companion.totals import Totals
from mlguard.runtime.companion.windows import Windows

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the tests find processes in /proc"
)

T = TypeVar("T")
SPAWN = multiprocessing.get_context("spawn")
ROWS = "mlguard_inference_rows_total"
FAMILY = "test-" + secrets.token_hex(4)


def eventually(ask: Callable[[], T], seconds: float = 10.0) -> T:
    """Return the first true answer; fail where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.02)
    return answer


def companions(service: str) -> list[int]:
    """Return the ids of the companion processes of services whose names begin so."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and Process.of(int(folder.name)).runs():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mlguard.runtime.companion" in words and words[-2].startswith(service.encode()):
                found.append(int(folder.name))
    return found


def value(families: list[Family] | None, name: str, **labels: str) -> float | None:
    found = [
        sample["value"]
        for family in families or ()
        for sample in family["samples"]
        if sample["name"] == name and labels.items() <= sample["labels"].items()
    ]
    return sum(found) if found else None


class Alone:
    """A service whose only worker is this process, or the process that makes one."""

    def __init__(self, config: CompanionConfig) -> None:
        self.states: list[bool] = []
        self.metrics = Metrics([("iris", "3")])
        self.companion = Companion(
            config, snapshot=self.metrics.snapshot, on_state=self.states.append
        )

    def predict(self, rows: int) -> None:
        self.metrics.inference_ended("iris", "3", 0.1, rows)

    def total(self, timeout: float = 5.0) -> float | None:
        return value(self.companion.collect(timeout), ROWS)


def work(config: CompanionConfig, orders: Connection) -> None:
    """Be one of several workers, as their supervisor says."""
    alone = Alone(config)
    alone.companion.start()
    while True:
        name, *arguments = orders.recv()
        if name == "leave":
            alone.companion.close()
            return
        orders.send(alone.companion.key() if name == "key" else getattr(alone, name)(*arguments))


class Worker:
    """A worker in a process of its own."""

    def __init__(self, config: CompanionConfig) -> None:
        self._orders, theirs = SPAWN.Pipe()
        self.process = SPAWN.Process(target=work, args=(config, theirs))
        self.process.start()
        theirs.close()

    def do(self, *order: Any) -> Any:
        self._orders.send(order)
        assert self._orders.poll(20)
        return self._orders.recv()

    def leave(self) -> None:
        self._orders.send(("leave",))
        self.process.join(10)
        assert self.process.exitcode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.join(10)


@pytest.fixture(scope="module", autouse=True)
def nothing_remains() -> Iterator[None]:
    """When all is done, no companion of these tests runs."""
    yield
    eventually(lambda: not companions(FAMILY))


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mg"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def config(root: Path) -> Iterator[CompanionConfig]:
    service = f"{FAMILY}-{secrets.token_hex(4)}"
    yield CompanionConfig(service, "digest", root=str(root))
    for pid in companions(service):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)


@pytest.fixture
def alone(config: CompanionConfig) -> Iterator[Alone]:
    alone = Alone(config)
    alone.companion.start()
    yield alone
    alone.companion.close()


@pytest.fixture
def workers(config: CompanionConfig) -> Iterator[list[Worker]]:
    workers = [Worker(config) for _ in range(4)]
    yield workers
    for worker in workers:
        worker.kill()


def folder_of(config: CompanionConfig) -> Folder:
    return Folder.of(config, supervisor())


def saved(config: CompanionConfig, name: str) -> list[Any]:
    return list(json.loads(folder_of(config).load(name) or b"[]"))


def answer_to(folder: Folder, frames: list[bytes]) -> bytes:
    with folder.connect() as connection:
        for frame in frames:
            connection.send_bytes(frame)
        return connection.recv_bytes()


class TestFourWorkers:
    """Four workers under one supervisor."""

    def test_totals_are_exact_whatever_dies(
        self, config: CompanionConfig, workers: list[Worker]
    ) -> None:
        """Whoever is asked tells the sum of all; dead workers and companions lose none of it."""
        for i, worker in enumerate(workers):
            worker.do("predict", 10**i)
        eventually(lambda: workers[0].do("total") == 1111)
        assert [worker.do("total") for worker in workers] == [1111] * 4
        assert len({worker.do("key") for worker in workers}) == 1
        assert len(companions(config.service)) == 1

        # Counted after the last regular snapshot: a poll brings it.
        workers[1].do("predict", 10)
        assert workers[2].do("total") == 1121

        # A killed companion comes back, and with it all that live workers know.
        eventually(lambda: len(saved(config, "workers.json")) == 4)
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        workers[3].do("predict", 1000)
        assert eventually(lambda: workers[0].do("total")) == 2121
        assert time.monotonic() - killed < 5
        assert companions(config.service) != [pid]

        # A killed worker's counts stay, its requests in flight do not.
        workers[3].kill()
        eventually(lambda: workers[0].do("total") == 2121)

        # One that leaves in order hands over what it counted last.
        workers[2].do("predict", 5)
        workers[2].leave()
        eventually(lambda: workers[0].do("total") == 2126)

        # What the departed counted outlives the companion too.
        eventually(lambda: value(saved(config, "departed.json"), ROWS) == 2105)
        eventually(lambda: len(saved(config, "workers.json")) == 2)
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGKILL)
        assert eventually(lambda: workers[1].do("total")) == 2126

    def test_a_worker_that_hangs_delays_nobody_for_long(
        self, config: CompanionConfig, workers: list[Worker]
    ) -> None:
        """A stopped worker counts as last seen."""
        for worker in workers:
            worker.do("predict", 1)
        eventually(lambda: workers[0].do("total") == 4)
        pid = workers[1].process.pid
        assert pid is not None

        os.kill(pid, signal.SIGSTOP)
        try:
            assert [workers[0].do("total", 1.0) for _ in range(3)] == [4, 4, 4]
        finally:
            os.kill(pid, signal.SIGCONT)
        workers[1].do("predict", 1)
        eventually(lambda: workers[0].do("total") == 5)


class TestOneWorker:
    """A worker that is its own supervisor."""

    def test_start_returns_at_once_and_collect_waits(self, alone: Alone) -> None:
        """The companion comes up while requests are served already."""
        alone.predict(3)

        assert alone.total() == 3
        assert alone.states == [True]

    def test_a_stopped_companion_stops_no_request(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """Offering rows, collecting and closing end in time while the companion hangs."""
        assert alone.total() is not None
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGSTOP)
        row = [0.123456789] * 50

        started = time.monotonic()
        assert alone.companion.collect(0.2) is None
        assert time.monotonic() - started < 0.5
        eventually(lambda: not all(alone.companion.offer("iris", "3", row) for _ in range(1000)))
        started = time.monotonic()
        for _ in range(1000):
            alone.companion.offer("iris", "3", row)
        assert time.monotonic() - started < 0.2
        assert alone.states[-1] is False
        started = time.monotonic()
        alone.companion.close()
        assert time.monotonic() - started < 1.5

    def test_a_companion_that_wakes_up_is_used_again(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """After a pause all is as before."""
        assert alone.total() is not None
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGSTOP)
        assert alone.companion.collect(0.2) is None
        alone.predict(4)

        os.kill(pid, signal.SIGCONT)

        assert eventually(alone.total) == 4
        assert alone.states == [True, False, True]

    def test_strangers_and_junk_are_sent_away(self, config: CompanionConfig, alone: Alone) -> None:
        """A wrong key is refused, a junk frame ends its connection, and the others go on."""
        alone.predict(1)
        assert alone.total() == 1
        folder = folder_of(config)
        hello = b'{"hello":{"process":{"pid":%d,"started":""},"name":"x"}}' % os.getpid()

        with pytest.raises(AuthenticationError):
            Client(str(folder.path / "socket"), authkey=b"wrong")
        for frames in (
            [b"junk"],
            [b"[]"],
            [b"{}"],
            [b'{"hello":1}'],
            [hello, b'{"unknown":1}'],
            [hello, b'{"rows":[1]}'],
            [hello, b'{"snapshot":[{"name":"a","samples":[]},{"name":1}],"poll":null}'],
            [hello, b'{"snapshot":[{"name":"a","samples":[{"value":"1"}]}],"poll":null}'],
            [hello, b"[" * 100_000],
            [hello, b" " * (8 * 2**20 + 1)],
        ):
            with pytest.raises((EOFError, OSError)):
                answer_to(folder, frames)

        assert alone.total() == 1

    def test_a_worker_that_closes_takes_its_companion_along(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """Where the worker is its own supervisor, nothing is left of either."""
        assert alone.total() is not None
        path = folder_of(config).path

        alone.companion.close()

        eventually(lambda: not companions(config.service))
        eventually(lambda: not path.exists())

    def test_a_collector_that_fails_spoils_only_itself(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """Where a worker's numbers cannot be read, the others are told nevertheless."""
        alone.predict(1)
        assert alone.total() == 1

        alone.metrics.registry.collect = None  # type: ignore[method-assign,assignment]

        assert alone.total() == 1

    def test_without_a_start_there_is_nothing(self, config: CompanionConfig) -> None:
        """A constructor starts nothing."""
        alone = Alone(config)

        assert alone.companion.collect() is None
        alone.companion.close()
        assert not companions(config.service)


def test_requests_in_flight_of_the_dead_are_forgotten() -> None:
    """Only counts outlive a process, and they outlive the companion."""
    metrics = Metrics([("iris", "3")])
    metrics.request_started()
    metrics.inference_ended("iris", "3", 0.1, 2)
    totals = Totals()
    totals.put(Process(2**30, "1"), "dead", metrics.snapshot())
    assert value(totals.families(), "http_server_active_requests") == 1

    assert totals.sweep()
    assert not totals.sweep()

    again = Totals(totals.dump())
    assert value(again.families(), "http_server_active_requests") is None
    assert value(again.families(), ROWS) == 2


def test_a_companion_ends_with_its_supervisor(config: CompanionConfig) -> None:
    """A killed service leaves neither a process nor a folder."""
    code = (
        "import sys, time; from test_companion import *\n"
        "alone = Alone(CompanionConfig.from_json(sys.argv[1])); alone.companion.start()\n"
        "alone.total(); print('up', flush=True); time.sleep(60)"
    )
    service = subprocess.Popen(
        [sys.executable, "-c", code, config.to_json()],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
    )
    with service:
        assert service.stdout is not None
        assert service.stdout.readline() == b"up\n"
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGINT)

        service.kill()

    eventually(lambda: not companions(config.service))
    assert config.root is not None
    eventually(lambda: not list(Path(config.root or "").glob("mlguard-*/*")))


class TestFolder:
    """The folder that nobody else can open."""

    def test_it_is_private_and_its_key_shared(self, config: CompanionConfig) -> None:
        """Whoever comes second finds the key of the first; the folder is open to the user only."""
        one, other = folder_of(config), folder_of(config)
        one.prepare()

        assert one.key() == other.key()
        assert len(one.key()) == 32
        assert one.path.stat().st_mode & 0o777 == 0o700
        assert (one.path / "key").stat().st_mode & 0o777 == 0o600

    def test_other_settings_have_another_folder(self, config: CompanionConfig) -> None:
        """Workers with other settings, or of another supervisor, do not meet."""
        paths = {
            folder_of(config).path,
            folder_of(replace(config, service="other")).path,
            folder_of(replace(config, digest="other")).path,
            Folder.of(config, Process(1, "1")).path,
            Folder.of(config, Process(1, "2")).path,
        }

        assert len(paths) == 5

    def test_a_long_path_is_replaced(self, config: CompanionConfig, root: Path) -> None:
        """A socket's address has some hundred bytes."""
        folder = folder_of(replace(config, root=str(root / ("long" * 25))))

        assert folder.path.parent == Path(f"/tmp/mlguard-{os.getuid()}")

    @pytest.mark.parametrize("spoil", ["mode", "link", "parent mode", "parent link", "file"])
    def test_a_folder_that_others_may_have_made_is_refused(
        self, config: CompanionConfig, root: Path, spoil: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Wrong rights or a link: no companion, a key of one's own, one line in the log."""
        folder = folder_of(config)
        path = folder.path.parent if spoil.startswith("parent") else folder.path
        path.parent.mkdir(0o700, exist_ok=True)
        if spoil.endswith("mode"):
            path.mkdir(0o700)
            path.chmod(0o755)
        elif spoil.endswith("link"):
            (root / "elsewhere").mkdir(0o700)
            path.symlink_to(root / "elsewhere")
        else:
            path.touch()
        alone = Alone(config)

        alone.companion.start()

        assert alone.states == [False]
        assert alone.companion.collect() is None
        assert len(caplog.records) == 1
        assert len(alone.companion.key()) == 32
        assert alone.companion.key() != Alone(config).companion.key()
        assert not companions(config.service)

    def test_a_lock_has_one_holder(self, config: CompanionConfig) -> None:
        """Only one companion serves a folder."""
        folder = folder_of(config)
        folder.prepare()

        with folder.lock("companion") as first, folder.lock("companion") as second:
            assert (first, second) == (True, False)
        with folder.lock("companion") as third:
            assert third


class TestWindows:
    """Disjoint windows, of which one may wait."""

    IRIS = DriftModel("iris", "3", ("a",), "reference.parquet")

    def test_a_full_window_goes_and_a_new_one_begins(self) -> None:
        """No row is in two windows, and none is lost while the checks keep up."""
        windows = Windows([self.IRIS], 3)

        taken = []
        for row in range(7):
            assert windows.add(self.IRIS, row)
            if (window := windows.take(timeout=0)) is not None:
                taken.append(window)

        assert taken == [(self.IRIS, [0, 1, 2]), (self.IRIS, [3, 4, 5])]

    def test_more_than_two_windows_do_not_wait(self) -> None:
        """While no window is taken, one is full, the next fills, and all else is dropped."""
        windows = Windows([self.IRIS], 3)

        assert [windows.add(self.IRIS, row) for row in range(8)] == [True] * 6 + [False] * 2
        assert windows.take() == (self.IRIS, [0, 1, 2])
        assert windows.take() == (self.IRIS, [3, 4, 5])
        assert windows.take(timeout=0) is None

    def test_rows_find_their_model(self) -> None:
        """A version that is not configured is compared like the first that is."""
        other = replace(self.IRIS, version="4")
        windows = Windows([self.IRIS, other], 3)

        assert windows.model("iris", "4") == other
        assert windows.model("iris", "5-canary") == self.IRIS
        assert windows.model("unknown", "3") is None


def test_a_process_is_its_id_and_its_start() -> None:
    """An id that is given again is not the same process, and a zombie no longer runs."""
    child = subprocess.Popen(["sleep", "60"])
    process = Process.of(child.pid)

    assert process.runs()
    assert not replace(process, started="1").runs()
    child.kill()
    eventually(lambda: not process.runs())
    child.wait()
    assert not process.runs()


def test_drift_is_checked_in_the_companion(config: CompanionConfig, root: Path) -> None:
    """Rows of a worker come back as verdicts; numbers are told before evidently is there."""
    pytest.importorskip("evidently", reason="the drift extra is not installed")
    import numpy as np

    from mlguard.reference import Reference

    rng = np.random.default_rng(0)
    path, report = root / "reference.parquet", root / "report.html"
    Reference.build({"a": rng.normal(size=500), "b": rng.normal(size=500)}).save(path)
    model = DriftModel("iris", "3", ("b", "a"), str(path))
    alone = Alone(replace(config, drift_models=(model,), window=100, report=str(report)))
    alone.companion.start()

    def ask(name: str, **labels: str) -> float | None:
        return value(alone.companion.collect(5), f"mlguard_drift_{name}", **labels)

    assert ask("worker_up") == 0
    for row in rng.normal(loc=[5.0, 0.0], size=(100, 2)):
        assert alone.companion.offer("iris", "3", row)
        assert alone.companion.offer("unknown", "3", row)
    eventually(lambda: ask("checks_total", result="drift") == 1, 120)

    assert ask("worker_up") == 1
    assert ask("detected", model="iris", version="3") == 1
    assert ask("features_detected") == 1
    assert (ask("score", feature="b") or 0) > (ask("threshold", feature="b") or 0)
    assert (ask("score", feature="a") or 0) < (ask("threshold", feature="a") or 0)
    assert ask("window_rows") == 100
    assert ask("reference_info", rows="500") == 1
    eventually(report.exists)

    # A window whose rows cannot be read is missing values, and the checks go on.
    for _ in range(100):
        alone.companion.offer("iris", "3", {"a": "junk", "b": [1]})
    eventually(lambda: ask("checks_total", result="drift") == 2, 30)
    assert ask("missing_ratio", feature="a") == 1
    alone.companion.close()
