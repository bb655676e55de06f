"""What do clients notice while the store of the quotas is away?"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.e2e.quota_clients import (
    Asker,
    Counted,
    Load,
    Reply,
    counted,
    percentile,
    server,
    settings,
    within,
)
from tests.redis_servers import Redis

WORKERS = 2
TIMEOUT = 0.1  # seconds that a request waits for the store
SLACK = 0.05  # seconds that it may take beyond that
RETURN = 5.0  # seconds until all is counted there again
ROWS = 3
PACE = 0.08  # seconds from one request of a client to its next
LOCAL, OPEN, CLOSED, BEAT = "/predict", "/loose", "/strict", "/health"
FIELDS = {
    LOCAL: "rows:predict:864000",
    OPEN: "loose:loose:864000",
    CLOSED: "strict:strict:864000",
}
AMPLE = ["100000000 per 10 days"]
QUOTAS = {
    "store_timeout": TIMEOUT,
    "on_store_failure": {"loose": "open", "strict": "closed"},
    "models": {
        "predict": {"rows": AMPLE},
        "loose": {"units": {"loose": AMPLE}},
        "strict": {"units": {"strict": AMPLE}},
    },
}
COUNTING = [
    Asker(route, ROWS, PACE, "alice")
    for route, clients in {LOCAL: 6, OPEN: 5, CLOSED: 5}.items()
    for _ in range(clients)
]
BEATING = [Asker(BEAT, 0, PACE / 2)] * 4


class Store:
    """Where a service counts, and what may happen to it."""

    def __init__(self, service: Counted) -> None:
        self.service = service

    def arrive(self) -> None:
        """Have it there, at the latest from now on."""

    def kill(self) -> None:
        """End it without a goodbye."""
        raise NotImplementedError

    def restart(self) -> None:
        """Have it come back, unless it does on its own."""

    def pause(self) -> None:
        """Let it hang."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Let it go on."""
        raise NotImplementedError


class OnRedis(Store):
    """A Redis that comes after the service, and keeps nothing on disk, so it comes back empty."""

    def __init__(self, service: Counted, redis: Redis) -> None:
        super().__init__(service)
        self._redis, self._has_arrived = redis, False

    def arrive(self) -> None:
        if not self._has_arrived:
            self._has_arrived = True
            self.restart()

    def kill(self) -> None:
        self._redis.kill()

    def restart(self) -> None:
        self._redis.start()

    def pause(self) -> None:
        self._redis.pause()

    def go_on(self) -> None:
        self._redis.go_on()


class OnHost(Store):
    """The file of a host, which somebody may hold for ever, or take away with its folder."""

    _held: sqlite3.Connection | None = None

    @property
    def _folder(self) -> Path:
        return self.service.file.parent

    def kill(self) -> None:
        self._folder.rename(self._folder.with_name("aside"))
        self._folder.touch()

    def restart(self) -> None:
        self._folder.unlink()
        self._folder.with_name("aside").rename(self._folder)

    def pause(self) -> None:
        self._held = sqlite3.connect(self.service.file, isolation_level=None)
        self._held.execute("PRAGMA busy_timeout=5000")
        self._held.execute("BEGIN IMMEDIATE")

    def go_on(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


@pytest.fixture(scope="module", params=["redis", "host"])
def kind(request: pytest.FixtureRequest) -> str:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to find who holds what")
    return str(request.param)


@pytest.fixture(scope="module", params=["fastapi", "flask"])
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def store(kind: str, framework: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("faults")
    with contextlib.ExitStack() as stack:
        redis = Redis(folder) if kind == "redis" else None
        quotas = {**QUOTAS, "store": redis.url if redis else "host://"}
        written = settings(quotas, models=list(FIELDS))
        service = stack.enter_context(counted(framework, folder, written, workers=WORKERS))
        store = OnRedis(service, redis) if redis else OnHost(service)
        if redis:
            stack.callback(redis.kill)
        stack.callback(store.go_on)  # what hangs does not end
        yield store


class Outage:
    """A load on a service, before, while and after its store is away.

    Attributes:
        load: The clients.
        used: What the books said before.
        began: When the store began to be away, by time.monotonic.
        is_gone: When it certainly was.
        returned: When it was there again for everybody.
    """

    def __init__(self, store: Store, load: Load, used: dict[str, float]) -> None:
        self.load, self.used = load, used
        self._store, self._service = store, store.service
        self._said = {text: self._service.said(text) for text in ("is away", "is back")}
        servers.wait_until(self._is_everywhere, "every worker is asked all")
        load.more(10)
        self._calm_from = time.monotonic()
        load.more(50)
        self.began = self.is_gone = self.returned = time.monotonic()

    def _is_everywhere(self) -> bool:
        replies = [r for r in self.load.since(0) if r.route in FIELDS and r.is_admitted]
        return len({(r.route, r.worker) for r in replies[-200:]}) == WORKERS * len(FIELDS)

    def strike(self, blow: Callable[[], None]) -> None:
        """Take the store away, and wait until every worker knows."""
        self.began = time.monotonic()
        blow()
        self.is_gone = time.monotonic()
        servers.wait_until(
            lambda: self.said("is away") == WORKERS, "each worker is without the store", within=20
        )

    def go_on_without(self) -> None:
        """Have more asked while the store is away."""
        assert self._service.is_degraded
        self.load.more(20)

    def end(self, remedy: Callable[[], None]) -> None:
        """Have the store back, and wait until every worker knows."""
        remedy()
        within(lambda: self.said("is back") == WORKERS, "each worker has it back", RETURN)
        within(lambda: not self._service.is_degraded, "nothing is degraded", RETURN)
        self.returned = time.monotonic()
        self.load.more(20)

    def said(self, text: str) -> int:
        """Tell how many lines of the log have had a text in them since."""
        return self._service.said(text) - self._said[text]

    def calm(self, *routes: str) -> list[Reply]:
        """Return what was answered before."""
        return [
            r
            for r in self.load.since(self._calm_from)
            if r.received < self.began and r.route in routes
        ]

    def rough(self, *routes: str) -> list[Reply]:
        """Return what was answered since."""
        return [r for r in self.load.since(0) if r.received >= self.began and r.route in routes]

    def check_answers(self) -> None:
        """What is counted elsewhere or not at all is answered, what must be counted is refused."""
        assert {r.status for r in self.load.since(0) if r.route != CLOSED} == {200}
        closed = [r for r in self.load.since(0, CLOSED) if r.status != 200]
        assert {(r.status, r.code) for r in closed} == {(503, "store_unavailable")}
        assert all(int(r.headers["retry-after"]) >= 1 for r in closed)
        early = [
            r.received - self.began for r in closed if self._calm_from < r.received < self.began
        ]
        late = [r.sent - self.returned for r in closed if r.sent > self.returned]
        assert (early, late) == ([], []), "refused while the store was there"

    def check_times(self) -> None:
        """Nobody waits longer than for the store, and the event loop waits for nobody."""
        asked = self.rough(*FIELDS)
        slowest = max(asked, key=lambda reply: reply.seconds)
        unloaded = percentile(self.calm(*FIELDS), 0.99)
        assert slowest.seconds <= TIMEOUT + SLACK + unloaded, slowest
        if beats := self.rough(BEAT):
            slowest = max(beats, key=lambda reply: reply.seconds)
            unloaded = percentile(self.calm(BEAT), 0.99)
            assert slowest.seconds <= SLACK + unloaded, slowest

    def check_counts(self, *, is_empty: bool) -> None:
        """What was admitted is in the books: at least that, and no more than what was under way.

        Args:
            is_empty: Whether the store came back empty.
        """
        since = self.is_gone if is_empty else 0.0
        before = dict.fromkeys(FIELDS.values(), 0.0) if is_empty else self.used
        for route, field in FIELDS.items():
            least = _rows(r for r in self.load.since(since, route) if self._is_counted(r))
            clients = [asker for asker in COUNTING if asker.route == route]
            sure = self.rough(route) if is_empty else self.load.since(0, route)
            most = _rows(sure) + ROWS * len(clients)
            servers.wait_until(
                lambda field=field, least=least: self._used(field, before) >= least,
                f"{least} of {route} are in the books",
                within=RETURN,
            )
            assert self._used(field, before) <= most, route

    def _used(self, field: str, before: dict[str, float]) -> float:
        return self._service.used().get(field, 0.0) - before.get(field, 0.0)

    def _is_counted(self, reply: Reply) -> bool:
        is_there = reply.received < self.began or reply.sent > self.returned
        return reply.route != OPEN or is_there


def _rows(replies: Any) -> int:
    return sum(reply.rows for reply in replies if reply.is_admitted)


@contextlib.contextmanager
def _outage(store: Store, framework: str) -> Iterator[Outage]:
    askers: Sequence[Asker] = [*COUNTING, *(BEATING if framework == "fastapi" else [])]
    store.arrive()
    servers.wait_until(lambda: not store.service.is_degraded, "the store is there")
    used = store.service.used()
    with Load(store.service.url, askers) as load:
        try:
            yield Outage(store, load, used)
        finally:
            store.go_on()


def test_a_service_starts_without_its_store(store: Store, kind: str) -> None:
    """It serves by the policy, and counts there what it admitted when its Redis comes."""
    if kind == "host":
        pytest.skip("a service makes the file of its host")
    service = store.service
    with Load(service.url, COUNTING) as load:
        load.more(10)
        assert service.is_degraded
        assert {r.status for r in load.since(0) if r.route != CLOSED} == {200}
        assert {r.status for r in load.since(0, CLOSED)} == {503}
        store.arrive()
        within(lambda: not service.is_degraded, "nothing is degraded", RETURN)
        returned = time.monotonic()
        load.more(10)
    assert {r.status for r in load.since(returned)} == {200}
    admitted = _rows(load.since(0, LOCAL))
    servers.wait_until(
        lambda: service.used().get(FIELDS[LOCAL], 0) >= admitted, "all of it is in the books"
    )
    assert service.used()[FIELDS[LOCAL]] == admitted
    assert service.said("is away") == service.said("is back") <= WORKERS


def test_inference_goes_on_while_the_store_hangs(store: Store, framework: str) -> None:
    """Nobody waits for a store that hangs, and all that was admitted is counted once."""
    with _outage(store, framework) as outage:
        outage.strike(store.pause)
        outage.go_on_without()
        outage.end(store.go_on)
    outage.check_answers()
    outage.check_counts(is_empty=False)
    outage.check_times()
    assert (outage.said("is away"), outage.said("is back")) == (WORKERS, WORKERS)


def test_inference_goes_on_when_the_store_is_killed(
    store: Store, framework: str, kind: str
) -> None:
    """Nobody waits for a store that is gone, and what it forgot is all that is not counted."""
    with _outage(store, framework) as outage:
        outage.strike(store.kill)
        outage.go_on_without()
        outage.end(store.restart)
    outage.check_answers()
    outage.check_counts(is_empty=kind == "redis")
    outage.check_times()
    assert (outage.said("is away"), outage.said("is back")) == (WORKERS, WORKERS)


EVICTING = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
COMPLAINT = "forgets what must never be forgotten: its maxmemory-policy is allkeys-lru"


def test_a_redis_that_forgets_lifetimes_stops_the_start(tmp_path: Path) -> None:
    """A FastAPI service ends, and says why."""
    with Redis(tmp_path, *EVICTING) as redis:
        written = settings({"store": redis.url, "lifetime": 1000})
        service = server("fastapi", tmp_path, written, workers=1)
        with pytest.raises(AssertionError, match=COMPLAINT), service:
            pass


def test_a_redis_that_forgets_lifetimes_stops_every_request(tmp_path: Path) -> None:
    """A Flask service, which starts with its first request, answers none and says why."""
    with Redis(tmp_path, *EVICTING) as redis:
        written = settings({"store": redis.url, "lifetime": 1000})
        service = server("flask", tmp_path, written, workers=1, within=2)
        with pytest.raises(AssertionError, match="not within 2 s"), service:
            pass
        assert COMPLAINT in service.log()


def test_workers_that_count_apart_are_told_of(tmp_path: Path) -> None:
    """Several workers of gunicorn that each count in memory: the log says what that means."""
    written = settings({"requests": ["100000/day"]})
    with (
        counted("flask", tmp_path, written, workers=WORKERS) as service,
        Load(service.url, [Asker(BEAT, 0, PACE)] * 8),
    ):
        servers.wait_until(
            lambda: service.said(f"{WORKERS} workers count quotas apart"), "the log says so"
        )
