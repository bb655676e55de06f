"""Do all workers of a host count in one file, whatever dies? Real processes, real signals."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as examples
from hypothesis.stateful import rule

from mlguard.host import mounts, statements
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.ledger import HOMELESS, HostLedger
from mlguard.host.processes import Process
from mlguard.ledger import (
    FLIGHT,
    LIFETIME,
    Change,
    Limit,
    Line,
    Order,
    StoreUnavailable,
)
from tests.core.ledgers import Hooks, LedgerMachine

FORK = multiprocessing.get_context("fork")
# No window of it ends while the tests run.
LONG = Limit("requests/long", 10**6, 10**9)
EVER = Limit("rows/ever", 100, kind=LIFETIME, unit="rows")
FLYING = Limit("flight", 3, kind=FLIGHT)
WAIT = 0.2


def ledger(folder: Path, *, wait: float = 5.0, **more: Any) -> HostLedger:
    return HostLedger(Database(folder / "host.db", wait=wait), is_lasting=True, **more)


def order(limit: Limit = LONG, cost: int = 1, account: str = "ann") -> Order:
    return Order("t", (Line(account, limit, cost),))


def change(extra: int, limit: Limit = LONG, *, is_grant: bool = False) -> Change:
    return Change("t", "ann", limit, extra, time.monotonic(), is_grant)


def used(of: HostLedger, account: str = "ann") -> dict[str, float]:
    return {entry.field: entry.used for entry in of.entries("t", account)}


@contextmanager
def working(work: Callable[[Connection], None], workers: int = 1) -> Iterator[list[Any]]:
    """Have processes do something, each with a connection to this one; none outlives the block."""
    found = []
    for _ in range(workers):
        here, there = FORK.Pipe()
        process = FORK.Process(target=work, args=(there,), daemon=True)
        process.start()
        there.close()
        found.append((process, here))
    try:
        yield found
    finally:
        for process, here in found:
            process.kill()
            process.join()
            here.close()


class HostMachine(LedgerMachine):
    """The ledger of a host, which is also closed and opened again at any moment."""

    def make(self, clock: Callable[[], float]) -> Hooks:
        self.folder = tempfile.TemporaryDirectory(prefix="mg")
        self.ledger = ledger(Path(self.folder.name), timer=clock, hold=1e9)
        self.database = self.ledger.database
        self.ledger.start()
        made = self.ledger
        return Hooks(made.debit, made.apply, made.entries, made.reset)

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.ledger.start()

    @rule()
    def look_after(self) -> None:
        self.ledger.look_after()
        self.database.look_after()

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.database.close()
            self.folder.cleanup()


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = examples(max_examples=25, stateful_step_count=30, deadline=None)


class TestTogether:
    """Several workers, each a process."""

    def test_exact(self, tmp_path: Path) -> None:
        """Four workers at once admit what the limit says, not one unit more or less."""
        few = Limit("few", 1234, 10**9)

        def work(here: Connection) -> None:
            mine = ledger(tmp_path)
            here.send(sum(mine.debit(order(few)).is_admitted for _ in range(600)))

        with working(work, workers=4) as workers:
            admitted = [here.recv() for _, here in workers]

        assert sum(admitted) == few.amount
        assert used(ledger(tmp_path)) == {"few": few.amount}

    def test_killed_at_random(self, tmp_path: Path) -> None:
        """Whoever is killed, nothing is counted below what was answered, nor much above."""

        def work(here: Connection) -> None:
            mine = ledger(tmp_path)
            for _ in range(10**6):
                mine.debit(order(LONG, 1))
                here.send(1)

        answered = killed = 0
        for _ in range(15):
            with working(work, workers=2) as workers:
                for _, here in workers:
                    here.recv()
                    answered += 1
                time.sleep(random.uniform(0, 0.02))
                for process, here in workers:
                    process.kill()
                    killed += 1
                    try:
                        while True:
                            answered += here.recv()
                    except EOFError:
                        pass

        counted = used(ledger(tmp_path))["requests/long"]
        assert answered <= counted <= answered + killed

    def test_stopped_at_random(self, tmp_path: Path) -> None:
        """Who is stopped in the middle delays others no longer than they would wait."""

        def work(here: Connection) -> None:
            mine = ledger(tmp_path)
            here.send(1)
            while True:
                mine.debit(order())

        mine = ledger(tmp_path, wait=WAIT)
        mine.debit(order())
        tries, longest = 0, 0.0
        with working(work) as [(process, here)]:
            here.recv()
            for _ in range(20):
                time.sleep(random.uniform(0, 0.01))
                os.kill(process.pid, signal.SIGSTOP)
                began = time.thread_time(), time.monotonic()
                try:
                    mine.debit(order())
                except StoreUnavailable:
                    tries += 1
                longest = max(longest, time.monotonic() - began[1])
                os.kill(process.pid, signal.SIGCONT)

        assert longest < 20 * WAIT, (longest, tries)

    def test_what_is_held_by_the_dead(self, tmp_path: Path) -> None:
        """What was in flight in a worker that is gone is given back."""

        def work(here: Connection) -> None:
            here.send(ledger(tmp_path).debit(order(FLYING, 3)).is_admitted)
            signal.pause()

        mine = ledger(tmp_path)
        with working(work) as [(process, here)]:
            assert here.recv()
            mine.look_after()
            assert not mine.debit(order(FLYING)).is_admitted
            process.kill()
            process.join()
            mine.look_after()

            assert mine.debit(order(FLYING)).is_admitted

    def test_a_fork(self, tmp_path: Path) -> None:
        """A child counts on in connections of its own, while its parent's threads count too."""
        mine = ledger(tmp_path)
        ends = threading.Event()
        admitted = [0]

        def count() -> None:
            while not ends.is_set():
                admitted[0] += mine.debit(order()).is_admitted

        def work(here: Connection) -> None:
            here.send(sum(mine.debit(order()).is_admitted for _ in range(50)))

        thread = threading.Thread(target=count)
        thread.start()
        children = 0
        for _ in range(5):
            with working(work, workers=2) as workers:
                children += sum(here.recv() for _, here in workers)
        ends.set()
        thread.join()

        assert children == 500
        assert used(mine) == {"requests/long": children + admitted[0]}

    def test_each_holds_for_himself(self, tmp_path: Path) -> None:
        """A forked worker gives back what it holds, and nothing of its parent's."""
        mine = ledger(tmp_path)
        mine.debit(order(FLYING, 2))

        def work(here: Connection) -> None:
            mine.debit(order(FLYING, 1))
            mine.close()
            here.send(1)

        with working(work) as [(_, here)]:
            here.recv()

        assert used(mine) == {"flight": 2}


class TestWaiting:
    """Others hold the file."""

    @contextmanager
    def held(self, folder: Path) -> Iterator[sqlite3.Connection]:
        other = sqlite3.connect(folder / "host.db", isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        try:
            yield other
        finally:
            other.close()

    def test_no_longer_than_said(self, tmp_path: Path) -> None:
        """A debit gives up, says why, and is charged never."""
        mine = ledger(tmp_path, wait=0.05)
        mine.debit(order())
        with self.held(tmp_path), pytest.raises(StoreUnavailable, match="others hold it"):
            mine.debit(order())

        assert used(mine) == {"requests/long": 1}

    def test_an_event_loop_goes_on(self, tmp_path: Path) -> None:
        """Where a debit must wait on an event loop, a thread does."""
        mine = ledger(tmp_path)
        mine.debit(order())
        turns = 0

        async def debit() -> bool:
            nonlocal turns
            with self.held(tmp_path) as other:
                waiting = asyncio.ensure_future(mine.adebit(order(), [change(-1)]))
                while turns < 20:
                    turns += 1
                    await asyncio.sleep(0.001)
                assert not waiting.done()
                other.execute("ROLLBACK")
                return (await waiting).is_admitted

        assert asyncio.run(debit())
        assert used(mine) == {"requests/long": 1}


class TestTheFile:
    """What happens to the file itself."""

    def test_only_ours(self, tmp_path: Path) -> None:
        """Nobody else can open it, nor what SQLite puts beside it; no name of a caller is in it."""
        ledger(tmp_path).debit(order(account="ann@example.org"))

        for path in tmp_path.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
            assert b"ann@" not in path.read_bytes()

    def test_swept_away(self, tmp_path: Path) -> None:
        """A file that is swept away is made anew, with as much as any worker remembers."""
        one, other = ledger(tmp_path), ledger(tmp_path)
        one.debit(order(LONG, 10))
        one.debit(order(EVER, 7))
        other.debit(order(LONG, 20))
        for path in tmp_path.iterdir():
            path.unlink()

        for each in (one, other, one):
            each.database.look_after()

        assert used(one) == used(other) == {"requests/long": 30, "rows/ever": 7}

    def test_damaged(self, tmp_path: Path) -> None:
        """What is no database is set aside, and counting goes on in a new one."""
        (tmp_path / "host.db").write_bytes(b"no database" * 1000)
        mine = ledger(tmp_path)

        with pytest.raises(StoreUnavailable, match="damaged"):
            mine.debit(order())
        assert mine.debit(order()).is_admitted
        assert (tmp_path / "host.damaged").exists()

    def test_the_machine_began_anew(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Windows end with the clock they were counted by; sums stay."""
        mine = ledger(tmp_path)
        mine.start()
        mine.debit(order(LONG, 10))
        mine.debit(order(EVER, 7))
        monkeypatch.setattr("mlguard.host.ledger.boot", lambda: "another")

        mine.start()
        mine.start()

        assert used(mine) == {"rows/ever": 7}

    def test_a_full_disk(self, tmp_path: Path) -> None:
        """While nothing can be written a probe fails as a debit does; then both go on."""

        def work(here: Connection) -> None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            mine = ledger(tmp_path)
            mine.debit(order())
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, most))
            here.send([_trouble(lambda: mine.debit(order())), _trouble(lambda: mine.apply(()))])
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
            mine.apply(())
            mine.debit(order())
            here.send(used(mine))

        with working(work) as [(_, here)]:
            for trouble in here.recv():
                assert "disk" in trouble
            assert here.recv() == {"requests/long": 2}

    @pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
    def test_lost_permissions(self) -> None:
        """Where the folder cannot be entered any longer, that is said, and ends with it."""
        folder = Path(tempfile.mkdtemp(prefix="mg", dir="/tmp"))  # which anybody may enter
        folder.chmod(0o777)

        def work(here: Connection) -> None:
            os.setuid(65534)
            mine = ledger(folder)
            mine.debit(order())
            here.send("up")
            here.recv()
            here.send(_trouble(mine.database.look_after))
            here.recv()
            mine.database.look_after()
            here.send(used(mine))

        with working(work) as [(_, here)]:
            assert here.recv() == "up"
            folder.chmod(0o000)
            here.send(1)
            assert "cannot be opened" in here.recv()
            folder.chmod(0o777)
            here.send(1)
            assert here.recv() == {"requests/long": 1}
        shutil.rmtree(folder)

    @pytest.mark.parametrize(
        ("kind", "is_remote"),
        [("nfs4", True), ("cifs", True), ("fuse.sshfs", True), ("ext4", False), ("tmpfs", False)],
    )
    def test_a_network_file_system(
        self, kind: str, is_remote: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Workers cannot share a file of another machine, which is said, and what to do."""
        table = tmp_path / "mountinfo"
        table.write_text(
            "22 1 0:1 / / rw - ext4 /dev/vda rw\n"
            f"23 22 0:2 / {str(tmp_path).replace(' ', chr(92) + '040')} rw - {kind} there:/x rw\n"
        )
        monkeypatch.setattr(mounts, "_MOUNTS", table)
        mine = ledger(tmp_path)

        if is_remote:
            with pytest.raises(StoreUnavailable, match="name a local folder"):
                mine.debit(order())
        else:
            assert mine.debit(order()).is_admitted

    def test_no_room_for_ever(self, tmp_path: Path) -> None:
        """What is past is swept, a part at a time; what is not stays."""
        now = [1000.0]
        mine = ledger(tmp_path, timer=lambda: now[0])
        short = Limit("short", 10, 1)
        for number in range(50):
            mine.debit(order(short, account=f"a{number}"))
        mine.debit(order(LONG))
        now[0] += 60

        mine.look_after()

        left = mine.database.read("SELECT key FROM counter")
        assert len(left) == 1

    def test_lifetimes_need_a_home(self, tmp_path: Path) -> None:
        """A file that a reboot may take keeps no lifetimes."""
        mine = HostLedger(Database(tmp_path / "host.db", wait=1.0), is_lasting=False)

        assert mine.complaint(lifetime=True) == HOMELESS
        assert mine.complaint(lifetime=False) is None

    def test_sums_survive_the_power(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was charged for ever is synced, once, and windows are not."""
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", synced.append)
        mine = ledger(tmp_path)
        mine.debit(order(LONG))
        mine.sync()
        assert not synced
        mine.debit(order(EVER))
        mine.sync()
        mine.sync()

        assert len(synced) == 1

    def test_every_statement_is_short(self) -> None:
        """None opens a transaction, or answers with rows while it holds the file."""
        texts = [
            statements.debit(3),
            statements.begin(3),
            statements.settle(3),
            statements.blank(3),
        ]
        for text in texts:
            assert "BEGIN" not in text
            assert "RETURNING" not in text


class TestProcesses:
    """Who still runs."""

    def test_text(self) -> None:
        """A process in one word is read again, and runs."""
        mine = Process.mine()

        assert Process.read(mine.text) == mine
        assert not mine.is_gone()

    def test_of_another_space(self) -> None:
        """Nobody judges the processes of another container."""
        elsewhere = Process(2**22 + 1, "1", "another")

        assert not elsewhere.is_gone()


def _trouble(act: Callable[[], object]) -> str:
    try:
        act()
    except (StoreUnavailable, DatabaseFailed) as error:
        return str(error)
    return ""
