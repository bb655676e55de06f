"""Do the workers of a host know what each other counts and revokes? Real processes and signals."""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import re
import shutil
import signal
import socketserver
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import pytest
from flask import Flask

from mlguard.app.service import Service
from mlguard.errors import InvalidSettings
from mlguard.host import snapshots
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.revocations import RevocationTable
from mlguard.messages import Call
from mlguard.revocations import Revocation, Revocations, RevocationsFull
from mlguard_flask import MLGuard
from tests.servers import ask, wait_until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="a host's workers are found in /proc"
)
FORK = multiprocessing.get_context("fork")
ISSUER = "https://login.example.com/"
SETTINGS: dict[str, Any] = {"service": {"name": "met"}, "models": [{"name": "iris"}]}
COUNT = "http_server_request_duration_seconds_count"
SOON = 2.0  # seconds; a machine may be slow


def of_token(name: str, until: float | None = None) -> Revocation:
    return Revocation(ISSUER, jti=name, until=until)


def request(service: Service, *, trace: bool = False) -> None:
    """Have a request come and go."""
    exchange = service.guard.open(Call("GET"))
    exchange.started(204)
    if trace:
        service.metrics.request_ended("GET", "/traced", 204, 0.1, None, "a" * 32)
    exchange.ended()


def number(page: str, name: str = COUNT) -> float:
    """Add up the samples of a name; -1 where there is none."""
    found = re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", page, re.MULTILINE)
    return sum(map(float, found)) if found else -1


class Worker:
    """A worker in a process of its own, which does what it is told.

    Args:
        settings: Of its service.
        is_alone: Whether nobody started it: it is an instance of its own.
    """

    def __init__(
        self, settings: dict[str, Any] = SETTINGS, *, is_alone: bool = False, starts: bool = True
    ) -> None:
        self._here, there = FORK.Pipe()
        self.process = FORK.Process(
            target=self._work, args=(there, settings, is_alone, starts), daemon=True
        )
        self.process.start()
        there.close()
        if starts:
            assert self._here.recv() == "started"

    def tell(self, act: Callable[[Service], Any]) -> Any:
        """Have something done with its service, and return what comes of it."""
        self.begin(act)
        return self._here.recv()

    def begin(self, act: Callable[[Service], Any]) -> None:
        self._here.send(act.__name__)

    def page(self) -> str:
        return str(self.tell(page))

    def knows(self, name: str) -> bool:
        return bool(self.tell(ACTS["knows_" + name]))

    def signal(self, number: int) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()

    @staticmethod
    def _work(there: Connection, settings: dict[str, Any], is_alone: bool, starts: bool) -> None:
        if is_alone:
            multiprocessing.process._parent_process = None  # type: ignore[attr-defined]
        service = Service(settings)
        if starts:
            service.start()
            there.send("started")
        with suppress(EOFError):
            while True:
                there.send(ACTS[there.recv()](service))


def page(service: Service) -> str:
    return service.expose("application/openmetrics-text")[2].decode()


def page_at_once(service: Service) -> str:
    """Scrape without asking anybody; "" where somebody is to be asked."""
    exposed = service.expose_at_once("application/openmetrics-text")
    return exposed[2].decode() if exposed else ""


def page_of_a_child(service: Service) -> str:
    """Scrape a process that is forked now, and has answered one request."""
    here, there = os.pipe()
    if not os.fork():
        service.start()
        request(service)
        os.write(there, page(service).encode())
        service.close()
        os._exit(0)
    os.close(there)
    with os.fdopen(here) as read:
        said = read.read()
    os.wait()
    return said


def status(service: Service) -> int:
    return service.expose("")[0]


def ten(service: Service) -> None:
    for _ in range(10):
        request(service)


def traced(service: Service) -> None:
    request(service, trace=True)


def begun(service: Service) -> None:
    service.guard.open(Call("GET"))


def close(service: Service) -> None:
    service.close()


def broken(service: Service) -> None:
    class Broken:
        def collect(self) -> Any:
            raise ValueError("of a user")

    service.metrics.registry._collector_to_names[Broken()] = []  # type: ignore[index]
    service.metrics.registry.others.append(Broken())  # type: ignore[arg-type]


def revoke_one(service: Service) -> None:
    service.revoke(of_token("one"))


def revoke_on_a_loop(service: Service) -> float:
    async def revoke() -> float:
        began = time.perf_counter()
        service.revoke(of_token("one"))
        return time.perf_counter() - began

    return asyncio.run(revoke())


def knows_one(service: Service) -> bool:
    return service._revoked.covers(ISSUER, {"jti": "one"}, "")


def remembers(service: Service) -> bool:
    """Say whether it knows what workers that are gone have counted."""
    return service._host is not None and service._host._snapshots._version > 0


def threads(service: Service) -> list[str]:
    return [thread.name for thread in threading.enumerate()]


ACTS: dict[str, Callable[[Service], Any]] = {
    act.__name__: act
    for act in (
        *(
            page,
            page_at_once,
            page_of_a_child,
            status,
            ten,
            traced,
            begun,
            close,
            broken,
            remembers,
            threads,
        ),
        *(revoke_one, revoke_on_a_loop, knows_one),
    )
}


@pytest.fixture
def workers() -> Iterator[Callable[..., list[Worker]]]:
    """Start workers; none outlives the test."""
    made: list[Worker] = []

    def start(number: int = 1, **more: Any) -> list[Worker]:
        new = [Worker(**more) for _ in range(number)]
        made.extend(new)
        return new

    yield start
    for worker in made:
        worker.kill()


@pytest.fixture
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the workers of this test meet."""
    return Folder.of("met").database


def rows(file: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(Database(file, wait=2.0)) as database:
        return database.read(sql)


class TestMetrics:
    def test_whoever_is_asked_speaks_for_all(self, workers: Any) -> None:
        """Each scrape tells the sum over four workers, exactly, whichever answers."""
        four = workers(4)
        for worker in four:
            worker.tell(ten)

        assert [number(worker.page()) for worker in four * 3] == [40] * 12
        assert four[0].tell(threads) == [
            "MainThread",
            "mlguard-background",
            "mlguard-background-waits",
        ]

    def test_a_lone_worker_asks_nobody(self, workers: Any) -> None:
        """Whoever has no siblings speaks for the instance at once; with one, it asks."""
        (alone,), (one, _) = workers(is_alone=True), workers(2)
        for worker in (alone, one):
            worker.tell(ten)

        assert number(alone.tell(page_at_once)) == 10
        assert one.tell(page_at_once) == ""
        assert number(alone.tell(page_of_a_child)) == 11
        assert alone.tell(page_at_once) == ""
        assert number(alone.page()) == 11

    def test_the_only_one_of_a_supervisor_asks_nobody(self, workers: Any, file: Path) -> None:
        """A worker whose siblings are still to come writes its numbers down, and asks nobody."""
        (one,) = workers()
        one.tell(ten)

        assert number(one.page()) == 10
        assert rows(file, "SELECT asked FROM instance") == [(0,)]
        one.kill()
        (late,) = workers()
        assert number(late.page()) == 10

    def test_who_is_gone_is_counted(self, workers: Any, file: Path) -> None:
        """What workers counted that left or were killed stays, with exemplars; gauges do not."""
        stays, leaves, dies = workers(3)
        for worker in (stays, leaves, dies):
            worker.tell(ten)
            worker.tell(traced)
            worker.tell(begun)
        assert number(stays.page(), "http_server_active_requests") == 3
        leaves.tell(close)
        leaves.kill()
        dies.kill()
        wait_until(
            lambda: len(rows(file, "SELECT name FROM worker")) == 1, "who is gone is added up"
        )
        (late,) = workers()

        for worker in (stays, late):
            said = worker.page()
            assert number(said) == 36
            assert number(said, "http_server_active_requests") == 1
            assert number(said, "mlguard_workers_lost_total") == 1
            assert 'trace_id="aaaa' in said

    def test_recycled_again_and_again(self, workers: Any) -> None:
        """Of a hundred requests of workers that are replaced none is lost or counted twice."""
        (stays,) = workers()
        for times in range(1, 11):
            (worker,) = workers()
            worker.tell(ten)
            worker.tell(close)
            worker.kill()
            said = stays.page()
            assert number(said) == 10 * times
            assert number(said, "mlguard_workers_lost_total") == 0

    def test_a_worker_that_hangs(self, workers: Any) -> None:
        """A stopped worker counts as last seen, and delays a scrape for half a second."""
        one, hangs = workers(2)
        hangs.tell(ten)
        assert number(one.page()) == 10
        hangs.signal(signal.SIGSTOP)
        began = time.monotonic()

        assert number(one.page()) == 10
        assert time.monotonic() - began > snapshots.PATIENCE
        hangs.signal(signal.SIGCONT)

    def test_a_worker_that_forks(self, workers: Any) -> None:
        """A process that a worker forks begins at zero: nothing is counted twice."""
        (one,) = workers()
        one.tell(ten)

        assert number(one.tell(page_of_a_child)) == 11
        assert number(one.page()) == 11

    def test_another_instance(self, workers: Any, file: Path) -> None:
        """Who was started by somebody else is not counted, and forgotten when it is gone."""
        (one,) = workers()
        (other,) = workers(is_alone=True)
        other.tell(ten)

        assert number(one.page()) == -1
        assert number(other.page()) == 10
        other.kill()
        wait_until(
            lambda: len(rows(file, "SELECT name FROM instance")) == 1, "the instance is forgotten"
        )

    def test_a_collector_that_fails(self, workers: Any) -> None:
        """Where one worker's numbers cannot be read, the others are told, and its last ones."""
        one, spoilt = workers(2)
        for worker in (one, spoilt):
            worker.tell(ten)
        assert number(one.page()) == 20
        spoilt.tell(broken)
        one.tell(ten)

        assert number(spoilt.page()) == 30

    def test_a_lone_worker_takes_its_numbers_along(self) -> None:
        """A second service that a process makes does not count what the first did."""
        for _ in range(2):
            service = Service(SETTINGS)
            service.start()
            request(service)
            assert number(page(service)) == 1
            service.close()


class TestWithoutTheFile:
    def test_it_is_away(self, workers: Any, file: Path) -> None:
        """Siblings fail the scrape, a lone worker goes on, and all is well when it is back."""
        (one,), (alone,) = workers(), workers(is_alone=True)
        for worker in (one, alone):
            worker.tell(ten)
        assert number(one.page()) == 10
        aside = file.parent.with_name("aside")
        file.parent.rename(aside)
        file.parent.write_text("in the way")
        wait_until(lambda: one.tell(status) == 503, "a sibling's scrape fails")

        wait_until(lambda: 'mlguard_degraded{part="host"} 1' in alone.page(), "the metric says so")
        assert number(alone.page()) == 10
        file.parent.unlink()
        aside.rename(file.parent)
        wait_until(lambda: one.tell(status) == 200, "the file is back")
        assert number(one.page()) == 10
        wait_until(lambda: 'mlguard_degraded{part="host"} 0' in one.page(), "the metric says so")

    def test_the_folder_is_swept_away(self, workers: Any, file: Path) -> None:
        """No total falls, and nothing that was revoked is forgotten."""
        stays, other, dies = workers(3)
        for worker in (stays, other, dies):
            worker.tell(ten)
        stays.tell(revoke_one)
        dies.tell(close)
        dies.kill()
        wait_until(lambda: stays.tell(remembers) and other.tell(remembers), "it is added up")
        assert number(stays.page()) == 30
        shutil.rmtree(file.parent)
        wait_until(file.exists, "the file is made anew")

        wait_until(lambda: number(stays.page()) == 30, "the total is written anew")
        wait_until(lambda: len(rows(file, "SELECT key FROM revocation")) == 1, "it is kept")
        assert workers()[0].knows("one")

    def test_it_is_damaged(self, workers: Any, file: Path) -> None:
        """A damaged file is set aside, and a new one holds what is known."""
        (one,) = workers()
        one.tell(ten)
        one.tell(revoke_one)
        assert number(one.page()) == 10
        file.write_bytes(b"junk" * 1000)

        wait_until(lambda: one.tell(status) == 200 and number(one.page()) == 10, "it is made anew")
        wait_until(lambda: workers()[0].knows("one"), "what was revoked is known")

    @pytest.fixture
    def nowhere(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have no folder that can be written to."""
        monkeypatch.setenv("XDG_RUNTIME_DIR", "")
        monkeypatch.setattr(tempfile, "tempdir", "/proc")

    def test_there_is_no_folder(self, nowhere: None, caplog: pytest.LogCaptureFixture) -> None:
        """The service starts, says so once, and goes on."""
        with caplog.at_level(logging.WARNING):
            service = Service(SETTINGS)
            service.start()
            request(service)
            said = page(service)
            service.close()

        assert number(said) == 1
        assert 'mlguard_degraded{part="host"} 1' in said
        assert [m for m in caplog.messages if "cannot meet" in m] == caplog.messages

    def test_lifetimes_need_one(self) -> None:
        """What must never be forgotten is not counted without a folder: the start is refused."""
        quotas = {"rows": ["5/day"], "lifetime": 9, "store": "host:///proc/no/such"}
        service = Service({**SETTINGS, "quotas": quotas})

        with pytest.raises(InvalidSettings, match=r"lifetimes need a folder .*/proc/no"):
            service.start()

    def test_a_folder_of_the_settings(self, nowhere: None, tmp_path: Path) -> None:
        """Where the platform has no folder, the settings may name one."""
        service = Service({**SETTINGS, "service": {"name": "met", "folder": str(tmp_path)}})
        service.start()
        said = page(service)
        service.close()

        assert 'mlguard_degraded{part="host"} 0' in said
        assert [f.database.exists() for f in Folder.existing("met", tmp_path)] == [True]

    def test_it_is_switched_off(self) -> None:
        """Without the file a worker speaks for itself, and makes no folder."""
        service = Service({**SETTINGS, "service": {"name": "met", "host_file": False}})
        service.start()
        request(service)

        assert number(page(service)) == 1
        assert Folder.existing("met") == []
        service.close()


class TestRevocations:
    def test_every_worker_knows(self, workers: Any) -> None:
        """What one revokes the others know, other instances too, and those that come later."""
        one, other = workers(2)
        (stranger,) = workers(is_alone=True)
        one.tell(revoke_one)
        began = time.monotonic()

        assert one.knows("one")
        wait_until(lambda: other.knows("one") and stranger.knows("one"), "the others know")
        assert time.monotonic() - began < SOON
        for worker in (one, other, stranger):
            worker.kill()
        assert workers()[0].knows("one")

    def test_on_an_event_loop(self, workers: Any, file: Path) -> None:
        """It returns at once: the file is written to in the background."""
        one, other = workers(2)
        with closing(Database(file, wait=2.0)) as database, database.lend() as connection:
            connection.made.execute("BEGIN IMMEDIATE")  # nobody can write
            assert one.tell(revoke_on_a_loop) < 0.05
            connection.made.execute("ROLLBACK")

        wait_until(lambda: other.knows("one"), "it is written in the background")

    def test_a_job(self, workers: Any) -> None:
        """A process that serves nothing writes it down, before it returns."""
        (one,) = workers()
        (job,) = workers(starts=False)
        job.tell(revoke_one)

        wait_until(lambda: one.knows("one"), "the worker knows", within=SOON)

    def test_no_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What there is no room for is refused aloud."""
        monkeypatch.setattr("mlguard.revocations.MAX_ENTRIES", 1)
        service = Service(SETTINGS)
        service.start()
        service.revoke(of_token("one"))

        with pytest.raises(RevocationsFull):
            service.revoke(of_token("two"))
        service.close()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(tmp_path / "host.db", wait=2.0)) as made:
        yield made


class TestTable:
    def test_what_two_say_is_joined(self, database: Database) -> None:
        """The latest `before` and the longest `until` win, with all their digits."""
        moment = 1795394424.123456
        one, other = (RevocationTable(database, Revocations()) for _ in range(2))
        one.learn([Revocation(ISSUER, None, "ann", moment, moment + 9e9)])
        other.learn([Revocation(ISSUER, None, "ann", moment - 1, None)])
        for table in (one, other, one):
            table.save()
        known = Revocations()

        RevocationTable(database, known).start()

        assert list(known) == [Revocation(ISSUER, None, "ann", moment, None)]

    def test_what_is_news_is_read(self, database: Database) -> None:
        """Who has read the file learns what changes in it later, and nothing twice."""
        known = Revocations()
        reader, writer = (RevocationTable(database, k) for k in (known, Revocations()))
        reader.start()
        for before in (1.0, 2.0):
            writer.learn([Revocation(ISSUER, None, "ann", before)])
            writer.save()
            reader.read()

        assert [r.before for r in known] == [2.0]
        assert reader.revision == 2

    @pytest.mark.parametrize("name", ["ann", "a\ud800", "'; --", "n\0l", "é" * 1024])
    def test_any_name(self, database: Database, name: str) -> None:
        """Whatever a subject is called, it is kept as it is."""
        table, known = RevocationTable(database, Revocations()), Revocations()
        table.learn([Revocation(ISSUER, None, name, 5.0)])
        table.save()

        RevocationTable(database, known).start()

        assert list(known) == [Revocation(ISSUER, None, name, 5.0)]

    def test_what_is_past_is_removed(self, database: Database) -> None:
        """What may be forgotten does not stay in the file."""
        database.write("INSERT INTO revocation (key, issued, until) VALUES ('[]', 0, 5)")
        table = RevocationTable(database, Revocations())
        table.learn([of_token("one")])

        table.save()

        assert database.read("SELECT key FROM revocation") == [(json.dumps(of_token("one").key),)]


class Forking(socketserver.ForkingMixIn, WSGIServer):
    """A server that forks for each request, as Flask's does with `processes=3`."""


class Quiet(WSGIRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_a_server_that_forks_for_each_request(tmp_path: Path) -> None:
    """Quotas hold, and all is counted, although each process sees one request alone."""
    app = Flask("forked")
    quotas = {"requests": ["5/day"], "store": "host://", "store_timeout": 2.0}
    MLGuard(app, {**SETTINGS, "quotas": quotas})
    app.add_url_rule("/", view_func=lambda: "fine")
    with Forking(("127.0.0.1", 0), Quiet) as server:
        server.set_app(app)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        answers = [ask(url + "/").status for _ in range(8)]
        wait_until(lambda: number(ask(url + "/metrics").text) == 8, "all that ended is counted")
        server.shutdown()

    assert answers == [200] * 5 + [429] * 3
