"""Do the workers of a service count as one, whatever dies? Real processes, real signals."""

from __future__ import annotations

import contextlib
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

from mlguard import revocations
from mlguard.host.folder import Folder, roots
from mlguard.host.private import Lock
from mlguard.host.processes import Process, supervisor
from mlguard.messages import Outcome
from mlguard.metrics import Family, Metrics
from mlguard.revocations import Revocation, Revocations, RevocationsFull
from mlguard.runtime.companion import Companion, CompanionConfig, DriftModel, outbox
from mlguard.runtime.companion.book import Book
from mlguard.runtime.companion.frames import MAX_FRAME, encode, write_revocations
from mlguard.runtime.companion.operators import remember, tell_companions
from mlguard.runtime.companion.revoked_file import RevokedFile
from mlguard.runtime.companion.totals import Totals
from mlguard.runtime.companion.windows import Windows

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the tests find processes in /proc"
)

T = TypeVar("T")
SPAWN = multiprocessing.get_context("spawn")
ROWS = "mlguard_inference_rows_total"
FAMILY = "test-" + secrets.token_hex(4)
ISSUER = "https://login.example.com/"


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


def of_token(name: str, until: float | None = None) -> Revocation:
    return Revocation(ISSUER, jti=name, until=until)


class Alone:
    """A service whose only worker is this process, or the process that makes one."""

    def __init__(self, config: CompanionConfig) -> None:
        self.states: list[bool] = []
        self.metrics = Metrics([("iris", "3")])
        self.revocations = Revocations()
        self.companion = Companion(
            config,
            snapshot=self.metrics.snapshot,
            on_state=self.states.append,
            on_revoked=lambda told: self.revocations.learn(told, time.time()),
        )

    def predict(self, rows: int) -> None:
        self.metrics.inference_ended(Outcome("iris", "3", 0.1, rows))

    def revoke(self, *names: str) -> None:
        self.companion.revoke([of_token(name) for name in names])

    def knows(self, *names: str) -> bool:
        return all(self.revocations.covers(ISSUER, {"jti": name}, "") for name in names)

    def has_handed_over(self) -> bool:
        """Say whether the companion has acknowledged everything."""
        return self.companion.has_handed_over

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


def file_of(config: CompanionConfig) -> Path:
    """Return the path of what is revoked, in a folder that is there."""
    folder = folder_of(config)
    folder.prepare()
    return RevokedFile(folder.root, config.service).path


def hello() -> bytes:
    return b'{"hello":{"process":{"pid":%d,"started":""},"name":"x"}}' % os.getpid()


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

        with pytest.raises(AuthenticationError):
            Client(str(folder.path / "socket"), authkey=b"wrong")
        for frames in (
            [b"junk"],
            [b"[]"],
            [b"{}"],
            [b'{"hello":1}'],
            [hello(), b'{"unknown":1}'],
            [hello(), b'{"rows":[1]}'],
            [hello(), b'{"snapshot":[{"name":"a","samples":[]},{"name":1}],"poll":null}'],
            [hello(), b'{"snapshot":[{"name":"a","samples":[{"value":"1"}]}],"poll":null}'],
            [hello(), b"[" * 100_000],
            [hello(), b" " * (8 * 2**20 + 1)],
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


class TestRevocations:
    """What one worker revokes is revoked on the host."""

    def test_every_worker_knows_within_a_second(
        self, config: CompanionConfig, workers: list[Worker]
    ) -> None:
        """What one says the others know, those that come later too."""
        workers[0].do("revoke", "a")
        revoked = time.monotonic()
        for worker in workers:
            eventually(lambda worker=worker: worker.do("knows", "a"))
        assert time.monotonic() - revoked < 5  # the companion had to start

        workers[1].do("revoke", "b", "c")
        revoked = time.monotonic()
        for worker in workers:
            eventually(lambda worker=worker: worker.do("knows", "c"))
        assert time.monotonic() - revoked < 1

        late = Worker(config)
        eventually(lambda: late.do("knows", "a") and late.do("knows", "c"))
        assert not late.do("knows", "d")
        late.kill()

    def test_an_acknowledged_revocation_outlives_the_companion(
        self, config: CompanionConfig, workers: list[Worker]
    ) -> None:
        """Killed right after it has said yes, the next one tells those that come."""
        workers[0].do("revoke", "a")
        eventually(lambda: workers[0].do("has_handed_over"))
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGKILL)
        for worker in workers:
            worker.kill()

        late = Worker(config)

        eventually(lambda: late.do("knows", "a"))
        assert companions(config.service) != [pid]
        late.kill()

    def test_what_was_not_acknowledged_is_sent_again(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """A companion that dies before it has read what is revoked loses none of it."""
        assert alone.total() is not None
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGSTOP)

        for number in range(10):
            alone.revoke(f"{number}")
        os.kill(pid, signal.SIGKILL)

        eventually(lambda: all(alone.knows(f"{number}") for number in range(10)))
        eventually(alone.has_handed_over)

    def test_a_service_that_starts_again_knows(self, config: CompanionConfig) -> None:
        """Before its companion is there, what an earlier service revoked is read from a file."""
        first = Alone(config)
        first.revoke("a")  # before the start, too
        first.companion.start()
        eventually(lambda: first.states == [True])
        first.companion.close()
        eventually(lambda: not companions(config.service))

        again = Alone(config)

        assert again.companion.known_revocations() == [of_token("a")]
        assert Alone(replace(config, service="other")).companion.known_revocations() == []

    def test_a_worker_that_leaves_hands_over(self, config: CompanionConfig) -> None:
        """What is revoked in the last moment is not lost."""
        alone = Alone(config)
        alone.companion.start()
        eventually(lambda: alone.states == [True])

        alone.revoke("last")
        alone.companion.close()

        eventually(lambda: not companions(config.service))
        assert alone.companion.known_revocations() == [of_token("last")]

    def test_two_companions_of_a_service_share_a_file(self, config: CompanionConfig) -> None:
        """Of an old and a new service that run side by side, each learns what the other revokes."""
        old, new = Alone(config), Alone(replace(config, digest="new settings"))
        for alone in (old, new):
            alone.companion.start()
            assert alone.total() is not None
        assert len(companions(config.service)) == 2

        for number in range(10):
            (old, new)[number % 2].revoke(f"{number}")
        began = time.monotonic()
        for alone in (old, new):
            eventually(lambda alone=alone: all(alone.knows(f"{n}") for n in range(10)))
        assert time.monotonic() - began < 1

        assert {r.jti for r in old.companion.known_revocations()} == {str(n) for n in range(10)}
        for alone in (old, new):
            alone.companion.close()

    def test_a_worker_that_never_reads_holds_up_nobody(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """Where one worker's buffer is full the others are told all the same."""
        assert alone.total() is not None
        other = Alone(config)
        other.companion.start()
        with folder_of(config).connect() as deaf:
            deaf.send_bytes(hello())
            eventually(lambda: len(saved(config, "workers.json")) == 2)

            for many in range(0, 20_000, 1000):
                alone.revoke(*(f"{number:0100}" for number in range(many, many + 1000)))
            eventually(lambda: other.knows(f"{19_999:0100}"))
            eventually(alone.has_handed_over)
            alone.revoke("next")
            began = time.monotonic()
            eventually(lambda: other.knows("next"))
            assert time.monotonic() - began < 1
            assert alone.total() is not None
        other.companion.close()

    def test_junk_and_silence_revoke_nothing(self, config: CompanionConfig, alone: Alone) -> None:
        """What is no revocation ends its connection."""
        assert alone.total() is not None
        for entries in (b"1", b"[1]", b'[{"issuer":"i"}]'):
            with pytest.raises((EOFError, OSError)):
                answer_to(folder_of(config), [hello(), b'{"revoke":%s,"number":1}' % entries])

        assert len(alone.revocations) == 0
        assert alone.total() is not None

    @pytest.mark.parametrize(
        ("content", "rest"),
        [
            pytest.param(b"junk", [], id="no JSON"),
            pytest.param(b'{"revoked":1}', [], id="no list"),
            pytest.param(b"[" * 100_000, [], id="deep"),
            pytest.param(
                b'{"revoked":[1,{"issuer":"https://login.example.com/","jti":"old"}]}',
                ["old"],
                id="one bad entry",
            ),
        ],
    )
    def test_a_damaged_file_is_put_aside(
        self,
        config: CompanionConfig,
        content: bytes,
        rest: list[str],
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        """What can be read of it counts, it is kept for who looks, and all goes on."""
        path = file_of(config)
        path.write_bytes(content)
        path.chmod(0o600)
        alone = Alone(config)
        assert [r.jti for r in alone.companion.known_revocations()] == rest

        alone.companion.start()
        eventually(lambda: alone.states[-1:] == [True])  # else who waits writes it down itself
        alone.revoke("new")
        eventually(alone.has_handed_over)
        alone.companion.close()
        eventually(lambda: not companions(config.service))

        assert sorted(r.jti or "" for r in alone.companion.known_revocations()) == ["new", *rest]
        assert path.with_suffix(".corrupt").read_bytes() == content
        assert capfd.readouterr().err.count("is damaged") == 1

    @pytest.mark.parametrize("spoil", ["mode", "link", "folder mode"])
    def test_a_file_that_others_may_have_made_is_refused(
        self, config: CompanionConfig, root: Path, spoil: str
    ) -> None:
        """It is neither believed nor replaced; what is revoked now holds until the service ends."""
        path = file_of(config)
        stranger = root / "stranger.json"
        stranger.write_text(json.dumps({"revoked": [of_token("theirs").as_dict()]}))
        stranger.chmod(0o644 if spoil == "mode" else 0o600)
        if spoil == "link":
            path.symlink_to(stranger)
        else:
            stranger.rename(path)
        alone = Alone(config)
        if spoil == "folder mode":
            path.parent.chmod(0o755)
        with pytest.raises(OSError, match=r"mode is|symbolic links"):
            alone.companion.known_revocations()
        if spoil == "folder mode":
            return

        alone.companion.start()
        alone.revoke("ours")
        eventually(lambda: alone.knows("ours"))

        assert not alone.knows("theirs")
        with pytest.raises(OSError, match=r"mode is|symbolic links"):
            alone.companion.known_revocations()
        degraded = value(alone.companion.collect(5), "mlguard_degraded", part="revocations")
        assert degraded == 1
        assert not alone.has_handed_over()
        path.unlink()
        eventually(alone.has_handed_over)
        alone.companion.close()

    def test_a_file_that_is_swept_away_comes_back(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """Temporary folders are swept while services run."""
        alone.revoke("a")
        eventually(alone.has_handed_over)
        assert file_of(config).stat().st_mode & 0o777 == 0o600
        assert not list(file_of(config).parent.glob("*.lock"))

        file_of(config).unlink()

        eventually(lambda: alone.companion.known_revocations() == [of_token("a")], 1)

    def test_a_folder_that_is_swept_away_takes_nothing_along(
        self, config: CompanionConfig, alone: Alone
    ) -> None:
        """The next companion meets in a new folder, and knows what the last one knew."""
        alone.revoke("a")
        eventually(alone.has_handed_over)
        (pid,) = companions(config.service)

        shutil.rmtree(file_of(config).parent)

        eventually(lambda: companions(config.service) not in ([], [pid]))
        late = Alone(config)
        late.companion.start()
        eventually(lambda: late.knows("a"))
        late.companion.close()

    def test_a_lock_that_is_never_released_is_not_waited_for(self, config: CompanionConfig) -> None:
        """The file is read without; what cannot be written is written later."""
        path = file_of(config)
        remembered, book = RevokedFile(path.parent, config.service), Book()
        book.learn([of_token("a")])

        with contextlib.closing(Lock(path.with_suffix(".lock"))) as lock:
            assert lock.acquire()
            with pytest.raises(TimeoutError):
                remembered.exchange(book)
            assert remembered.read() == []

        remembered.exchange(book)
        assert remembered.read() == [of_token("a")]

    def test_what_has_no_room_is_refused_aloud(
        self,
        config: CompanionConfig,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """A worker hears at once that too many wait; a book says how many it did not take."""
        monkeypatch.setattr(outbox, "MAX_ENTRIES", 3)
        monkeypatch.setattr(revocations, "MAX_ENTRIES", 3)
        told: list[Revocation] = []
        alone, book = Alone(config), Book(told.extend)

        alone.revoke("a", "b")
        with pytest.raises(RevocationsFull):
            alone.revoke("c", "d")
        assert book.learn([of_token("a"), of_token("b")]) == 0
        assert book.learn([of_token("c"), of_token("d")]) == 1

        assert {r.jti for r in book.entries()} == {"a", "b", "c"}
        # Workers may have room: who forgot more than this companion.
        assert {r.jti for r in told} == {"a", "b", "c", "d"}
        assert "no room for 1 more" in caplog.text

    def test_the_longest_texts_fit_into_frames(self) -> None:
        """As many revocations as are sent together are never too long."""
        longest = Revocation(
            "\U0001f600" * 1024, jti="\U0001f600" * 1024, before=1 / 3, until=1 / 3
        )

        parts = list(write_revocations([longest] * 300))

        assert [len(part) for part in parts] == [256, 44]
        assert len(encode({"revoke": parts[0], "number": 2**63})) < MAX_FRAME

    def test_what_is_past_is_not_kept(self, config: CompanionConfig, alone: Alone) -> None:
        """With the next revocation, what may be forgotten is gone from the file."""
        assert alone.total() is not None
        soon = time.time() + 1
        alone.companion.revoke([of_token("short", until=soon), of_token("past", until=1)])
        eventually(lambda: alone.knows("short"))
        assert not alone.knows("past")
        eventually(lambda: time.time() > soon)

        alone.revoke("long")
        eventually(alone.has_handed_over)

        kept = json.loads(file_of(config).read_text())["revoked"]
        assert [entry["jti"] for entry in kept] == ["long"]
        assert alone.companion.known_revocations() == [of_token("long")]


class TestOperators:
    """Who revokes without being a worker."""

    @pytest.fixture
    def config(
        self, config: CompanionConfig, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[CompanionConfig]:
        """A service whose folder operators find; what they leave elsewhere is removed."""
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        yield replace(config, root=None)
        for path in roots():
            RevokedFile(path, config.service).path.unlink(missing_ok=True)

    def test_every_companion_is_told(self, config: CompanionConfig) -> None:
        """All of the service's take it, when their workers have been sent it; no other's does."""
        ordered = [of_token(f"{number}") for number in range(1000)]
        blue, green = Alone(config), Alone(replace(config, digest="green"))
        other = Alone(replace(config, service=config.service + "-other"))
        for alone in (blue, green, other):
            alone.companion.start()
            assert alone.total() is not None

        assert tell_companions(config.service, ordered, timeout=5) == 2

        eventually(lambda: all(alone.knows("0", "999") for alone in (blue, green)), 1)
        assert not other.knows("0")
        assert set(blue.companion.known_revocations()) == set(ordered)
        assert other.companion.known_revocations() == []
        for alone in (blue, green, other):
            alone.companion.close()

    def test_none_runs(self, config: CompanionConfig) -> None:
        """Nobody takes it; written down, it is known at the next start."""
        assert tell_companions(config.service, [of_token("a")]) == 0
        remember(config.service, [of_token("a")])
        remember(config.service, [of_token("b")])

        alone = Alone(config)
        assert {r.jti for r in alone.companion.known_revocations()} == {"a", "b"}
        alone.companion.start()
        eventually(lambda: alone.knows("a") and alone.knows("b"))
        alone.companion.close()

    def test_what_is_remembered_is_where_a_service_may_look(self, config: CompanionConfig) -> None:
        """It may be given another environment; a folder that others can open is left out."""
        own, *others = roots()
        own.mkdir(mode=0o755)

        remember(config.service, [of_token("a")])

        assert not list(own.iterdir())
        kept = [RevokedFile(other, config.service).read() for other in others]
        assert [of_token("a")] in kept

    def test_a_running_companion_reads_what_is_remembered(self, config: CompanionConfig) -> None:
        """What is only written down is known within a second."""
        alone = Alone(config)
        alone.companion.start()
        assert alone.total() is not None

        remember(config.service, [of_token("a")])

        eventually(lambda: alone.knows("a"), 1)
        alone.companion.close()

    def test_an_operator_is_no_worker(self, config: CompanionConfig) -> None:
        """It counts nowhere, and may do nothing but revoke."""
        alone = Alone(config)
        alone.companion.start()
        assert alone.total() == 0
        eventually(lambda: len(saved(config, "workers.json")) == 1)

        with folder_of(config).connect() as operator:
            operator.send_bytes(b'{"operator":{}}')
            assert json.loads(operator.recv_bytes()) == {"service": config.service}
            assert alone.total() == 0
            assert len(saved(config, "workers.json")) == 1
            alone.companion.close()
            # The supervisor is over: an operator that stays keeps nothing alive.
            eventually(lambda: not companions(config.service))
        with pytest.raises((EOFError, OSError)):
            answer_to(folder_of(config), [b'{"operator":{}}', b'{"rows":[]}'])

    def test_a_companion_that_hangs_is_not_counted(self, config: CompanionConfig) -> None:
        """An operator waits no longer than it wants to."""
        alone = Alone(config)
        alone.companion.start()
        assert alone.total() is not None
        (pid,) = companions(config.service)
        os.kill(pid, signal.SIGSTOP)

        began = time.monotonic()
        assert tell_companions(config.service, [of_token("a")], timeout=0.3) == 0
        assert time.monotonic() - began < 1
        os.kill(pid, signal.SIGCONT)
        alone.companion.close()

    @pytest.mark.parametrize("spoil", ["mode", "owner", "folder mode"])
    def test_a_folder_of_others_is_not_entered(self, config: CompanionConfig, spoil: str) -> None:
        """Where somebody else could listen, nobody is told, and nothing is written down."""
        if spoil == "owner" and os.getuid():
            pytest.skip("only root gives folders away")
        alone = Alone(config)
        alone.companion.start()
        assert alone.total() is not None
        path = folder_of(config).path
        path = path if spoil == "folder mode" else path.parent
        if spoil == "owner":
            os.chown(path, 65534, 65534)
        else:
            path.chmod(0o755)

        assert tell_companions(config.service, [of_token("a")], timeout=5) == 0
        assert not alone.knows("a")
        os.chown(path, os.getuid(), os.getgid())
        path.chmod(0o700)
        assert tell_companions(config.service, [of_token("a")], timeout=5) == 1
        alone.companion.close()


def test_requests_in_flight_of_the_dead_are_forgotten() -> None:
    """Only counts outlive a process, and they outlive the companion."""
    metrics = Metrics([("iris", "3")])
    metrics.active.add(1)
    metrics.inference_ended(Outcome("iris", "3", 0.1, 2))
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

        assert folder.root == Path(f"/tmp/mlguard-{os.getuid()}")

    @pytest.mark.parametrize("spoil", ["mode", "link", "parent mode", "parent link", "file"])
    def test_a_folder_that_others_may_have_made_is_refused(
        self, config: CompanionConfig, root: Path, spoil: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Wrong rights or a link: no companion, a key of one's own, one line in the log."""
        folder = folder_of(config)
        path = folder.root if spoil.startswith("parent") else folder.path
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
        assert not list(folder.path.iterdir())

    def test_a_lock_that_its_holder_removed_is_another(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Who opened the file just before its holder took it away holds what others see."""
        fcntl = pytest.importorskip("fcntl", reason="the platform has no such locks")
        first, second, third = (Lock(tmp_path / "a.lock") for _ in range(3))
        flock = fcntl.flock

        def lock_late(descriptor: int, how: int) -> None:
            first.close()
            flock(descriptor, how)

        assert first.acquire()
        monkeypatch.setattr(fcntl, "flock", lock_late)

        assert second.acquire()
        assert not third.acquire()
        second.close()
        assert not list(tmp_path.iterdir())


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
