"""What do clients and operators notice when something is gone? The table of docs/deploying.md."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.contract.client import AUDIENCE, ISSUER, OverSockets, metric, samples, token
from tests.e2e.quota_clients import (
    Asker,
    Counted,
    Load,
    Reply,
    counted,
    percentile,
    server,
    settings,
)
from tests.keyserver import KeyServer, key_pair, stall
from tests.redis_servers import Redis
from tests.servers import OTLPReceiver, wait_until

# Seconds that a request waits for the store: a busy machine may take half of it for itself.
TIMEOUT = 2.0
SLACK = 2.0  # seconds that it may take beyond that, and as often as it takes without a fault:
LOADED = 5  # times
RECOVERY = 60.0  # seconds at the very most; each row prints its own
LAST = 5.0  # seconds whose numbers a worker that is killed may take with it, on a busy machine
ROWS = 3
PACE = 0.12  # seconds from one request of a client to its next
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
COUNTING = [Asker(route, ROWS, PACE, "alice") for route in FIELDS for _ in range(4)]
BEATING = [Asker(BEAT, 0, PACE / 2)] * 2
UP = "Application startup complete"  # uvicorn says of each worker
OURS = frozenset({"mlguard-background", "mlguard-background-waits"})
SERVERS_OWN = (
    "MainThread",
    "AnyIO",
    "ThreadPoolExecutor",
    "asyncio",
    "uvloop",
    "Thread-1 (always_pong)",
)


class World:
    """A service, and all that may be gone: nothing of that is there before `arrive`.

    Attributes:
        service: What is asked.
        workers: How many it has.
        spans: Receives its spans.
    """

    service: Counted
    at: str

    def __init__(self, framework: str, workers: int, folder: Path) -> None:
        self.framework, self.workers, self.folder = framework, workers, folder
        self.has_arrived = False

    def arrive(self) -> None:
        """Have everything there."""

    def let_go(self) -> None:
        """Have nothing hang that would keep the service from ending."""

    @contextlib.contextmanager
    def running(self) -> Iterator[World]:
        """Run the service, and what it needs."""
        raise NotImplementedError

    def pids(self) -> set[int]:
        """Process ids of the workers: what was started by the process that was."""
        parent = self.service.server.pid
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        return {
            int(pid)
            for pid in children.split()
            if b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
        }

    def kill_a_worker(self) -> None:
        os.kill(min(self.pids()), signal.SIGKILL)

    def recycle(self) -> None:
        os.kill(self.service.server.pid, signal.SIGHUP)

    def is_degraded(self, part: str) -> bool:
        return metric(OverSockets(self.service.url), "mlguard_degraded", part=part) == 1


class OverHosts(World):
    """Everything is on: quotas and revocations in a Redis each, fetched keys, spans and drift."""

    at = "redis"

    @contextlib.contextmanager
    def running(self) -> Iterator[World]:
        with contextlib.ExitStack() as stack:
            self.quotas, self.revoked = Redis(self.folder), Redis(self.folder)
            self.keys = stack.enter_context(KeyServer())
            self.spans = stack.enter_context(OTLPReceiver())
            self.keys.serve(key_pair("a"))
            self.keys.die()
            for redis in (self.quotas, self.revoked):
                stack.callback(redis.kill)
            written = self._settings()
            env = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
            self.service = stack.enter_context(
                counted(self.framework, self.folder, written, workers=self.workers, env=env)
            )
            stack.callback(self.let_go)
            yield self

    def _settings(self) -> dict[str, Any]:
        written = settings({**QUOTAS, "store": self.quotas.url}, models=list(FIELDS))
        del written["auth"]["secret_env"]
        written["auth"] |= {
            "jwks_url": self.keys.jwks_url,
            "algorithms": ["ES256"],
            "jwks_max_age": 2,
            "jwks_timeout": 6,
            "revocation_store": self.revoked.url,
        }
        if self.workers == 2:  # the analyst is one process beside them, however many they are
            written["models"][0] |= {"features": ["x"], "reference": str(_reference(self.folder))}
            written["drift"] = {"window": 100}
        return written | {"tracing": {"endpoint": self.spans.url}}

    def arrive(self) -> None:
        if not self.has_arrived:
            self.has_arrived = True
            self.keys.live()
            self.revoked.start()
            self.quotas.start()
        for part in ("keys", "revocations", "quotas"):
            wait_until(lambda part=part: not self.is_degraded(part), f"{part} are there")

    def let_go(self) -> None:
        """Have nothing hang that would keep the service from ending."""
        self.quotas.go_on()
        self.spans.go.set()

    def analyst(self) -> int:
        """Process id of the analyst, 0 where it is not there."""
        of_us = f"TMPDIR={self.folder}\0".encode()
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_one = b"mlguard.analyst" in (path / "cmdline").read_bytes()
                if is_one and of_us in (path / "environ").read_bytes():
                    return int(path.name)
        return 0

    def kill_the_analyst(self) -> None:
        wait_until(lambda: self._drift_is_up(1), "drift is checked")
        self.killed = self.analyst()
        os.kill(self.killed, signal.SIGKILL)

    def _drift_is_up(self, up: int) -> bool:
        return metric(OverSockets(self.service.url), "mlguard_drift_worker_up") == up


class OnHost(World):
    """Quotas are counted in the file of the host, which somebody may hold or take away."""

    at = "host"
    _held: sqlite3.Connection | None = None

    @contextlib.contextmanager
    def running(self) -> Iterator[World]:
        written = settings({**QUOTAS, "store": "host://"}, models=list(FIELDS))
        with counted(self.framework, self.folder, written, workers=self.workers) as service:
            self.service = service
            try:
                yield self
            finally:
                self.let_go()

    @property
    def _place(self) -> Path:
        return self.service.file.parent

    def put_aside(self) -> None:
        self._place.rename(self._place.with_name("aside"))
        self._place.touch()

    def put_back(self) -> None:
        self._place.unlink()
        self._place.with_name("aside").rename(self._place)

    def sweep(self) -> None:
        shutil.rmtree(self._place)

    def hold(self) -> None:
        self._held = sqlite3.connect(self.service.file, isolation_level=None)
        self._held.execute("PRAGMA busy_timeout=5000")
        self._held.execute("BEGIN IMMEDIATE")

    def let_go(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held = None


def _reference(folder: Path) -> Path:
    import pandas as pd

    from mlguard.reference import Reference

    path = folder / "reference"
    Reference.build(pd.DataFrame({"x": [float(n % 97) for n in range(1000)]})).save(path)
    return path


class Fault(NamedTuple):
    """A row of the table.

    Attributes:
        gone: What, and how.
        at: Which services have it.
        strike: Has it gone.
        heal: Has it back.
        part: What the gauge says meanwhile.
        away: What the log says of it then.
        back: What the log says when it is back; empty where that is not said.
        sayers: How many workers say so; 0: all.
        was_said: Whether it was said at the start already, and so is not again within a minute.
        refused: What the routes answer meanwhile that do not answer as ever.
        is_forgotten: Whether it comes back without what was counted.
        has_victims: Whether it takes workers, and who was being answered, with it.
        most_workers: Of the services that it is tried on.
    """

    gone: str
    at: str
    strike: Callable[[Any], object]
    heal: Callable[[Any], object]
    part: str = ""
    away: str = ""
    back: str = ""
    sayers: int = 0
    was_said: bool = False
    refused: Mapping[str, tuple[int, str]] = {}
    is_forgotten: bool = False
    has_victims: bool = False
    most_workers: int = 4


AWAY, BACK = "they go on as quotas.on_store_failure says", "is back"
CLOSED_MEANWHILE = {CLOSED: (503, "store_unavailable")}
FAULTS = [
    Fault(
        "the store of quotas, hanging",
        "redis",
        lambda world: world.quotas.pause(),
        lambda world: world.quotas.go_on(),
        part="quotas",
        away=AWAY,
        back=BACK,
        refused=CLOSED_MEANWHILE,
    ),
    Fault(
        "the store of quotas, killed",
        "redis",
        lambda world: world.quotas.kill(),
        lambda world: world.quotas.start(),
        part="quotas",
        away=AWAY,
        back=BACK,
        refused=CLOSED_MEANWHILE,
        is_forgotten=True,
    ),
    Fault(
        "the store of revocations, killed",
        "redis",
        lambda world: world.revoked.kill(),
        lambda world: world.revoked.start(),
        part="revocations",
        away="revocations are not kept in the store",
        sayers=1,
        was_said=True,
    ),
    Fault(
        "the key server, hanging",
        "redis",
        lambda world: world.keys.answer(stall),
        lambda world: world.keys.serve(key_pair("a")),
        part="keys",
        away="cannot be fetched",
        was_said=True,
    ),
    Fault(
        "the trace receiver, hanging",
        "redis",
        lambda world: world.spans.go.clear(),
        lambda world: world.spans.go.set(),
        part="tracing",
        away="spans are lost",
    ),
    Fault(
        "the analyst, killed",
        "redis",
        lambda world: world.kill_the_analyst(),
        lambda world: None,
        part="analyst",
        away="the analyst is away",
        most_workers=2,
    ),
    Fault(
        "the file, held",
        "host",
        lambda world: world.hold(),
        lambda world: world.let_go(),
        part="quotas",
        away=AWAY,
        back=BACK,
        refused=CLOSED_MEANWHILE,
    ),
    Fault(
        "the file's folder, away",
        "host",
        lambda world: world.put_aside(),
        lambda world: world.put_back(),
        part="quotas",
        away=AWAY,
        back=BACK,
        refused=CLOSED_MEANWHILE,
    ),
    Fault(
        "a worker, killed",
        "both",
        lambda world: world.kill_a_worker(),
        lambda world: None,
        has_victims=True,
    ),
    Fault(  # two of them, as a server takes its time for each
        "the workers, recycled",
        "both",
        lambda world: world.recycle(),
        lambda world: None,
        has_victims=True,
        most_workers=2,
    ),
]


WORLDS = [
    (at, framework, workers)
    for at in (OverHosts, OnHost)
    for framework in ("fastapi", "flask")
    for workers in (4, 2)
]


def _of(world: tuple[type[World], str, int], *more: Fault) -> Any:
    """Name a row of the table; one after another, as each brings load of its own."""
    name = f"{world[0].at}-{world[1]}-{world[2]}"
    title = "-".join([name, *(fault.gone for fault in more)])
    return pytest.param(world, *more, id=title, marks=pytest.mark.xdist_group("faults"))


class Stage:
    """Holds the one service that runs now."""

    def __init__(self) -> None:
        self._plays: Any = None
        self._world: World | None = None
        self._stack = contextlib.ExitStack()

    def of(self, wanted: tuple[type[World], str, int], folder: Path) -> World:
        """Return a service, and end another one before."""
        if self._world is None or self._plays != wanted:
            self.close()
            kind, framework, workers = self._plays = wanted
            self._world = self._stack.enter_context(kind(framework, workers, folder).running())
        return self._world

    def close(self) -> None:
        self._stack.close()
        self._world = None


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to find who holds what")
    with contextlib.closing(Stage()) as stage:
        yield stage


@pytest.fixture
def world(
    request: pytest.FixtureRequest, stage: Stage, tmp_path_factory: pytest.TempPathFactory
) -> World:
    return stage.of(request.param, tmp_path_factory.mktemp("faults"))


def _sign(subject: str) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 600}
    return key_pair("a").sign(claims)


def _rows(replies: Any) -> int:
    return sum(reply.rows for reply in replies if reply.is_admitted)


class Watched:
    """A load on a service, before, while and after something is gone."""

    def __init__(self, world: World, load: Load, fault: Fault) -> None:
        self.world, self.load, self.fault = world, load, fault
        self.service = world.service
        self.used = self.service.used()
        self.counted = self._inferences()
        self.restarts = self._restarts()
        self.began = self.is_gone = self.returned = 0.0
        self.pids = world.pids()
        texts = (fault.back,) if fault.was_said else (fault.away, fault.back)
        self._log = Counter({text: self.service.said(text) for text in (*texts, UP)})

    def begin(self) -> None:
        """Ask until every worker has answered all, and then a little."""
        wait_until(self._is_everywhere, "every worker is asked all")
        self.calm_from = time.monotonic()
        self.load.more(20)

    def strike(self) -> None:
        """Have it gone, and wait until every worker and the gauge say so."""
        self.began = time.monotonic()
        self.fault.strike(self.world)
        self.is_gone = time.monotonic()
        if self.fault.part:
            # What was said a moment ago is said again a minute later.
            wait_until(self._is_said_away, f"{self.fault.gone} is said", within=2 * RECOVERY)
        self.load.more(10)
        assert self._is_down() or self.fault.part in ("", "analyst"), "the gauge stays up"

    def heal(self) -> None:
        """Have it back, and wait until every worker and the gauge say so."""
        began = time.monotonic()
        self.fault.heal(self.world)
        wait_until(self._is_well, f"{self.fault.gone} is back")
        self.returned = time.monotonic()
        print(f"{self.fault.gone}: well {self.returned - began:.2f} s after")
        self.load.more(10)
        assert self.returned - began < RECOVERY

    def said(self, text: str) -> int:
        return self.service.said(text) - self._log[text]

    def check_answers(self) -> None:
        """No answer is lost or wrong, but those that the settings want so, and only meanwhile."""
        for reply in self.load.since(0):
            if reply.is_admitted:
                if reply.route != BEAT:
                    assert reply.predictions == [0.0] * ROWS
                continue
            assert (reply.status, reply.code) == self.fault.refused.get(reply.route), reply
            assert int(reply.headers["retry-after"]) >= 1
            assert reply.received > self.began, "refused before"
            assert reply.sent < self.returned, "refused afterwards"

    def check_times(self) -> None:
        """Nobody waits longer than for the store, and the event loop waits for nobody."""
        for routes, least in ((FIELDS, TIMEOUT), ((BEAT,), 0.0)):
            rough = [r.seconds for r in self.load.since(self.began) if r.route in routes]
            calm = [
                r
                for r in self.load.since(self.calm_from)
                if r.received < self.began and r.route in routes
            ]
            assert not rough or max(rough) <= least + SLACK + LOADED * percentile(calm, 0.99)

    def check_quota(self) -> None:
        """What was admitted is charged once: exactly, or where nobody can know it within bounds."""
        for route, field in FIELDS.items():
            replies = self.load.since(0, route)
            before = 0 if self.fault.is_forgotten else self.used.get(field, 0)
            least = before + _rows(r for r in replies if self._is_charged(r))
            most = before + _rows(r for r in replies if self._may_be_charged(r))
            most += ROWS * sum(reply.again for reply in replies)
            wait_until(
                lambda field=field, least=least, most=most: (
                    least <= self.service.used().get(field, 0) <= most
                ),
                f"{route}: {least} to {most} are in the books",
            )

    def check_counts(self) -> None:
        """Every answer is in the metrics once; a worker that is killed takes a second with it."""
        answered = _rows(self.load.since(0))
        again = sum(ROWS * reply.again for reply in self.load.since(0))
        least = self.counted + answered - self._lost()
        most = self.counted + answered + again
        wait_until(lambda: least <= self._inferences() <= most, f"{least} to {most} are counted")

    def check_log(self) -> None:
        """It is said once by each who notices."""
        sayers = self.fault.sayers or self.world.workers
        if self.fault.was_said:
            assert self.said(self.fault.away) >= sayers
        elif self.fault.away:
            assert self.said(self.fault.away) == sayers
        if self.fault.back:
            assert self.said(self.fault.back) == sayers

    def _restarts(self) -> float:
        return metric(OverSockets(self.service.url), "mlguard_analyst_restarts_total")

    def _inferences(self) -> float:
        found = samples(OverSockets(self.service.url))
        return sum(s.value for s in found.values() if s.name == "mlguard_inference_rows_total")

    def _lost(self) -> int:
        if not self.fault.has_victims:
            return 0
        victims = self.pids - self.world.pids()
        last = [r for r in self.load.since(self.began - LAST) if r.is_admitted and r.rows]
        return _rows(reply for reply in last if reply.worker in victims)

    def _is_charged(self, reply: Reply) -> bool:
        if self.fault.is_forgotten and reply.sent < self.is_gone:
            return False
        is_there = reply.received < self.began or reply.sent > self.returned
        return reply.route != OPEN or is_there or not self.fault.refused

    def _may_be_charged(self, reply: Reply) -> bool:
        return not self.fault.is_forgotten or reply.received >= self.began

    def _is_everywhere(self) -> bool:
        replies = [r for r in self.load.since(0) if r.route in FIELDS and r.is_admitted]
        seen = {(r.route, r.worker) for r in replies[-200:]}
        return len(seen) == self.world.workers * len(FIELDS)

    def _is_down(self) -> bool:
        return self.service.is_degraded_in(self.fault.part)

    def _is_said_away(self) -> bool:
        is_said = self.said(self.fault.away) >= (self.fault.sayers or self.world.workers)
        return is_said and (self.fault.part == "analyst" or self._is_down())

    def _is_well(self) -> bool:
        fault, world = self.fault, self.world
        if fault.has_victims:
            pids = world.pids()
            is_all = "recycled" in fault.gone
            # A server may replace another one that is slow to answer it, on a busy machine.
            are_new = len(pids - self.pids) >= (world.workers if is_all else 1)
            return len(pids) == world.workers and are_new and self._new_ones_serve()
        if fault.part == "analyst":
            return world.analyst() not in (0, world.killed) and self._restarts() > self.restarts
        is_said = not fault.back or self.said(fault.back) >= world.workers
        return is_said and not self._is_down()

    def _new_ones_serve(self) -> bool:
        """Say whether new workers are ready: a client that keeps its connection asks none."""
        if self.world.framework == "fastapi":
            return self.said(UP) >= (self.world.workers if "recycled" in self.fault.gone else 1)
        pids = self.world.pids()
        last = [r for r in self.load.since(0)[-200:] if r.route in FIELDS and r.is_admitted]
        return pids == {r.worker for r in last}


over_hosts = pytest.mark.parametrize(
    "world", [_of(world) for world in WORLDS if world[0] is OverHosts], indirect=True
)


@over_hosts
def test_a_service_starts_without_anything(world: World) -> None:
    """It serves by the policies, each until what it is about comes."""
    service = world.service
    expected = [
        ({"503 keys_unavailable"}, lambda: world.keys.live()),
        ({"503 revocations_unknown"}, lambda: world.revoked.start()),
        ({"200", "503 store_unavailable"}, lambda: world.quotas.start()),
        ({"200"}, lambda: None),
    ]
    world.has_arrived = True
    with Load(service.url, COUNTING, sign=_sign) as load:
        for answers, comes in expected:
            wait_until(lambda answers=answers: _answers(load) == answers, f"all get {answers}")
            comes()
    world.arrive()
    admitted = _rows(load.since(0, LOCAL))
    wait_until(
        lambda: service.used().get(FIELDS[LOCAL], 0) == admitted, "all of it is in the books, once"
    )


def _answers(load: Load) -> set[str]:
    last = load.since(0)[-40:]
    said = {f"{r.status}" if r.is_admitted else f"{r.status} {r.code}" for r in last}
    return said if len(last) == 40 else set()


@pytest.mark.parametrize(
    ("world", "fault"),
    [
        _of(world, fault)
        for world in WORLDS
        for fault in FAULTS
        if fault.at in ("both", world[0].at) and world[2] <= fault.most_workers
    ],
    indirect=["world"],
)
def test_when_it_is_gone(world: World, fault: Fault) -> None:
    """No answer is lost or wrong, all is charged and counted once, and it is said meanwhile."""
    world.arrive()
    askers = [*COUNTING, *(BEATING if world.framework == "fastapi" else [])]
    sign = _sign if world.at == "redis" else token
    load = Load(world.service.url, askers, sign=sign)
    watched = Watched(world, load, fault)
    with load:
        try:
            watched.begin()
            watched.strike()
            watched.heal()
        finally:
            world.let_go()
            if not watched.returned:
                fault.heal(world)
    watched.check_answers()
    watched.check_quota()
    watched.check_counts()
    watched.check_log()
    if not fault.has_victims:
        watched.check_times()


@over_hosts
def test_two_threads(world: World) -> None:
    """With everything on, after all that, each worker has two threads beside its server's own."""
    world.arrive()
    with Load(world.service.url, COUNTING, sign=_sign) as load:
        load.more(10)
        wait_until(lambda: _threads(world) == dict.fromkeys(world.pids(), OURS), "two threads")


def _threads(world: World) -> dict[int, set[str]]:
    """Name the threads of each worker that are not its server's own."""
    found = {}
    for _ in range(10 * world.workers):
        told = world.service.server.ask("/threads").json()
        found[told["worker"]] = {
            name for name in told["threads"] if not name.startswith(SERVERS_OWN)
        }
    return found


@over_hosts
def test_a_graceful_stop_loses_nothing(world: World) -> None:
    """What was answered right before SIGTERM is with the collector afterwards, and in the books."""
    world.arrive()
    service, spans = world.service, world.spans
    wait_until(lambda: not world.is_degraded("tracing"), "spans are taken")
    before, seen = service.used().get(FIELDS[LOCAL], 0), len(_requests(spans))
    with Load(service.url, COUNTING, sign=_sign) as load:
        load.more(10)
    service.server.stop()

    answered = len(load.replies)
    assert len(_requests(spans)) - seen >= answered
    assert service.used()[FIELDS[LOCAL]] - before == _rows(load.since(0, LOCAL))


def _requests(spans: OTLPReceiver) -> set[str]:
    return {span["span_id"] for span in list(spans.spans) if span["kind"] == "server"}


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
        with server("flask", tmp_path, written, workers=1, status=500) as service:
            assert service.ask("/health").status == 500
        assert COMPLAINT in service.log()


def test_workers_that_count_apart_are_told_of(tmp_path: Path) -> None:
    """Several workers of gunicorn that each count in memory: the log says what that means."""
    written = settings({"requests": ["100000/day"]})
    with (
        counted("flask", tmp_path, written, workers=2) as service,
        Load(service.url, [Asker(BEAT, 0, PACE)] * 8),
    ):
        wait_until(lambda: service.said("2 workers count quotas apart"), "the log says so")
