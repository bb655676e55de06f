"""Does a store in Redis count as it should, and say in time where it cannot? Real servers."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mlguard.ledger import FLIGHT, LIFETIME, Change, Limit, Line, Order, StoreUnavailable
from tests.redis_servers import (
    PASSWORD,
    QUOTED,
    Cluster,
    Redis,
    Watched,
    Way,
    junk_server,
)
from tests.servers import ROOT, free_port, wait_until

pytest.importorskip("redis", reason="the package redis is not installed")


from mlguard.call_ids import new_call_id
from mlguard.host.database import Database
from mlguard.host.revocations import RevocationTable
from mlguard.performance import KeptCall
from mlguard.redis import RedisStore
from mlguard.redis.kept_calls import RedisCalls
from mlguard.redis.revocations import RevocationStore
from mlguard.redis_url import problem
from mlguard.revocations import Revocation, Revocations

TIMEOUT = 0.1
MARGIN = 2.0  # seconds that a machine under load takes beyond; without a timeout it is PATIENT
ROWS = Limit("rows", 100, 3600, unit="rows")
REQUESTS = Limit("requests", 50, 60)
EVER = Limit("ever", 1000, kind=LIFETIME, unit="rows")
HELD = Limit("held", 3, kind=FLIGHT)
PATIENT = 5.0  # seconds, where not the time is looked at


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis"), password=PASSWORD) as server:
        yield server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Redis]:
    """A server that a test may hurt."""
    with Redis(tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def stores() -> Iterator[Callable[..., RedisStore]]:
    """Makes stores that share their keys with those of the same test."""
    made: list[RedisStore] = []
    prefix = uuid4().hex

    def make(url: str, *, timeout: float = PATIENT, holder: str = "worker") -> RedisStore:
        made.append(RedisStore(url, prefix=prefix, timeout=timeout, holder=holder))
        return made[-1]

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(server: Redis, stores: Callable[..., RedisStore]) -> RedisStore:
    return stores(server.url)


def order(*limits: Limit, cost: int = 1, tag: str = "acme", account: str = "alice") -> Order:
    return Order(tag, tuple(Line(account, limit, cost) for limit in limits))


def change(limit: Limit, extra: int, *, tag: str = "acme") -> Change:
    return Change(tag, "alice", limit, extra, time.time())


def used(store: RedisStore, tag: str = "acme") -> dict[str, float]:
    return {entry.field: entry.used for entry in store.entries(tag, "alice")}


def timed(call: Callable[[], object]) -> tuple[str, float]:
    """Return the words with which a call fails, and how many seconds it took."""
    began = time.monotonic()
    with pytest.raises(StoreUnavailable) as caught:
        call()
    return str(caught.value), time.monotonic() - began


def both(store: RedisStore, order: Order) -> list[Callable[[], Any]]:
    """Return how a debit is made: by a thread, and on an event loop."""
    return [lambda: store.debit(order), lambda: asyncio.run(store.adebit(order))]


class TestDebits:
    """What does one debit do?"""

    def test_is_one_round_trip(self, server: Redis, store: RedisStore) -> None:
        """Changes and a debit of many counters are one call of one script, and nothing else."""
        limits = (REQUESTS, ROWS, EVER, HELD)
        store.debit(order(*limits))
        commands = ("evalsha", "eval", "ping", "auth", "select", "script", "hello", "client")
        before = {name: server.calls(name) for name in commands}

        for _ in range(10):
            store.debit(order(*limits), [change(HELD, -1), change(ROWS, -1)])

        called = {name: server.calls(name) - before[name] for name in commands}
        asked_here = {name: n for name, n in called.items() if name not in ("auth", "client")}
        assert asked_here == {name: 10 if name == "evalsha" else 0 for name in asked_here}

    def test_one_that_does_not_fit_is_charged_nowhere(self, store: RedisStore) -> None:
        """All counters are charged, or none."""
        receipt = store.debit(order(REQUESTS, ROWS, EVER, HELD, cost=4))

        assert [reading.wait > 0 for reading in receipt.readings] == [False, False, False, True]
        assert not any(used(store).values())

    def test_the_clock_is_the_servers(self, server: Redis, store: RedisStore) -> None:
        """A receipt says when it was by the server's clock."""
        before = float(server.client().time()[0])

        receipt = store.debit(order(ROWS))

        assert before <= receipt.at <= before + 60

    def test_big_numbers_survive(self, store: RedisStore) -> None:
        """Numbers beyond what floating point writes plainly come back as they were."""
        huge = 2**52 + 1
        limits = Limit("w", 2**53, 3600), Limit("e", 2**53, kind=LIFETIME)
        store.debit(order(*limits, cost=huge))

        receipt = store.debit(order(*limits, cost=1))

        assert [reading.remaining for reading in receipt.readings] == [2**53 - huge - 1] * 2
        assert used(store) == {"w": huge + 1, "e": huge + 1}

    def test_threads_and_tasks_share_one_budget(
        self, server: Redis, stores: Callable[..., RedisStore]
    ) -> None:
        """Many who debit at once, in several stores, are admitted as much as there is."""
        both_stores = [stores(server.url), stores(server.url)]
        found: list[bool] = []

        def run(store: RedisStore) -> None:
            found.extend([store.debit(order(ROWS)).is_admitted for _ in range(25)])

        async def run_tasks() -> None:
            debits = [both_stores[n % 2].adebit(order(ROWS)) for n in range(60)]
            found.extend([receipt.is_admitted for receipt in await asyncio.gather(*debits)])

        threads = [threading.Thread(target=run, args=(both_stores[n % 2],)) for n in range(4)]
        for thread in threads:
            thread.start()
        asyncio.run(run_tasks())
        for thread in threads:
            thread.join()

        assert (len(found), found.count(True)) == (160, 100)

    @pytest.mark.parametrize("tag", ["", "{", "}", "{}", "a:b", "ü", "%", "x" * 500])
    def test_any_name_will_do(self, store: RedisStore, tag: str) -> None:
        """Tags and accounts may hold what keys give a meaning, and are not mixed up."""
        limits = (Limit("f 1}", 5, 60), Limit("f 1}:lifetime", 5, kind=LIFETIME))
        store.debit(order(*limits, tag=tag, account="a:lifetime"))
        store.debit(order(*limits, tag=tag, account="a"))

        for account in ("a", "a:lifetime"):
            found = {entry.field: entry.used for entry in store.entries(tag, account)}
            assert found == {"f 1}": 1, "f 1}:lifetime": 1}


class TestKeys:
    """What is kept, and for how long?"""

    def test_windows_leave_and_sums_stay(self, server: Redis, store: RedisStore) -> None:
        """Windows are kept for two of the longest, lifetimes for ever, each account apart."""
        store.debit(order(REQUESTS, ROWS, EVER, HELD))
        store.debit(order(REQUESTS))

        with server.client() as client:
            keys = client.keys(f"{store._keys._prefix}:*")
            kept = {key.rpartition(":")[2]: client.ttl(key) for key in keys}
        assert kept["lifetime"] == -1
        assert 7200 < kept["alice"] <= 7260
        assert 30 < kept["flight"] <= 120

    def test_no_key_for_a_model(self, server: Redis, store: RedisStore) -> None:
        """However many models there are, an account has one key."""
        limits = [Limit(f"rows {n}", 10, 60, unit="rows", model=f"model {n}") for n in range(20)]
        store.debit(order(*limits))

        assert len(server.ask("KEYS", f"{store._keys._prefix}:*")) == 1

    def test_reset(self, store: RedisStore) -> None:
        """Windows are forgotten, sums only where that is meant, and what is held never."""
        store.debit(order(REQUESTS, EVER, HELD))

        store.reset("acme", "alice", lifetime=False)
        assert used(store) == {"ever": 1, "held": 1}
        store.reset("acme", "alice", lifetime=True)
        assert used(store) == {"held": 1}

    def test_a_holder_without_a_sign_of_life_holds_nothing(
        self, server: Redis, stores: Callable[..., RedisStore]
    ) -> None:
        """What a dead holder held is free again; who still holds something says so."""
        alive, dead = stores(server.url, holder="alive"), stores(server.url, holder="dead")
        dead.debit(order(HELD, cost=2))
        alive.debit(order(HELD))
        key = server.ask("KEYS", f"{alive._keys._prefix}:*")[0]
        before = server.ask("HGET", key, "alive held")
        server.ask("HSET", key, "dead held", "2 1")  # as it is when 30 seconds are over

        alive.apply([change(HELD, 0)])

        assert server.ask("HKEYS", key) == ["alive held"]
        assert server.ask("HGET", key, "alive held") >= before
        assert alive.debit(order(HELD, cost=2)).is_admitted


class TestChanges:
    """What is changed later?"""

    def test_of_many_tags(self, store: RedisStore) -> None:
        """Changes of any tags are made in a few round trips, each once."""
        changes = [change(EVER, 1, tag=f"tag {n % 400}") for n in range(1200)]

        store.apply(changes)

        assert [used(store, f"tag {n}") for n in (0, 399)] == [{"ever": 3}] * 2

    def test_come_before_the_debit(self, store: RedisStore) -> None:
        """What is given back may be charged anew in the same round trip."""
        store.debit(order(HELD, cost=3))

        assert store.debit(order(HELD, cost=3), [change(HELD, -3)]).is_admitted
        assert not store.debit(order(HELD)).is_admitted


class TestScript:
    """What if a server does not know the script?"""

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    def test_it_is_sent_again(
        self, own: Redis, stores: Callable[..., RedisStore], which: int
    ) -> None:
        """A server that forgot the script is sent it within the same call."""
        store = stores(own.url)
        store.debit(order(ROWS))
        own.ask("SCRIPT", "FLUSH")

        both(store, order(ROWS))[which]()

        assert used(store) == {"rows": 2}

    def test_many_at_once(self, own: Redis, stores: Callable[..., RedisStore]) -> None:
        """Changes of many tags reach a server that forgot the script."""
        store = stores(own.url)
        store.apply([change(EVER, 1, tag=f"tag {n}") for n in range(50)])

        assert used(store, "tag 49") == {"ever": 1}


class TestDeadlines:
    """What if a server hangs?"""

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    @pytest.mark.parametrize("is_warm", [True, False], ids=["connected", "anew"])
    def test_what_was_given_up_never_happens(
        self, own: Redis, stores: Callable[..., RedisStore], which: int, is_warm: bool
    ) -> None:
        """A server that was paused and goes on does not do what came too late."""
        store, observer = stores(own.url, timeout=TIMEOUT), stores(own.url)
        observer.debit(order(ROWS))
        if is_warm:
            wait_until(lambda: _is_done(lambda: store.debit(order(ROWS, cost=0))), "it counts")

        own.pause()
        late = [timed(both(store, order(ROWS, cost=7))[which]) for _ in range(2)]
        late += [timed(lambda: store.apply([change(ROWS, 9)]))]
        late += [timed(lambda: store.reset("acme", "alice", lifetime=True))]
        own.go_on()

        assert used(observer) == {"rows": 1}
        wait_until(lambda: _is_done(lambda: store.debit(order(ROWS))), "it counts again")
        assert used(observer) == {"rows": 2}
        assert all("in time" in words for words, _ in late)
        assert max(seconds for _, seconds in late) < TIMEOUT + MARGIN

    def test_a_server_with_another_clock(
        self, own: Redis, stores: Callable[..., RedisStore]
    ) -> None:
        """A server whose clock was believed to be an hour behind counts in the same call."""
        store = stores(own.url)
        store.debit(order(ROWS))
        for node in store._servers.router._clocks._ahead:
            store._servers.router._clocks._ahead[node] -= 3600

        store.debit(order(ROWS))

        assert used(store) == {"rows": 2}

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    @pytest.mark.parametrize(
        ("answer", "dripping"),
        [
            pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", 0, id="http"),
            pytest.param(b"", 0, id="silence"),
            pytest.param(b"$1000000000\r\n", 0.01, id="endless"),
            pytest.param(b"+", 0.005, id="dripping"),
            pytest.param(b"+OK\r\n+OK\r\n+OK\r\n", 0, id="fine"),
            pytest.param(b"*1\r\n*1\r\n*1\r\n$-1\r\n" * 9, 0, id="nested"),
            pytest.param(b"-ERR sesame\r\n", 0, id="error"),
            pytest.param(b"-LOADING sesame\r\n", 0, id="loading"),
            pytest.param(b":9999999999999999999999\r\n:x\r\n", 0, id="numbers"),
        ],
    )
    def test_what_is_no_redis(
        self, stores: Callable[..., RedisStore], answer: bytes, dripping: float, which: int
    ) -> None:
        """Whatever answers, or does not, the call ends in time, in plain words."""
        with junk_server(answer, dripping=dripping) as port:
            store = stores(f"redis://:{QUOTED}@127.0.0.1:{port}", timeout=TIMEOUT)
            words, seconds = timed(both(store, order(ROWS))[which])

        assert seconds < TIMEOUT + MARGIN
        assert words.startswith(f"redis://...@127.0.0.1:{port}: ")
        assert "sesame" not in words

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    @pytest.mark.parametrize(
        "url",
        [
            "redis://127.0.0.1:{port}",
            "rediss://127.0.0.1:{port}",
            "redis+cluster://127.0.0.1:{port},127.0.0.1:{port}",
            "redis+sentinel://127.0.0.1:{port},127.0.0.1:{port}/x",
            "redis://no-such-host.invalid",
        ],
    )
    def test_nobody_there(self, stores: Callable[..., RedisStore], url: str, which: int) -> None:
        """A closed port, or a name that nobody has, is said in time."""
        store = stores(url.format(port=free_port()), timeout=TIMEOUT)

        words, seconds = timed(both(store, order(ROWS))[which])

        assert seconds < TIMEOUT + MARGIN
        assert "refused" in words or "name" in words or "in time" in words

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    def test_a_restart_is_not_noticed(
        self, own: Redis, stores: Callable[..., RedisStore], which: int
    ) -> None:
        """Connections of before a restart are replaced, and what failed before is not charged."""
        store = stores(own.url)
        store.debit(order(ROWS))
        own.kill()
        words, _ = timed(both(store, order(ROWS))[which])
        own.start()

        wait_until(lambda: _is_done(both(store, order(ROWS))[which]), "it is charged again")

        assert "refused" in words
        assert used(store) == {"rows": 1}


def _is_done(call: Callable[[], object]) -> bool:
    with suppress(StoreUnavailable):
        call()
        return True
    return False


class TestLoops:
    """Does an event loop go on while it is counted?"""

    def test_is_never_blocked(self, own: Redis, stores: Callable[..., RedisStore]) -> None:
        """While a server hangs, other tasks go on."""
        store = stores(own.url, timeout=0.3)

        async def run() -> tuple[int, list[Any]]:
            turns = 0
            await store.adebit(order(ROWS))
            own.pause()
            debits = [asyncio.ensure_future(store.adebit(order(ROWS))) for _ in range(20)]
            while not all(debit.done() for debit in debits):
                await asyncio.sleep(0.005)
                turns += 1
            return turns, await asyncio.gather(*debits, return_exceptions=True)

        began = time.monotonic()
        turns, results = asyncio.run(run())

        assert time.monotonic() - began < 0.3 + MARGIN
        assert turns > 3
        assert {type(result) for result in results} == {StoreUnavailable}

    def test_many_at_once_wait_for_each_other(
        self, server: Redis, stores: Callable[..., RedisStore]
    ) -> None:
        """Who waits for a connection does not take the server for dead."""
        store = stores(server.url, timeout=10 * TIMEOUT)

        async def run() -> list[Any]:
            await store.adebit(order(ROWS, cost=0))
            debits = [store.adebit(order(ROWS)) for _ in range(500)]
            return await asyncio.gather(*debits)

        receipts = asyncio.run(run())

        assert [receipt.is_admitted for receipt in receipts].count(True) == 100

    def test_a_crowd_learns_at_once_that_a_server_hangs(
        self, own: Redis, stores: Callable[..., RedisStore]
    ) -> None:
        """Who waited behind those that got no answer does not wait for one, too."""
        store = stores(own.url, timeout=TIMEOUT)

        async def run() -> None:
            await store.adebit(order(ROWS))
            own.pause()
            debits = [store.adebit(order(ROWS)) for _ in range(100)]
            results = await asyncio.gather(*debits, return_exceptions=True)
            assert {type(result) for result in results} == {StoreUnavailable}

        began = time.monotonic()
        asyncio.run(run())

        assert time.monotonic() - began < TIMEOUT + MARGIN

    def test_a_task_that_is_cancelled_hurts_no_other(self, store: RedisStore) -> None:
        """Whoever comes after a cancelled debit reads its own answer, not the other's."""

        async def run() -> list[int]:
            remaining = []
            for pause in (0, 0.0001, 0.0003, 0.001):
                for _ in range(5):
                    debit = asyncio.ensure_future(store.adebit(order(HELD, cost=0)))
                    await asyncio.sleep(pause)
                    debit.cancel()
                    receipt = await store.adebit(order(Limit("other", 7777, 60), cost=0))
                    remaining.append(receipt.readings[0].remaining)
            return remaining

        assert set(asyncio.run(run())) == {7777}

    def test_many_loops_share_connections(
        self, own: Redis, stores: Callable[..., RedisStore]
    ) -> None:
        """What one loop leaves the next one uses, and threads too; nothing else stays behind."""
        store = stores(own.url)
        for _ in range(20):
            asyncio.run(store.adebit(order(ROWS, cost=0)))
            store.debit(order(ROWS, cost=0))
        gc.collect()

        with own.client() as client:
            assert len(client.client_list()) <= 3  # the store's, one to spare, and this one
            store.close()
            wait_until(lambda: len(client.client_list()) == 1, "only the test is connected")

    def test_several_loops_at_once(self, store: RedisStore) -> None:
        """Threads with a loop each share a store."""
        found: list[bool] = []

        async def run() -> None:
            receipts = [await store.adebit(order(REQUESTS)) for _ in range(20)]
            found.extend([receipt.is_admitted for receipt in receipts])

        threads = [threading.Thread(target=lambda: asyncio.run(run())) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert (len(found), found.count(True)) == (80, 50)

    def test_a_fork(self, store: RedisStore) -> None:
        """A child makes its own connections, and does not read what is its parent's."""
        store.debit(order(ROWS))
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                answers = [store.debit(order(ROWS)).is_admitted for _ in range(20)]
                code = 0 if all(answers) else 2
            os._exit(code)

        mine = [store.debit(order(ROWS)).is_admitted for _ in range(20)]

        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert all(mine)
        assert used(store) == {"rows": 41}


class TestRefusals:
    """What if a server does not want to?"""

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    @pytest.mark.parametrize("login", ["", ":wrong-sesame@", "nobody:wrong-sesame@"])
    def test_a_wrong_password(
        self, server: Redis, stores: Callable[..., RedisStore], login: str, which: int
    ) -> None:
        """Who is not let in says so, without the password."""
        store = stores(f"redis://{login}127.0.0.1:{server.port}")

        words, _ = timed(both(store, order(ROWS))[which])

        assert "password" in words
        assert "sesame" not in words

    @pytest.mark.parametrize(
        ("command", "undo", "said"),
        [
            (("CONFIG", "SET", "maxmemory", 1), ("CONFIG", "SET", "maxmemory", 0), "full"),
            (("REPLICAOF", "127.0.0.1", 1), ("REPLICAOF", "NO", "ONE"), "replica"),
            (("ACL", "SETUSER", "default", "-evalsha"), (), "may not"),
            (("ACL", "SETUSER", "default", "resetkeys", "~x:*"), (), "may not"),
        ],
        ids=["memory", "replica", "command", "keys"],
    )
    def test_are_said_plainly(
        self,
        own: Redis,
        stores: Callable[..., RedisStore],
        command: tuple[object, ...],
        undo: tuple[object, ...],
        said: str,
    ) -> None:
        """A server that takes no writes says why, to debits and to whoever looks after it."""
        store = stores(own.url)
        own.ask(*command)

        words = [timed(call)[0] for call in (*both(store, order(ROWS)), lambda: store.apply([]))]

        assert all(said in each for each in words)
        if undo:
            own.ask(*undo)
            assert store.debit(order(ROWS)).is_admitted
            assert used(store) == {"rows": 1}

    def test_what_others_wrote(self, server: Redis, store: RedisStore) -> None:
        """A key that is not ours is neither counted nor lost."""
        store.debit(order(ROWS))
        key = server.ask("KEYS", f"{store._keys._prefix}:*")[0]
        server.ask("DEL", key)
        server.ask("SET", key, "precious")

        words, _ = timed(lambda: store.debit(order(ROWS)))

        assert "others wrote" in words
        assert server.ask("GET", key) == "precious"


class TestComplaints:
    """What makes a Redis unfit?"""

    @pytest.mark.parametrize(
        ("policy", "maxmemory", "lifetime", "is_fit"),
        [
            ("noeviction", "100mb", True, True),
            ("volatile-lru", "100mb", False, True),
            ("volatile-lru", "100mb", True, False),
            ("allkeys-lru", "0", True, True),
            ("allkeys-lru", "100mb", False, True),
            ("allkeys-lru", "100mb", True, False),
            ("allkeys-random", "100mb", True, False),
        ],
    )
    def test_a_policy_that_forgets(
        self,
        own: Redis,
        stores: Callable[..., RedisStore],
        policy: str,
        maxmemory: str,
        lifetime: bool,
        is_fit: bool,
    ) -> None:
        """Who may throw away what has no end is unfit for what must never be forgotten."""
        own.ask("CONFIG", "SET", "maxmemory", maxmemory, "maxmemory-policy", policy)

        complaint = stores(own.url).complaint(lifetime=lifetime)

        assert (complaint is None) == is_fit
        assert complaint is None or policy in complaint

    def test_what_may_not_be_asked(
        self, own: Redis, stores: Callable[..., RedisStore], caplog: pytest.LogCaptureFixture
    ) -> None:
        """Where it cannot be asked, nothing is said against it, and the log says so."""
        own.ask("ACL", "SETUSER", "default", "-info", "-config")

        assert stores(own.url).complaint(lifetime=True) is None
        assert "could not be asked" in caplog.text

    @pytest.mark.xdist_group("cluster")
    def test_a_part_of_a_cluster(self, cluster: Cluster, stores: Callable[..., RedisStore]) -> None:
        """Who writes redis:// and means a cluster is told."""
        store = stores(cluster.nodes[0].url)

        assert "redis+cluster://" in (store.complaint(lifetime=False) or "")
        assert stores(cluster.url).complaint(lifetime=True) is None


class TestPlaces:
    """Where can a Redis be?"""

    def test_tls(self, tmp_path: Path, stores: Callable[..., RedisStore]) -> None:
        """With TLS it counts, and a certificate of strangers is not trusted."""
        with Redis(tmp_path, tls=True, password=PASSWORD) as server:
            store = stores(server.url)
            for debit in both(store, order(ROWS)):
                debit()
            stranger = stores(server.url.partition("?")[0])
            words = [timed(debit)[0] for debit in both(stranger, order(ROWS))]

            assert used(store) == {"rows": 2}
        assert all("certificate is not trusted" in each for each in words)

    @pytest.mark.xdist_group("cluster")
    def test_a_cluster(self, cluster: Cluster, stores: Callable[..., RedisStore]) -> None:
        """Tags are spread over all masters, and each finds its own."""
        store = stores(cluster.url)
        tags = [f"tag {n}" for n in range(60)]

        async def run() -> None:
            debits = [store.adebit(order(ROWS, EVER, HELD, tag=tag)) for tag in tags]
            await asyncio.gather(*debits)

        asyncio.run(run())
        for tag in tags:
            store.debit(order(ROWS, EVER, tag=tag), [change(HELD, -1, tag=tag)])
        store.apply([change(EVER, 5, tag=tag) for tag in tags])
        store.apply([])

        assert [used(store, tag) for tag in tags] == [{"rows": 2, "ever": 7}] * 60
        assert all(node.ask("DBSIZE") > 10 for node in cluster.nodes)

    @pytest.mark.xdist_group("cluster")
    def test_a_slot_that_moves(self, cluster: Cluster, stores: Callable[..., RedisStore]) -> None:
        """While a slot moves, and when it has moved, its tags are found."""
        store, tag = stores(cluster.url), uuid4().hex
        store.debit(order(ROWS, tag=tag))
        slot = cluster.nodes[0].ask("CLUSTER", "KEYSLOT", tag)
        source = next(n for n in cluster.nodes if n.ask("CLUSTER", "COUNTKEYSINSLOT", slot))
        target = next(n for n in cluster.nodes if n is not source)
        source_id, target_id = source.ask("CLUSTER", "MYID"), target.ask("CLUSTER", "MYID")

        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source_id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id)
        for key in source.ask("CLUSTER", "GETKEYSINSLOT", slot, 10):
            source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 5000)
        store.debit(order(ROWS, tag=tag))
        asyncio.run(store.adebit(order(ROWS, tag=tag)))
        for node in (target, source):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target_id)
        store.debit(order(ROWS, tag=tag))

        assert used(store, tag) == {"rows": 4}

    def test_a_failover(self, tmp_path: Path, stores: Callable[..., RedisStore]) -> None:
        """When a master is gone, the sentinels name another one, and that counts on."""
        with Watched(tmp_path, password=PASSWORD) as watched:
            store = stores(watched.url, timeout=1)
            store.debit(order(EVER))
            asyncio.run(store.adebit(order(EVER)))
            _wait_for_replica(watched)

            watched.nodes[0].kill()
            wait_until(lambda: _is_done(lambda: store.debit(order(EVER))), "it counts again")
            asyncio.run(store.adebit(order(EVER)))

            assert watched.master() == watched.nodes[1].port
            assert used(store) == {"ever": 4}


def _wait_for_replica(watched: Watched) -> None:
    with watched.nodes[1].client() as client:
        keys = client.keys
        wait_until(lambda: "2 " in str([client.hvals(key) for key in keys()]), "it is replicated")


def links(store: RedisStore) -> list[Any]:
    return [link for idle in store._servers._pool._idle.values() for link in idle]


class TestLongWays:
    """What if a server is far away?"""

    @pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    def test_connecting_is_no_requests_time(
        self, tmp_path: Path, stores: Callable[..., RedisStore], which: int, tls: bool
    ) -> None:
        """Where connecting takes longer than a request may wait, requests are counted even so."""
        with Redis(tmp_path, tls=tls) as redis, Way(redis.port, there=0.1, back=0.1) as way:
            store = stores(redis.url.replace(f":{redis.port}", f":{way.port}"), timeout=0.4)
            store.start()
            for _ in range(3):
                assert both(store, order(ROWS))[which]().is_admitted
            assert used(store) == {"rows": 3}

    @pytest.mark.parametrize("which", [0, 1], ids=["thread", "loop"])
    def test_what_was_done_too_late_is_undone(
        self, own: Redis, stores: Callable[..., RedisStore], which: int
    ) -> None:
        """Whoever was given no answer is not charged, although the server had charged him."""
        observer = stores(own.url)
        observer.debit(order(ROWS, EVER, cost=5))
        with Way(own.port) as way:
            store = stores(f"redis://127.0.0.1:{way.port}", timeout=TIMEOUT)
            wait_until(lambda: _is_done(lambda: store.debit(order(ROWS, cost=0))), "it counts")
            way.back = 0.5
            back = [change(EVER, 3)]
            call = order(ROWS, EVER, cost=7)
            with pytest.raises(StoreUnavailable, match="in time"):
                store.debit(call, back) if which == 0 else asyncio.run(store.adebit(call, back))
            assert used(observer) == {"rows": 12, "ever": 15}
            way.back = 0.0

            wait_until(lambda: used(observer) == {"rows": 5, "ever": 5}, "it is undone")


LEAST = (
    "~mlguard:* +eval +evalsha +time +hmget +hset +hgetall +hdel +ttl +expire +pttl +pexpire "
    "+set +del +info"
)
LEAST_OF_REVOCATIONS = "~mlguard:* +eval +evalsha +time +get +set +hmget +hgetall +hset +hdel +info"

LEAST_OF_FEEDBACK = "+hset +hsetnx +hmget +hdel +zadd +zrem +zcard +zrange +zrevrange +expire"


class TestRights:
    """Which rights does a user need?"""

    @staticmethod
    def user(*nodes: Redis, rights: str) -> str:
        name = f"u{uuid4().hex[:8]}"
        for node in nodes:
            node.ask("ACL", "SETUSER", name, "on", ">sesame", "resetkeys", "-@all", *rights.split())
        return name

    @pytest.mark.parametrize("is_cluster", [False, True], ids=["single", "cluster"])
    def test_quotas(self, request: pytest.FixtureRequest, is_cluster: bool) -> None:
        """The rights that the docs name are enough for all that is counted."""
        if is_cluster:
            cluster = request.getfixturevalue("cluster")
            rights = f"{LEAST} +cluster|slots +asking"
            name = self.user(*cluster.nodes, rights=rights)
            url = cluster.url.replace("://", f"://{name}:sesame@")
        else:
            server = request.getfixturevalue("server")
            rights, name = LEAST, self.user(server, rights=LEAST)
            url = f"redis://{name}:sesame@127.0.0.1:{server.port}"
        store = RedisStore(url, prefix="mlguard:x", timeout=PATIENT, holder="x", lease=50)
        tag = uuid4().hex

        store.start()
        assert store.complaint(lifetime=True) is None
        for _ in range(5):
            assert store.debit(order(ROWS, tag=tag)).is_admitted
        store.debit(order(ROWS, EVER, HELD, tag=tag))
        store.apply([change(EVER, 5, tag=tag), change(HELD, -1, tag=tag)])
        store.apply([])
        assert store.entries(tag, "alice")
        store.reset(tag, "alice", lifetime=True)
        store.close()
        documented = (ROOT / "docs" / "quotas.md").read_text()
        assert all(right in documented for right in rights.split())

    @pytest.mark.parametrize("is_cluster", [False, True], ids=["single", "cluster"])
    def test_feedback(self, request: pytest.FixtureRequest, is_cluster: bool) -> None:
        """The rights that the docs name beyond those of quotas are enough for calls and labels."""
        rights = f"{LEAST} {LEAST_OF_FEEDBACK}"
        if is_cluster:
            cluster = request.getfixturevalue("cluster")
            name = self.user(*cluster.nodes, rights=f"{rights} +cluster|slots +asking")
            url = cluster.url.replace("://", f"://{name}:sesame@")
        else:
            server = request.getfixturevalue("server")
            name = self.user(server, rights=rights)
            url = f"redis://{name}:sesame@127.0.0.1:{server.port}"
        store = RedisCalls(url, "mlguard", uuid4().hex, most=1, retention=60, timeout=PATIENT)
        calls = [KeptCall(new_call_id(n), "iris", "3", [["1", 0.9]]) for n in range(3)]

        store.keep(calls)
        assert store.find([call.id for call in calls]).keys() == {call.id for call in calls}
        assert [store.label(calls[2], [1], 3.0) for _ in range(2)] == [True, False]
        assert [each.truths for each in store.recent("iris", 9)] == [[1]]
        assert store.forget(3.0)
        assert store.find([call.id for call in calls]).keys() == {calls[2].id}
        assert store.forget(99.0)
        assert store.recent("iris", 9) == []
        store.close()
        documented = (ROOT / "docs" / "performance.md").read_text()
        assert LEAST_OF_FEEDBACK in documented

    def test_revocations(self, server: Redis) -> None:
        """The rights that the docs name are enough for all that is revoked."""
        name = self.user(server, rights=LEAST_OF_REVOCATIONS)
        url = f"redis://{name}:sesame@127.0.0.1:{server.port}"
        store = RevocationStore(url, uuid4().hex)

        assert store.complaint() is None
        store.publish([Revocation("i", jti="a", until=1.0), Revocation("i", jti="b")])
        store.exchange(RevocationTable(Database(wait=0.1), Revocations()))
        assert [r.jti for r in store.read()] == ["b"]
        store.close()
        documented = (ROOT / "docs" / "authentication.md").read_text()
        assert LEAST_OF_REVOCATIONS.removeprefix("~mlguard:* ") in documented


class TestURLs:
    """Which URLs are understood?"""

    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost",
            "redis://[::1]:6379/3",
            "rediss://user:p%40ss@redis.example.com:6380/0?ssl_ca_certs=/etc/ca.pem",
            "redis://redis.example.com?db=2&password=x&username=y",
            "redis+sentinel://:x@a:26379,b,c:1/mymaster/2",
            "rediss+sentinel://a/my-master",
            "redis+cluster://a:1,b:2,c",
            "rediss+cluster://user:x@a:1/0?ssl_cert_reqs=none",
        ],
    )
    def test_good_ones(self, url: str) -> None:
        """What is written as it should be has no problem."""
        assert problem(url) is None
        RedisStore(url, prefix="x", holder="x").close()

    @pytest.mark.parametrize(
        ("url", "said"),
        [
            ("http://sesame@a", "begin with"),
            ("redis+unix://sesame", "begin with"),
            ("redis://:se/same@a", "%2F"),
            ("redis://:se?same@a", "%3F"),
            ("redis://:se same@a", "percent"),
            ("redis://:se#same@a", "percent"),
            ("redis://", "host"),
            ("redis://a:0", "port"),
            ("redis://a:99999", "port"),
            ("redis://a:x", "host"),
            ("redis://a,b", "several"),
            ("redis://a/x", "number"),
            ("redis+cluster://a/1", "database"),
            ("redis+sentinel://a", "service"),
            ("redis+sentinel://a/", "service"),
            ("redis://a?socket_timeout=5", "known are"),
            ("redis://a?db=x", "number"),
            ("redis://a?ssl_cert_reqs=never", "required"),
            ("redis://a?ssl_check_hostname=maybe", "true or false"),
        ],
    )
    def test_bad_ones(self, url: str, said: str) -> None:
        """What is wrong is said, and no part of the URL with it."""
        words = problem(url)

        assert words is not None
        assert said in words
        assert "same" not in words
        with pytest.raises(ValueError, match="URL of the Redis"):
            RedisStore(url, prefix="x", holder="x")
