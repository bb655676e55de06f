"""Is what one host revokes revoked on all hosts? Real services, a real Redis."""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import pytest

from mlguard.app.service import Service
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.revocations import RevocationTable
from mlguard.redis.revocations import RevocationStore, publish
from mlguard.revocations import Revocation, Revocations
from tests.servers import find, free_port, wait_until

redis = pytest.importorskip("redis", reason="the package redis is not installed")
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="the tests find processes in /proc"
)

ISSUER = "https://login.example.com/"
PASSWORD = "p%40ss-" + secrets.token_hex(8)  # as written in a URL: p@ss-…


class Redis:
    """A Redis with a password that keeps nothing on disk.

    Attributes:
        url: Of it, with the password.
    """

    def __init__(self, cwd: Path) -> None:
        self._program, self._cwd, self.port = find("redis-server"), cwd, free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.kill()

    def start(self) -> None:
        """Run it, empty."""
        password = PASSWORD.replace("%40", "@")
        config = f"port {self.port}\nbind 127.0.0.1\nsave ''\nrequirepass {password}\n"
        self._process = subprocess.Popen(
            [self._program, "-"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=self._cwd
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(config.encode())
        wait_until(self._is_ready, "Redis answers")

    def kill(self) -> None:
        """End it, with all it holds."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)

    def hang(self) -> None:
        """Have it take connections, and answer none."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def client(self) -> Any:
        """Connect as any other user of it would."""
        return redis.Redis.from_url(self.url, decode_responses=True, protocol=2)

    def entries(self, service: str) -> set[str]:
        """Return which tokens it holds."""
        with self.client() as client:
            written = client.hgetall(f"mlguard:{{{service}}}:revoked")
        return {json.loads(text)["jti"] for text in written.values()}

    def _is_ready(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


class Host:
    """A host: one worker, with a folder that no other host has."""

    def __init__(self, service: str) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="mg"))
        self.service = service
        self.begin()

    def begin(self) -> None:
        """Start the service."""
        self._worker = Service(
            {
                "service": {"name": self.service, "folder": str(self.root)},
                "auth": {
                    "issuer": ISSUER,
                    "audience": "tests",
                    "algorithms": ["HS256"],
                    "secret_env": "REVOCATION_SECRET",
                },
            }
        )
        self._worker.start()

    def close(self) -> None:
        """Stop the service."""
        self._worker.close()

    def revoke(self, *names: str) -> None:
        for name in names:
            self._worker.revoke(of_token(name))

    def knows(self, *names: str) -> bool:
        known = self._worker._revoked
        return all(known.covers(ISSUER, {"jti": name}, "") for name in names)

    def written(self) -> int:
        """Tell how many revocations stand in the file."""
        with contextlib.closing(Database(self.file, wait=2.0)) as database:
            return len(database.read("SELECT key FROM revocation"))

    @property
    def file(self) -> Path:
        return Folder.of(self.service, self.root).database

    def page(self) -> tuple[int, str]:
        """Return the status and the text of a scrape."""
        status, _, text = self._worker.expose("")
        return status, text.decode()

    def degraded(self) -> bool:
        """Say what the metric says of revocations."""
        return 'mlguard_degraded{part="revocations"} 1' in self.page()[1]


class Known(RevocationTable):
    """What one host knows, which reads no file."""

    def __init__(self) -> None:
        self.known = Revocations()
        super().__init__(Database(wait=0.1), self.known)

    def entries(self) -> list[Revocation]:
        return list(self.known)


def of_token(name: str, until: float | None = None) -> Revocation:
    return Revocation(ISSUER, jti=name, until=until)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    with Redis(tmp_path) as server:
        monkeypatch.setenv("MLGUARD_AUTH__REVOCATION_STORE", server.url)
        monkeypatch.setenv("REVOCATION_SECRET", secrets.token_hex(32))
        yield server


@pytest.fixture
def service() -> str:
    return "test-" + secrets.token_hex(4)


@pytest.fixture
def hosts(server: Redis, service: str) -> Iterator[list[Host]]:
    hosts = [Host(service) for _ in range(2)]
    yield hosts
    for host in hosts:
        host.close()
        shutil.rmtree(host.root)


def test_every_host_knows_within_two_seconds(
    hosts: list[Host], server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """What one revokes the other learns, and keeps in its file; no password is seen anywhere."""
    here, there = hosts

    here.revoke("a")
    began = time.monotonic()
    wait_until(lambda: there.knows("a"), "the other host knows")
    assert time.monotonic() - began < 20

    there.revoke("b")
    began = time.monotonic()
    wait_until(lambda: here.knows("b"), "the first host knows")
    assert time.monotonic() - began < 20
    wait_until(lambda: there.written() == 2, "it is written down")
    wait_until(lambda: server.entries(here.service) == {"a", "b"}, "Redis has it all")
    assert [host.degraded() for host in hosts] == [False, False]

    secret = PASSWORD.partition("-")[2]
    for host in hosts:
        assert secret.encode() not in host.file.read_bytes()
    assert secret not in caplog.text


def test_a_redis_that_dies_stops_nothing(
    hosts: list[Host], server: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """Each host goes on, says so, and when Redis is back, empty, all know everything."""
    here, there = hosts
    here.revoke("before")
    wait_until(lambda: there.knows("before"), "the other host knows")

    server.kill()
    here.revoke("here")
    assert here.knows("here")
    there.revoke("there")
    wait_until(lambda: all(h.degraded() for h in hosts), "the metric says so")
    assert not there.knows("here")

    server.start()
    began = time.monotonic()
    wait_until(lambda: there.knows("here") and here.knows("there"), "all know")
    assert time.monotonic() - began < 20
    wait_until(
        lambda: server.entries(here.service) == {"before", "here", "there"}, "Redis has it all"
    )
    wait_until(lambda: not any(h.degraded() for h in hosts), "the metric says so")
    assert caplog.text.count("are not kept in the store") == len(hosts)
    assert f"127.0.0.1:{server.port}" in caplog.text
    assert PASSWORD.partition("-")[2] not in caplog.text


def test_a_redis_that_hangs_stops_nothing(hosts: list[Host], server: Redis) -> None:
    """A host waits for it in a thread of its own."""
    here, _ = hosts
    server.hang()

    here.revoke("a")
    began = time.monotonic()

    assert here.knows("a")
    assert here.page()[0] == 200
    assert time.monotonic() - began < 20
    server.kill()
    server.start()


def test_a_redis_that_is_emptied_is_filled_again(hosts: list[Host], server: Redis) -> None:
    """Although nothing is revoked anew and no connection broke."""
    here, _ = hosts
    here.revoke("a")
    wait_until(lambda: server.entries(here.service) == {"a"}, "Redis knows")

    with server.client() as client:
        client.flushall()

    wait_until(lambda: server.entries(here.service) == {"a"}, "Redis knows again")


def test_a_host_that_comes_later_knows(server: Redis, service: str) -> None:
    """A service that starts without Redis uses its file, and hands that over later."""
    server.kill()
    first = Host(service)
    first.revoke("a")
    first.close()

    server.start()
    first.begin()
    second = Host(service)
    wait_until(lambda: second.knows("a"), "the second host knows")
    stranger = Host(service + "-other")
    stranger.revoke("b")
    wait_until(lambda: server.entries(stranger.service) == {"b"}, "Redis keeps them apart")

    assert first.knows("a")
    assert not second.knows("b")
    assert not stranger.knows("a")
    for host in (first, second, stranger):
        host.close()
        shutil.rmtree(host.root)


def test_an_operator_reaches_every_host(hosts: list[Host], server: Redis) -> None:
    """What is published in Redis comes to all hosts."""
    publish(server.url, hosts[0].service, [of_token("a")])

    wait_until(lambda: all(host.knows("a") for host in hosts), "all hosts know")


class TestStore:
    """What is written to Redis?"""

    def test_what_others_wrote_is_joined(self, server: Redis, service: str) -> None:
        """The latest `before` and the longest `until` win, with all their digits."""
        moment = 1795394424.123456
        publish(server.url, service, [Revocation(ISSUER, None, "ann", moment, moment + 9e9)])
        publish(server.url, service, [Revocation(ISSUER, None, "ann", moment - 1, None)])
        publish(server.url, service, [Revocation(ISSUER, None, "ann", moment - 2, 5)])
        book = Known()

        RevocationStore(server.url, service).exchange(book)

        assert book.entries() == [Revocation(ISSUER, None, "ann", moment, None)]

    def test_writers_lose_nothing_of_each_other(self, server: Redis, service: str) -> None:
        """What one has written the other adds to, in parts."""
        stores = [RevocationStore(server.url, service) for _ in range(2)]
        books = [Known(), Known()]
        for book, start in zip(books, (0, 2000), strict=True):
            book.learn(of_token(f"{number}") for number in range(start, start + 2500))
        for store, book in zip(stores, books, strict=True):
            store.exchange(book)
        stores[0].exchange(books[0])

        assert len(books[0].entries()) == 4500
        assert len(server.entries(service)) == 4500
        for store in stores:
            store.close()

    def test_what_is_past_is_removed(self, server: Redis, service: str) -> None:
        """A day later, as clocks differ, who sees it takes it out; junk does no harm."""
        soon, day = time.time() + 0.3, 86_400
        short = of_token("short", until=soon - day)
        publish(server.url, service, [short, of_token("day", until=soon), of_token("long")])
        with server.client() as client:
            client.hset(f"mlguard:{{{service}}}:revoked", "x", '{"issuer":1,"jti":"junk"}')
        wait_until(lambda: time.time() > soon, "it is past")
        book = Known()

        store = RevocationStore(server.url, service)
        store.exchange(book)
        store.close()

        assert book.entries() == [of_token("long")]
        assert server.entries(service) == {"day", "long", "junk"}

    def test_many_may_write_at_once(self, server: Redis, service: str) -> None:
        """Of eight that change the same entry at the same time none is lost."""

        def write(number: int) -> None:
            joint = Revocation(ISSUER, None, "ann", number, None)
            publish(server.url, service, [joint, of_token(f"{number}")])

        with ThreadPoolExecutor(8) as writers:
            list(writers.map(write, range(40)))

        book = Known()
        store = RevocationStore(server.url, service)
        store.exchange(book)
        store.close()
        assert {r.jti for r in book.entries() if r.jti} == {f"{number}" for number in range(40)}
        assert [r.before for r in book.entries() if r.subject] == [39]

    @pytest.mark.parametrize(
        "url",
        [
            "redis://:sesame@127.0.0.1:1/0",
            "redis://user:sesame@127.0.0.1:1/0?password=sesame",
            "redis://:x/sesame@127.0.0.1:1/0",
            "redis://:se/same@127.0.0.1:port/0",
            "sesame://:sesame@127.0.0.1/",
            "rediss://:sesame@127.0.0.1:1/0",
        ],
    )
    def test_a_password_is_never_told(self, url: str) -> None:
        """Whatever is wrong with a URL, the error holds no part of it that is secret."""
        with pytest.raises((ConnectionError, ValueError)) as error:
            publish(url, "service", [of_token("a")])

        assert "same" not in str(error.value)
        assert error.value.__cause__ is None

    def test_a_wrong_password_is_no_secret_told(self, server: Redis, service: str) -> None:
        """Redis refuses it, and the error says so without it."""
        url = server.url.replace(PASSWORD, "sesame")

        with pytest.raises(ConnectionError, match=rf"127\.0\.0\.1:{server.port}/0: ") as error:
            publish(url, service, [of_token("a")])

        assert "sesame" not in str(error.value)
