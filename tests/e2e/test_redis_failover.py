"""Do quotas stay exact while a part of their Redis fails over? Real clusters, real sentinels."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from mlguard.app.background import Background
from mlguard.errors import InvalidSettings
from mlguard.ledger import Limit, Line, Order
from mlguard.quota_store.failover import Failover
from mlguard.redis import RedisStore
from mlguard.redis.revocations import RevocationStore
from mlguard.revocations import Revocation
from mlguard_fastapi import MLGuard
from tests.contract.client import ISSUER, SECRET, SETTINGS, token
from tests.redis_servers import SERVICE, Cluster, Redis, Watched, feeds, follows
from tests.servers import wait_until

ROWS = Limit("rows", 10**9, 3600, unit="rows")
TIMEOUT = 0.5  # seconds: longer than a planned failover lets writes wait
PACE = 0.005
STEADY = 50  # debits of each caller that go well before and after what happens
UNKNOWN = 2  # debits of one caller that may be on their way when a server is killed
UNREPLICATED = 5  # debits in the milliseconds that a replica is behind


class Load:
    """Callers of a failover, each in a thread, one row at a time.

    Attributes:
        failover: Who is asked.
        admitted: What each caller was admitted.
        slowest: Seconds of the slowest answer each caller got.
        told: Whether the store was said to be away, each time that changed.
    """

    def __init__(self, url: str, tags: list[str], prefix: str) -> None:
        self.told: list[bool] = []
        self._store = RedisStore(url, prefix=prefix, timeout=TIMEOUT, holder="x")
        self.failover = Failover(
            lambda: self._store,
            name="store",
            share=1.0,
            lifetime=False,
            on_away=self.told.append,
            wake=lambda seconds: self._background.wake("quotas", seconds),
        )
        self._background = Background("mlguard-test")
        self._background.add("quotas", 1.0, self.failover.look_after, may_wait=True)
        self.tags = tags
        self.admitted: Counter[str] = Counter()
        self.local: Counter[str] = Counter()
        self.slowest: dict[str, float] = dict.fromkeys(tags, 0.0)
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(tag,)) for tag in tags]

    def __enter__(self) -> Load:
        self.failover.start()
        self._background.start()
        for thread in self._threads:
            thread.start()
        self.go_on()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
        self._background.close()
        self.failover.close()

    def stop(self) -> None:
        """Ask no more."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def go_on(self, *tags: str) -> None:
        """Wait until these callers, or all, were counted in the store for a while."""
        began = {tag: self.admitted[tag] - self.local[tag] for tag in tags or self.tags}

        def is_done() -> bool:
            return all(
                self.admitted[tag] - self.local[tag] >= n + STEADY for tag, n in began.items()
            )

        wait_until(is_done, "the callers are counted")

    def counted(self, tag: str) -> int:
        """Return what the store counts of a caller."""
        return sum(int(entry.used) for entry in self._store.entries(tag, "p"))

    def master(self) -> int:
        """Return the port of the server that is asked."""
        master = self._store._servers.router._master
        assert master is not None
        return master.port

    def unsettled(self) -> int:
        """Tell how much is not told to the store yet."""
        shards = self.failover._shards.values()
        return sum(len(shard.pending) + len(shard.owed._units) for shard in shards)

    def _ask(self, tag: str) -> None:
        while not self._is_over.wait(PACE):
            began = time.monotonic()
            receipt = self.failover.debit(Order(tag, (Line("p", ROWS, 1),)))
            self.slowest[tag] = max(self.slowest[tag], time.monotonic() - began)
            if receipt is not None and receipt.is_admitted:
                self.local[tag] += receipt.at < 0
                self.admitted[tag] += 1


def settled(load: Load, tag: str, *, lost: int = 0) -> None:
    """Demand that a caller's rows are all counted once, but for so many that may be lost."""
    load.stop()

    def is_counted() -> bool:
        with contextlib.suppress(Exception):
            return load.counted(tag) >= load.admitted[tag] - lost
        return False

    wait_until(is_counted, f"{load.admitted[tag]} rows are counted but {lost}")
    assert load.counted(tag) <= load.admitted[tag]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    path = tmp_path_factory.mktemp("cluster")
    with Cluster(path, replicas=True, timeout=1000) as cluster:
        yield cluster


def tags_of(cluster: Cluster) -> list[str]:
    """Return a caller of each master, the first one of the one that is to fail."""
    found: dict[int, str] = {}
    while len(found) < 3:
        tag = uuid4().hex[:8]
        found.setdefault(cluster.master_of(tag).port, tag)
    return list(found.values())


def replica_of(cluster: Cluster, master: Redis) -> Redis:
    with master.client() as client:
        port = client.info("replication")["slave0"]["port"]
    return next(n for n in (*cluster.nodes, *cluster.replicas) if n.port == port)


@pytest.mark.xdist_group("failover cluster")
class TestClusters:
    """What if one of three masters fails over?"""

    def run(
        self,
        cluster: Cluster,
        act: Callable[[Redis, Redis], object],
        undo: Callable[[Redis], object],
        lost: int = 0,
    ) -> tuple[Load, list[str]]:
        """Have a caller's master fail over under load, and come back as a replica."""
        tags = tags_of(cluster)
        master = cluster.master_of(tags[0])
        replica = replica_of(cluster, master)
        with Load(cluster.url, tags, uuid4().hex) as load:
            wait_until(lambda: feeds(master), "the replica is fed")
            act(master, replica)
            wait_until(
                lambda: cluster.master_of(tags[0]).port == replica.port, "the replica took over"
            )
            load.go_on()
            before = load.admitted[tags[0]]
            undo(master)
            wait_until(lambda: follows(master), "the old master follows")
            if lost:  # what one that wakes answers, until it learns that it is none, is gone
                lost += load.admitted[tags[0]] - before
            load.go_on()
            for tag in tags[1:]:
                settled(load, tag)
                assert load.local[tag] == 0
            settled(load, tags[0], lost=lost)
        return load, tags

    def test_planned(self, cluster: Cluster) -> None:
        """Nobody notices: all are counted, each once, and nothing was away."""
        load, _ = self.run(
            cluster, lambda _, replica: replica.ask("CLUSTER", "FAILOVER"), lambda _: None
        )

        assert load.told == []

    def test_killed(self, cluster: Cluster) -> None:
        """Its callers go on here, and are charged once; others do not notice."""
        load, tags = self.run(
            cluster, lambda master, _: master.kill(), lambda m: m.start(), UNKNOWN
        )

        assert load.told == [True, False]
        assert load.local[tags[0]] > 0

    def test_stopped(self, cluster: Cluster) -> None:
        """One that hangs, and goes on when another took over, charges nobody again."""
        load, tags = self.run(
            cluster, lambda master, _: master.pause(), lambda m: m.go_on(), UNKNOWN
        )

        assert load.told == [True, False]
        assert max(load.slowest[tag] for tag in tags[1:]) < TIMEOUT


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    """Of each test's own, as a sentinel is busy with one failover for long."""
    with Watched(tmp_path) as watched:
        yield watched


class TestSentinels:
    """What if the one master that sentinels watch fails over?"""

    def run(
        self, watched: Watched, act: Callable[[Redis], object], undo: Callable[[Redis], object]
    ) -> tuple[int, int]:
        """Have the master fail over under load, and come back as a replica.

        Returns:
            What was admitted, and what of that is counted.
        """
        tag, before = uuid4().hex[:8], watched.master()
        master, replica = sorted(watched.nodes, key=lambda node: node.port != before)
        with Load(watched.url, [tag], uuid4().hex) as load:
            wait_until(lambda: feeds(master), "the replica is fed")
            act(master)
            wait_until(lambda: watched.master() == replica.port, "the replica took over")
            wait_until(lambda: load.master() == replica.port, "the callers follow")
            undo(master)
            load.go_on()
            settled(load, tag, lost=load.admitted[tag])
            wait_until(lambda: not load.unsettled(), "all is told")
            return load.admitted[tag], load.counted(tag)

    def test_planned(self, watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
        """What the old master counts until one follows is lost; the log says how much at most."""
        began = time.monotonic()
        admitted, counted = self.run(watched, lambda _: plan(watched), lambda _: None)

        said = [r.args for r in caplog.records if "not replicated" in r.msg]
        assert len(said) == 1
        assert admitted - said[0][-1] <= counted <= admitted
        assert said[0][-1] < (time.monotonic() - began) / PACE

    def test_planned_with_replicas_that_are_missed(self, tmp_path: Path) -> None:
        """With min-replicas-to-write a master that is left stops counting at once."""
        with Watched(tmp_path, options=("--min-replicas-to-write", "1")) as watched:
            replica = watched.nodes[1]

            def act(master: Redis) -> None:
                plan(watched)
                wait_until(lambda: watched.master() == replica.port, "the replica took over")
                master.ask("REPLICAOF", "127.0.0.1", replica.port)  # a sentinel takes ten seconds

            admitted, counted = self.run(watched, act, lambda _: None)

        assert admitted - UNREPLICATED <= counted <= admitted

    def test_killed(self, watched: Watched) -> None:
        """Only what was not replicated yet is lost, and nothing is charged twice."""
        admitted, counted = self.run(watched, lambda m: m.kill(), lambda m: m.start())

        assert admitted - UNREPLICATED <= counted <= admitted

    def test_stopped(self, watched: Watched) -> None:
        """One that hangs, and goes on as if it were the master, is not asked any longer."""
        admitted, counted = self.run(watched, lambda m: m.pause(), lambda m: m.go_on())

        assert admitted - UNREPLICATED <= counted <= admitted


def plan(watched: Watched) -> None:
    """Have the sentinel change the master, as soon as it takes that."""

    def is_taken() -> bool:
        with contextlib.suppress(Exception):
            return bool(watched.sentinel.ask("SENTINEL", "FAILOVER", SERVICE))
        return False

    wait_until(is_taken, "the sentinel takes the order")


class Guarded:
    """A FastAPI service that meets other hosts in a Redis."""

    def __init__(self, url: str) -> None:
        self._url, self._name = url, f"host-{uuid4().hex[:8]}"
        self._client: Any = None

    @contextlib.contextmanager
    def started(self) -> Iterator[None]:
        """Serve, as a host that was never there before."""
        app = FastAPI()
        app.get("/me")(lambda: {"me": True})
        auth = {**SETTINGS["auth"], "scopes": [], "public": [], "revocation_store": self._url}
        os.environ["TWIN_SECRET"] = SECRET
        guard = MLGuard(app, {"service": {"name": self._name}, "auth": auth})
        try:
            with TestClient(app) as self._client:
                yield
        finally:
            guard.service.close()

    def revoke(self, subject: str) -> None:
        """Revoke what a subject holds, on another host."""
        store = RevocationStore(self._url, self._name)
        store.publish([Revocation(ISSUER, subject=subject, before=time.time() + 60)])
        store.close()

    def asked(self, subject: str) -> tuple[int, str]:
        """Return the status and the code of an answer to a subject."""
        headers = {"Authorization": f"Bearer {token(subject)}"}
        answer = self._client.get("/me", headers=headers)
        return answer.status_code, answer.json().get("code", "")


class TestRevocations:
    """What does a host know that was not there when something was revoked?"""

    @pytest.fixture(params=["single", "cluster", "sentinel"])
    def url(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
        if request.param == "cluster":
            yield request.getfixturevalue("cluster").url
        elif request.param == "sentinel":
            yield request.getfixturevalue("watched").url
        else:
            with Redis(tmp_path) as redis:
                yield redis.url

    def test_a_new_host_refuses_from_its_first_request(self, url: str) -> None:
        """It has read what others revoked before it serves."""
        guarded = Guarded(url)
        guarded.revoke("alice")
        with guarded.started():
            assert guarded.asked("alice") == (401, "token_revoked")
            assert guarded.asked("bob") == (200, "")

    def test_a_store_that_is_gone(self, tmp_path: Path) -> None:
        """Until it was read once, tokens get a 503, and then what it says."""
        redis = Redis(tmp_path)
        guarded = Guarded(redis.url)
        with guarded.started():
            assert guarded.asked("bob") == (503, "revocations_unknown")
            with redis:
                guarded.revoke("alice")
                wait_until(lambda: guarded.asked("bob") == (200, ""), "it was read")
                assert guarded.asked("alice") == (401, "token_revoked")

    @pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
    def test_a_store_that_forgets_stops_the_start(self, tmp_path: Path, policy: str) -> None:
        """Whatever evicts may forget what is revoked."""
        options = ("--maxmemory", "100mb", "--maxmemory-policy", policy)
        with Redis(tmp_path, *options) as redis:
            guarded = Guarded(redis.url)
            with (
                pytest.raises(InvalidSettings, match=rf"revocation_store.*{policy}"),
                guarded.started(),
            ):
                pass
