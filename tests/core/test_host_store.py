"""Do all workers of a host count in one ledger, whatever dies? Real processes, real signals."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import math
import multiprocessing
import os
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

import pytest
from hypothesis import settings as examples
from hypothesis.stateful import rule

from mlguard.host.folder import Folder
from mlguard.host.private import user_folder
from mlguard.host.processes import Process, supervisor
from mlguard.ledger import (
    FLIGHT,
    LIFETIME,
    Change,
    Limit,
    Line,
    MemoryLedger,
    Note,
    Order,
    StoreUnavailable,
)
from mlguard.runtime.companion import CompanionConfig
from mlguard.runtime.stores.host import HostStore, running
from mlguard.runtime.stores.host.journal import Journal
from mlguard.runtime.stores.host.server import serve
from mlguard.runtime.stores.host.wire import MAX_FRAME, framed
from tests.core.ledgers import Hooks, LedgerMachine

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the tests find processes in /proc"
)

T = TypeVar("T")
FORK = multiprocessing.get_context("fork")
FAMILY = "host-" + secrets.token_hex(4)
# No window of it ends while the tests run.
LONG = Limit("requests/long", 10**6, 10**9)
EVER = Limit("rows/ever", 100, kind=LIFETIME, unit="rows")
FLYING = Limit("flight", 3, kind=FLIGHT)


def eventually(ask: Callable[[], T], seconds: float = 10.0) -> T:
    """Return the first true answer; fail where there is none in time."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"still {answer!r} after {seconds} s"
        time.sleep(0.01)
    return answer


def opened(file: Path) -> list[int]:
    """Return the descriptors by which this process has a file open."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            if link.readlink() == file:
                found.append(int(link.name))
    return found


def ledgers(service: str) -> list[int]:
    """Return the ids of the ledger processes of services whose names begin so."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and Process.of(int(folder.name)).runs():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"mlguard.runtime.stores.host" in words and words[-2].startswith(service.encode()):
                found.append(int(folder.name))
    return found


def order(limit: Limit = LONG, cost: int = 1, account: str = "ann") -> Order:
    return Order("t", (Line(account, limit, cost),))


def change(extra: int, limit: Limit = LONG, *, is_grant: bool = False) -> Change:
    return Change("t", "ann", limit, extra, time.monotonic(), is_grant)


def used(store: HostStore, account: str = "ann") -> dict[str, float]:
    return {entry.field: entry.used for entry in store.entries("t", account)}


def answers(store: HostStore) -> bool:
    try:
        store.apply([])
    except StoreUnavailable:
        return False
    return True


def folder_of(config: CompanionConfig) -> Folder:
    return Folder.of(config, supervisor())


def stranger(config: CompanionConfig) -> socket.socket:
    found = socket.socket(socket.AF_UNIX)
    found.settimeout(5)
    try:
        found.connect(str(folder_of(config).path / "ledger"))
    except OSError:
        found.close()
        raise
    return found


def is_heard(config: CompanionConfig) -> bool:
    with contextlib.suppress(OSError):
        stranger(config).close()
        return True
    return False


def is_sent_away(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


@pytest.fixture(scope="module", autouse=True)
def nothing_remains() -> Iterator[None]:
    """When all is done, no ledger of these tests runs."""
    yield
    eventually(lambda: not ledgers(FAMILY))


@pytest.fixture
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mg"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def config(root: Path) -> Iterator[CompanionConfig]:
    service = f"{FAMILY}-{secrets.token_hex(4)}"
    yield CompanionConfig(service, "digest", root=str(root))
    for pid in ledgers(service):
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)


class Served:
    """A ledger in a thread of this process, whose clock the test holds."""

    def __init__(
        self,
        config: CompanionConfig,
        *,
        path: Path | None = None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._path = path
        self._timer = timer
        self._is_ready = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._is_ready.wait(5)
        eventually(lambda: is_heard(config))

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._is_ready.set()
        folder = folder_of(self._config)
        await serve(
            *(self._config.service, folder, supervisor(), self._stop),
            path=self._path,
            timer=self._timer,
        )

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)


@pytest.fixture
def store(config: CompanionConfig, root: Path) -> Iterator[HostStore]:
    """A worker's store, whose ledger is a thread here."""
    served = Served(config, path=root / "kept")
    store = HostStore(config, path=root / "kept", timeout=0.5, holder="worker")
    yield store
    store.close()
    served.end()


@pytest.fixture
def far(config: CompanionConfig, root: Path) -> Iterator[HostStore]:
    """A worker's store, whose ledger is a process that it has started."""
    store = HostStore(config, path=root / "kept", timeout=0.5, holder="worker")
    store.start()
    yield store
    store.close()


def work(config: CompanionConfig, path: Path | None, orders: Connection) -> None:
    """Be one of several workers, as their supervisor says."""
    store = HostStore(config, path=path, timeout=2.0, holder="worker")
    while True:
        name, *arguments = orders.recv()
        if name == "spend":
            admitted = 0
            while store.debit(order(arguments[0])).is_admitted:
                admitted += 1
            orders.send(admitted)
        else:
            orders.send(getattr(store, name)(*arguments))


def forked(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a child, whose supervisor is this process."""
    child = FORK.Process(target=target, args=arguments, daemon=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: threads, and a fork
        child.start()
    return child


class Worker:
    """A worker in a process of its own."""

    def __init__(self, config: CompanionConfig, path: Path | None = None) -> None:
        self._orders, theirs = FORK.Pipe()
        self.process = forked(work, config, path, theirs)
        theirs.close()

    def ask(self, *words: Any) -> None:
        self._orders.send(words)

    def answer(self) -> Any:
        assert self._orders.poll(20)
        return self._orders.recv()

    def do(self, *words: Any) -> Any:
        self.ask(*words)
        return self.answer()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(10)


@contextlib.contextmanager
def as_many(number: int, config: CompanionConfig) -> Iterator[list[Worker]]:
    workers = [Worker(config) for _ in range(number)]
    yield workers
    for worker in workers:
        worker.kill()


@pytest.fixture
def workers(config: CompanionConfig) -> Iterator[list[Worker]]:
    with as_many(4, config) as workers:
        yield workers


@pytest.fixture
def two_workers(config: CompanionConfig) -> Iterator[list[Worker]]:
    with as_many(2, config) as workers:
        yield workers


class TestManyWorkers:
    """Workers under one supervisor."""

    def test_four_share_one_budget(self, config: CompanionConfig, workers: list[Worker]) -> None:
        """All start at once, there is one ledger, and together they get exactly the budget."""
        for worker in workers:
            worker.ask("start")
        assert [worker.answer() for worker in workers] == [None] * 4
        assert len(ledgers(config.service)) == 1

        for worker in workers:
            worker.ask("spend", replace(LONG, amount=1000))
        admitted = [worker.answer() for worker in workers]

        assert sum(admitted) == 1000
        assert len(ledgers(config.service)) == 1

    def test_what_a_dead_worker_held_is_free_again(
        self, config: CompanionConfig, two_workers: list[Worker]
    ) -> None:
        """A killed worker's requests in flight end, a live worker's outlive a killed ledger."""
        dead, alive = two_workers
        assert dead.do("start") is alive.do("start") is None
        assert dead.do("debit", order(FLYING, 2)).is_admitted
        assert alive.do("debit", order(FLYING, 1)).is_admitted
        assert not alive.do("debit", order(FLYING, 1)).is_admitted

        (pid,) = ledgers(config.service)
        os.kill(pid, signal.SIGKILL)
        assert alive.do("start") is dead.do("start") is None
        assert not alive.do("debit", order(FLYING, 1)).is_admitted
        dead.kill()

        eventually(lambda: alive.do("debit", order(FLYING, 1)).is_admitted)
        assert alive.do("debit", order(FLYING, 1)).is_admitted
        assert not alive.do("debit", order(FLYING, 1)).is_admitted


class TestKills:
    """What happens when the ledger, or its supervisor, dies."""

    def test_a_killed_ledger_loses_nothing(self, config: CompanionConfig, far: HostStore) -> None:
        """Whatever was answered is counted by its successor, which comes by itself."""
        is_over = Event()
        tries = [[0, 0] for _ in range(3)]

        def debit(counts: list[int]) -> None:
            while not is_over.is_set():
                counts[1] += 1
                try:
                    counts[0] += far.debit(order()).is_admitted
                except StoreUnavailable:
                    is_over.wait(0.005)

        threads = [Thread(target=debit, args=(counts,)) for counts in tries]
        for thread in threads:
            thread.start()
        pids = set()
        for _ in range(2):
            (pid,) = eventually(lambda: ledgers(config.service))
            eventually(lambda: answers(far))
            pids.add(pid)
            before = sum(answered for answered, _ in tries)
            eventually(lambda before=before: sum(counts[0] for counts in tries) > before + 100)
            os.kill(pid, signal.SIGKILL)
            eventually(lambda pid=pid: not Process.of(pid).runs())
        is_over.set()
        for thread in threads:
            thread.join()
        eventually(lambda: answers(far))

        answered, tried = (sum(column) for column in zip(*tries, strict=True))
        # One call of each thread may have been cut off between its count and its answer.
        assert answered <= used(far)["requests/long"] <= min(tried, answered + 2 * len(threads))
        assert len(pids) == 2

    def test_a_stopped_ledger_stops_nobody(self, config: CompanionConfig, far: HostStore) -> None:
        """Calls end in time while it hangs, and what they asked for never happens."""
        hasty = HostStore(config, path=None, timeout=0.1, holder="hasty")
        hasty.start()
        (pid,) = ledgers(config.service)

        async def twice() -> None:
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await hasty.adebit(order())

        took = []
        asyncio.run(first_debit(hasty, "before"))
        os.kill(pid, signal.SIGSTOP)
        try:
            for _ in range(3):
                began = time.monotonic()
                with pytest.raises(StoreUnavailable, match="does not answer"):
                    hasty.debit(order())
                took.append(time.monotonic() - began)
            began = time.monotonic()
            asyncio.run(twice())
            took.append((time.monotonic() - began) / 2)
            with pytest.raises(StoreUnavailable):
                hasty.apply([change(5)])
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(lambda: answers(hasty))

        assert max(took) < 0.15
        assert used(far) == {}
        assert hasty.debit(order()).is_admitted
        assert used(far)["requests/long"] == 1
        hasty.close()

    def test_it_ends_with_its_supervisor(self, config: CompanionConfig) -> None:
        """When the supervisor is killed nothing remains: no process, no folder."""
        program = (
            "import sys; from mlguard.runtime.companion import CompanionConfig;"
            "from mlguard.runtime.stores.host import HostStore;"
            f"s = HostStore(CompanionConfig({config.service!r}, 'd', root={config.root!r}),"
            "path=None, holder='w'); s.start(); print('up', flush=True); sys.stdin.read()"
        )
        lone = subprocess.Popen(
            [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert lone.stdin is not None
        assert lone.stdout is not None
        with lone.stdin, lone.stdout:
            assert lone.stdout.readline() == b"up\n"
            assert len(ledgers(config.service)) == 1
            lone.kill()
            lone.wait()

        eventually(lambda: not ledgers(config.service), 3)
        assert list(user_folder(Path(str(config.root))).iterdir()) == []

    def test_a_lone_worker_takes_it_along(self, config: CompanionConfig) -> None:
        """Where a service has one worker, its ledger ends when that closes."""
        store = HostStore(config, path=None, holder="w")
        store.start()
        assert len(ledgers(config.service)) == 1

        store.close()

        eventually(lambda: not ledgers(config.service), 3)


async def first_debit(store: HostStore, account: str) -> None:
    assert (await store.adebit(order(account=account))).is_admitted


class TestStrangers:
    """Who has not proved to know the folder's key."""

    @pytest.mark.parametrize(
        "junk",
        [
            pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="another protocol"),
            pytest.param(framed(b"x" * 200), id="a wrong proof"),
            pytest.param(framed(b""), id="an empty proof"),
            pytest.param((2**31).to_bytes(4, "big"), id="a long frame"),
        ],
    )
    def test_are_sent_away(self, config: CompanionConfig, store: HostStore, junk: bytes) -> None:
        """Their connection ends, and the others go on."""
        with stranger(config) as connection:
            connection.sendall(junk)
            assert is_sent_away(connection)

        assert store.debit(order()).is_admitted

    def test_who_says_nothing_is_sent_away(self, config: CompanionConfig, store: HostStore) -> None:
        """A connection that proves nothing does not stay."""
        with stranger(config) as connection:
            assert is_sent_away(connection)

        assert store.debit(order()).is_admitted

    @pytest.mark.parametrize(
        "junk",
        [
            pytest.param(framed(b"no JSON"), id="no JSON"),
            pytest.param(framed(b"[" * 10_000), id="nested deeply"),
            pytest.param(framed(b"{}"), id="no list"),
            pytest.param(framed(json.dumps([1, "soon", "debit"]).encode()), id="no deadline"),
            pytest.param(framed(json.dumps([1, 1e12, "steal"]).encode()), id="no word of ours"),
            pytest.param(framed(json.dumps([1, 1e12, "debit", 1, 2, 3]).encode()), id="no order"),
            pytest.param((MAX_FRAME + 1).to_bytes(4, "big"), id="a long frame"),
        ],
    )
    def test_a_worker_that_sends_junk_hurts_itself_only(
        self, config: CompanionConfig, store: HostStore, junk: bytes
    ) -> None:
        """Its connection ends, it makes another, and the others go on."""
        from mlguard.runtime.stores.host.links import Greeting

        with stranger(config) as connection:
            greeting = Greeting(folder_of(config).authkey(), "junk")
            connection.sendall(greeting.take(connection.recv(4096)[4:]))
            assert connection.recv(4096).endswith(config.service.encode())
            connection.sendall(junk)
            assert is_sent_away(connection)

        assert store.debit(order()).is_admitted

    def test_a_false_ledger_is_not_believed(self, config: CompanionConfig) -> None:
        """Who listens in its place without the key is asked nothing."""
        folder = folder_of(config)
        folder.prepare()
        store = HostStore(config, path=None, timeout=0.2, holder="w")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(folder.path / "ledger"))
            listener.listen()
            listener.settimeout(5)
            heard: list[bytes] = []

            def lie() -> None:
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(framed(b"c" * 32))
                    connection.recv(4096)
                    connection.sendall(framed(b"p" * 32 + config.service.encode()))
                    heard.append(connection.recv(4096))

            liar = Thread(target=lie)
            liar.start()
            with pytest.raises(StoreUnavailable, match="proof"):
                store.debit(order())
            liar.join()

        assert heard == [b""]
        store.close()

    def test_two_services_do_not_meet(self, config: CompanionConfig, store: HostStore) -> None:
        """Each has its own ledger, though their folders lie side by side."""
        other = replace(config, service=config.service + "-other")
        served = Served(other)
        theirs = HostStore(other, path=None, timeout=0.5, holder="w")
        store.debit(order(cost=7))

        assert used(theirs) == {}
        theirs.close()
        served.end()

    def test_a_folder_of_others_is_not_used(self, config: CompanionConfig) -> None:
        """A folder that others can open holds no ledger of ours."""
        folder = folder_of(config)
        folder.prepare()
        folder.path.chmod(0o755)
        store = HostStore(config, path=None, holder="w")

        store.start()

        with pytest.raises(StoreUnavailable, match="mode is 755"):
            store.debit(order())
        assert ledgers(config.service) == []
        store.close()


def be_forked(store: HostStore) -> None:
    """Debit as a child that has its parent's memory, and leave without a word."""
    for _ in range(100):
        store.debit(order())
    asyncio.run(first_debit(store, "ann"))
    store.debit(order(FLYING, 3))
    os._exit(0)


class TestOneWorker:
    """A worker that is its own supervisor."""

    def test_one_call_changes_and_debits(self, store: HostStore) -> None:
        """Changes are made before the debit that they come with."""
        small = replace(LONG, amount=10)
        assert store.debit(order(small, 10)).is_admitted
        assert not store.debit(order(small, 1)).is_admitted

        assert store.debit(order(small, 3), [change(-3, small)]).is_admitted
        assert store.debit(order(small, 5), [change(-5, small, is_grant=True)]).is_admitted
        assert used(store) == {"requests/long": 10}

    @pytest.mark.parametrize("number", [0, 1, 1000, 1001, 2500])
    def test_any_number_of_changes_is_made(self, store: HostStore, number: int) -> None:
        """Many changes go in parts, alone as with a debit."""
        changes = [change(1)] * number

        store.apply(changes)
        store.debit(order(), changes)
        asyncio.run(adebit(store, changes))

        assert used(store)["requests/long"] == 3 * number + 2

    def test_without_a_ledger_calls_end_at_once(self, config: CompanionConfig) -> None:
        """Who cannot connect is told so, and a ledger is started meanwhile."""
        store = HostStore(config, path=None, holder="w")
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="No such file"):
            store.debit(order())
        assert time.monotonic() - began < 0.1

        eventually(lambda: answers(store))
        assert store.debit(order()).is_admitted
        store.close()

    def test_after_a_fork_the_child_has_connections_of_its_own(self, store: HostStore) -> None:
        """Parent and child count in one ledger at once, and what the child held is given back."""
        assert store.debit(order()).is_admitted
        asyncio.run(first_debit(store, "ann"))
        child = forked(be_forked, store)
        for _ in range(100):
            store.debit(order())

        child.join(10)
        assert child.exitcode == 0
        assert used(store)["requests/long"] == 203
        eventually(lambda: store.debit(order(FLYING, 1)).is_admitted)

    def test_operators_find_it(self, config: CompanionConfig, store: HostStore) -> None:
        """They show, grant and reset what an account has used, in the service of that name."""
        store.debit(order(cost=7))
        store.debit(order(EVER, 5))
        places = [user_folder(Path(str(config.root)))]

        assert running(config.service + "-other", places=places) == []
        (ledger,) = running(config.service, places=places)
        assert {entry.field: entry.used for entry in ledger.entries("t", "ann")} == {
            "requests/long": 7,
            "rows/ever": 5,
        }
        ledger.apply([change(-10, is_grant=True)])
        assert used(store) == {"requests/long": -3, "rows/ever": 5}
        ledger.reset("t", "ann", lifetime=False)
        assert used(store) == {"rows/ever": 5}
        ledger.reset("t", "ann", lifetime=True)
        assert used(store) == {}
        ledger.close()

    def test_a_round_trip_is_short(
        self, far: HostStore, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """How long a debit takes is printed; it depends on the machine."""
        times = []
        for _ in range(500):
            began = time.perf_counter()
            far.debit(order())
            times.append(time.perf_counter() - began)

        with capsys.disabled():
            print(f"\na debit in the host's ledger: {statistics.median(times) * 1e6:.0f} µs")
        assert used(far)["requests/long"] == 500


async def adebit(store: HostStore, changes: list[Change]) -> None:
    assert (await store.adebit(order(), changes)).is_admitted


def sockets() -> int:
    """Count the sockets that this process has open."""
    found = list(Path("/proc/self/fd").iterdir())
    return sum(str(x.readlink()).startswith("socket:") for x in found if os.path.lexists(x))


class TestLoops:
    """Event loops, which come and go."""

    def test_each_loop_has_a_connection(self, far: HostStore) -> None:
        """Loops that end in order or without a word leave nothing open behind."""
        asyncio.run(first_debit(far, "ann"))
        before = sockets()
        for _ in range(5):
            asyncio.run(first_debit(far, "ann"))
        for _ in range(5):
            loop = asyncio.new_event_loop()
            loop.run_until_complete(first_debit(far, "ann"))
            loop.close()
        del loop
        gc.collect()
        asyncio.run(first_debit(far, "ann"))
        gc.collect()

        assert used(far)["requests/long"] == 12
        assert sockets() < before + 5

    def test_debits_of_one_loop_share_it(self, store: HostStore) -> None:
        """Each of hundreds gets its own answer, and one that is cancelled hurts no other."""

        async def many() -> list[int]:
            small = replace(LONG, amount=1000)
            asked = [
                asyncio.ensure_future(store.adebit(order(small, account=str(i % 10))))
                for i in range(500)
            ]
            await asyncio.sleep(0)
            for task in asked[::5]:
                task.cancel()
            answers = await asyncio.gather(*asked, return_exceptions=True)
            return [
                answer.readings[0].remaining
                for i, answer in enumerate(answers)
                if i % 5 and not isinstance(answer, BaseException)
            ]

        remaining = asyncio.run(many())

        assert len(remaining) == 400
        # Each account is debited 50 times, in some order with the cancelled.
        assert set(remaining) <= set(range(950, 1000))

    def test_the_loop_goes_on_while_the_ledger_hangs(
        self, config: CompanionConfig, far: HostStore
    ) -> None:
        """Nothing waits on the loop itself."""
        (pid,) = ledgers(config.service)

        async def hang() -> float:
            longest, last = 0.0, time.monotonic()
            asked = [asyncio.ensure_future(far.adebit(order())) for _ in range(10)]
            while not all(task.done() for task in asked):
                await asyncio.sleep(0.001)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
            assert {type(task.exception()) for task in asked} == {StoreUnavailable}
            return longest

        os.kill(pid, signal.SIGSTOP)
        try:
            assert asyncio.run(hang()) < 0.2
        finally:
            os.kill(pid, signal.SIGCONT)

    def test_a_loop_notices_a_new_ledger(self, config: CompanionConfig, far: HostStore) -> None:
        """After a kill the same loop is answered by the successor."""

        async def outlive() -> None:
            await first_debit(far, "ann")
            (pid,) = ledgers(config.service)
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:
                with contextlib.suppress(StoreUnavailable):
                    await first_debit(far, "ann")
                    return
                await asyncio.sleep(0.01)

        asyncio.run(outlive())

        assert used(far)["requests/long"] >= 2


class TestLifetimes:
    """Sums that never come back."""

    def test_need_a_folder(self, config: CompanionConfig) -> None:
        """Without one the store is unfit for them, and fit for the rest."""
        served = Served(config)
        store = HostStore(config, path=None, timeout=0.5, holder="w")

        assert store.complaint(lifetime=False) is None
        complaint = "lifetimes need host:///a/folder/that/outlives/reboots"
        assert store.complaint(lifetime=True) == complaint
        with pytest.raises(StoreUnavailable, match=complaint):
            store.debit(order(EVER))
        with pytest.raises(StoreUnavailable, match=complaint):
            store.apply([change(1), change(1, EVER)])
        assert store.debit(order()).is_admitted
        assert used(store) == {"requests/long": 1}
        store.close()
        served.end()

    def test_outlive_the_service(self, config: CompanionConfig, root: Path) -> None:
        """Another run of the service, with another private folder, goes on where this one ended."""
        path = root / "kept"
        first = Served(config, path=path)
        store = HostStore(config, path=path, timeout=0.5, holder="w")
        eventually(lambda: answers(store))
        assert store.complaint(lifetime=True) is None
        assert store.debit(Order("t", (*order(EVER, 60).lines, *order().lines))).is_admitted
        first.end()
        folder_of(config).remove()
        assert path.stat().st_mode & 0o777 == 0o700

        second = Served(config, path=path)
        eventually(lambda: answers(store))
        assert used(store) == {"rows/ever": 60}
        receipt = store.debit(order(EVER, 50))
        assert receipt.readings[0].wait == math.inf
        store.reset("t", "ann", lifetime=True)
        second.end()

        third = Served(config, path=path)
        eventually(lambda: answers(store))
        assert used(store) == {}
        store.close()
        third.end()

    def test_are_written_by_one_ledger_at_a_time(self, config: CompanionConfig, root: Path) -> None:
        """The second instance of a service waits for the first to end, and then goes on."""
        path = root / "kept"
        other = replace(config, digest="other")
        first, second = Served(config, path=path), Served(other, path=path)
        ours = HostStore(config, path=path, timeout=0.5, holder="w")
        theirs = HostStore(other, path=path, timeout=0.5, holder="w")
        eventually(lambda: answers(ours) and answers(theirs))
        waiting, writing = sorted([ours, theirs], key=lambda s: s.complaint(lifetime=True) is None)
        assert "another ledger" in (waiting.complaint(lifetime=True) or "")
        with pytest.raises(StoreUnavailable, match="another ledger"):
            waiting.debit(order(EVER))
        assert writing.debit(order(EVER, 30)).is_admitted

        (first if writing is ours else second).end()

        eventually(lambda: waiting.complaint(lifetime=True) is None)
        assert used(waiting) == {"rows/ever": 30}
        for store in (ours, theirs):
            store.close()
        for served in (first, second):
            with contextlib.suppress(RuntimeError):
                served.end()

    @pytest.mark.parametrize(
        ("spoil", "why"),
        [
            pytest.param(lambda p: p.mkdir(), "others can write", id="open to others"),
            pytest.param(lambda p: p.touch(), "File exists|no folder", id="a file"),
            pytest.param(
                lambda p: p.symlink_to("nowhere"), "File exists|No such", id="a dead link"
            ),
        ],
    )
    def test_an_unfit_folder_is_refused(
        self, config: CompanionConfig, root: Path, spoil: Callable[[Path], None], why: str
    ) -> None:
        """The complaint says why, and lifetimes are not counted in the void."""
        path = root / "kept"
        spoil(path)
        if path.is_dir():
            path.chmod(0o777)
        served = Served(config, path=path)
        store = HostStore(config, path=path, timeout=0.5, holder="w")
        eventually(lambda: answers(store))

        assert (store.complaint(lifetime=True) or "").startswith("lifetimes cannot be kept: ")
        with pytest.raises(StoreUnavailable, match=why):
            store.debit(order(EVER))
        assert store.debit(order()).is_admitted
        store.close()
        served.end()

    def test_a_full_disk_charges_nothing(self, config: CompanionConfig, root: Path) -> None:
        """What cannot be written down is not counted, nor is what was ordered with it."""
        path = root / "kept"
        served = Served(config, path=path)
        store = HostStore(config, path=path, timeout=2.0, holder="w")
        eventually(lambda: answers(store))
        assert store.debit(order(EVER, 60)).is_admitted
        (file,) = path.glob("*.jsonl")
        # While it is written to the disk it is open twice.
        (descriptor,) = eventually(lambda: found if len(found := opened(file)) == 1 else None)
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, descriptor)
        os.close(full)

        with pytest.raises(StoreUnavailable, match="No space left"):
            store.debit(Order("t", (*order(EVER, 1).lines, *order().lines)))

        # The next look finds that it can be written anew.
        eventually(lambda: store.complaint(lifetime=True) is None)
        assert used(store) == {"rows/ever": 60, "requests/long": 0}
        assert store.debit(order(EVER, 1)).is_admitted
        assert "61" in file.read_text()
        store.close()
        served.end()


class TestJournal:
    """What a successor reads."""

    @staticmethod
    def notes(path: Path) -> list[Note]:
        return list(Journal(path).load(lambda _: None))

    def test_a_torn_line_spoils_no_other(self, root: Path) -> None:
        """What was not written whole is left out, and what comes after it is not."""
        path = root / "journal"
        path.touch(0o600)
        path.write_bytes(b'["window","tann","f",[1,2,3,4,5]]\n["window","ta')
        journal = Journal(path)
        journal.open()

        journal.append([Note(FLIGHT, "tann", "held", [2], "w")])

        journal.close()
        assert [note.kind for note in self.notes(path)] == ["window", "flight"]

    def test_it_is_written_anew_while_it_is_appended_to(self, root: Path) -> None:
        """After it, the file holds where each counter stands now, and nothing else."""
        ledger, path = MemoryLedger(), root / "journal"
        journal = Journal(path)
        journal.open()

        def debit(account: str) -> None:
            ledger.debit(order(account=account))
            journal.append([ledger.note("t", account, LONG)])

        async def compact() -> None:
            task = asyncio.ensure_future(journal.compact(ledger.keys(lifetime=False), ledger.notes))
            while not task.done():
                debit("7")
                debit("new")
                await asyncio.sleep(0)
            await task

        for number in range(2000):
            debit(str(number % 500))
        long = path.stat().st_size
        asyncio.run(compact())
        debit("499")
        journal.close()

        heir = MemoryLedger()
        assert list(Journal(path).load(heir.restore))
        for account in ("0", "7", "499", "new"):
            assert heir.entries("t", account) == ledger.entries("t", account)
        assert len(heir) == len(ledger)
        assert path.stat().st_size < long

    def test_a_ledger_that_others_could_write_is_not_read(self, root: Path) -> None:
        """A journal that is not this user's alone is refused."""
        path = root / "journal"
        path.touch(0o600)
        path.chmod(0o666)

        with pytest.raises(PermissionError):
            self.notes(path)


class HostMachine(LedgerMachine):
    """The ledger of a host, which also ends and begins again at any moment."""

    def make(self, clock: Callable[[], float]) -> Hooks:
        self.clock = clock
        self.root = Path(tempfile.mkdtemp(prefix="mg"))
        service = f"{FAMILY}-{secrets.token_hex(4)}"
        self.config = CompanionConfig(service, "digest", root=str(self.root))
        self.store = HostStore(self.config, path=self.root / "kept", timeout=2.0, holder="w")
        self.serve()
        return Hooks(self.store.debit, self.store.apply, self.store.entries, self.store.reset)

    def serve(self) -> None:
        self.served = Served(self.config, path=self.root / "kept", timer=self.clock)

    @rule()
    def restart(self) -> None:
        self.served.end()
        self.serve()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            self.served.end()
            shutil.rmtree(self.root, ignore_errors=True)


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = examples(max_examples=6, stateful_step_count=25, deadline=None)


def test_the_process_imports_nothing_heavy() -> None:
    """It starts fast and stays small."""
    program = "import sys, mlguard.runtime.stores.host.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    heavy = {"pandas", "numpy", "opentelemetry", "redis", "fastapi", "flask"}
    assert heavy.isdisjoint(done.stdout.split())
