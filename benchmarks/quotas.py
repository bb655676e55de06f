"""What does it cost to count what a caller may still ask, and what do others charge?

All count in sliding-window counters, which all of them offer, and all windows are far from full.
"One window" is one of requests. "Three windows" are one of requests and two of rows, as in the
README: mlguard charges them all or none in one step; the others one after another, whatever becomes
of the next. What each figure has in it:

- mlguard: what its guard does with the decision that it asks for: which limits hold for a verified
  caller and a model, which accounts they are, the debit, and the values of the headers;
- its ledger alone: the debit, which tells what is left of each window too;
- limits, limits.aio: `hit`, which tells nothing; "with what is left" calls `get_window_stats`
  too, as whoever sends headers must;
- slowapi: what its decorator adds to calling an endpoint with a Starlette request;
- flask-limiter: what it adds to a pushed request context's functions before the request, to the
  view and to the functions after it. Making requests and routing them is in neither figure.

In memory it is CPU time of the thread, elsewhere time on the clock: two processes work there.
Round trips are how often the Redis read something, commands are those that a MONITOR saw.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import secrets
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import callers
from benchmarks.service import UNREACHED
from benchmarks.turns import Turn, Unfit, say, take_turns
from mlguard.app.drivers import adrive, drive
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.ledger import HostLedger
from mlguard.ledger import Ledger, MemoryLedger
from mlguard.messages import Principal
from mlguard.quota_store.choose import maker
from mlguard.quota_store.failover import Failover
from mlguard.quotas import Charged, Demand, Quota
from mlguard.settings import Quotas

STRATEGY = "sliding-window-counter"
MEMORY, HOST = "memory://", "host://"
SECONDS = 4  # for one table
CALLS: Mapping[str, int] = {"memory": 100, "host": 15, "Redis": 15}  # in one contestant's turn
COUNTED = 50  # admissions while the Redis is watched
WORKERS = 4
ROUNDS, SPELL = 3, 0.4  # of the workers, seconds
READY_WITHIN = 60  # seconds
TIMEOUT = 5  # seconds, so that a busy machine is no outage


class Rates(NamedTuple):
    """How much a caller may ask.

    Attributes:
        requests: Windows of requests.
        rows: Windows of rows.
    """

    requests: tuple[str, ...]
    rows: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """All windows, for who makes no difference."""
        return self.requests + self.rows


ONE = Rates((UNREACHED,))
THREE = Rates((UNREACHED,), ("1000000000/hour", "1000000000/day"))
TWO = Rates(("2/minute",))


@dataclass(frozen=True)
class Place:
    """Where is counted.

    Attributes:
        url: As in the settings.
        service: Whose workers count together.
        caller: Who asks.
    """

    url: str
    service: str
    caller: str

    @classmethod
    def fresh(cls, url: str, service: str = "") -> Place:
        """Make one where nothing of a new caller is counted yet."""
        service = service or f"benchmark-{secrets.token_hex(4)}"
        return cls(url, service, secrets.token_hex(8))

    @property
    def kind(self) -> str:
        """What it is called in a table."""
        return {MEMORY: "memory", HOST: "host"}.get(self.url, "Redis")

    @property
    def clock(self) -> Callable[[], float]:
        """What time is taken by."""
        return time.thread_time if self.url == MEMORY else time.perf_counter


class Contestant:
    """One way to admit a request: admits one, or measures many.

    Args:
        place: Where it counts.
        rates: What it admits.
    """

    name = ""
    places: tuple[str, ...] = ("memory", "Redis")

    def __init__(self, place: Place, rates: Rates) -> None:
        self.place = place

    def admit(self) -> bool:
        """Ask for one more."""
        raise NotImplementedError

    def seconds(self, count: int) -> float:
        """Ask so often; return how long that took in all."""
        clock = self.place.clock
        began = clock()
        for _ in range(count):
            self.admit()
        return clock() - began

    def close(self) -> None:
        """End what was started."""


class Kit(Contestant):
    """The kit, as its guard asks it."""

    name = "mlguard"
    places = ("memory", "host", "Redis")

    def __init__(self, place: Place, rates: Rates) -> None:
        super().__init__(place, rates)
        asked = {"store": place.url, "store_timeout": TIMEOUT}
        asked |= {"requests": list(rates.requests)} | (
            {"rows": list(rates.rows)} if rates.rows else {}
        )
        settings = Quotas.model_validate(asked)
        self._was_away = False
        self.ledger: Ledger = MemoryLedger()
        if place.url != MEMORY:
            self.ledger = self._shared(settings)
        self._quota = Quota(settings, self.ledger, is_shared=place.url != MEMORY)
        self._caller = self._quota.caller(Principal("https://login.example.com/", place.caller))

    def _shared(self, settings: Quotas) -> Failover:
        ledger = Failover(
            self._host if self.place.url == HOST else maker(settings, self.place.service),
            name=self.place.kind,
            share=1.0,
            lifetime=False,
            on_away=self._on_away,
        )
        ledger.start()
        return ledger

    def _host(self) -> HostLedger:
        folder = Folder.of(self.place.service)
        folder.prepare()
        return HostLedger(Database(folder.database, wait=TIMEOUT), is_lasting=False)

    def _on_away(self, is_away: bool) -> None:
        self._was_away |= is_away

    def decision(self) -> Any:
        """Begin to decide: the steps, as the guard has them."""
        return self._quota.admit(self._caller, Demand("iris", {"rows": 1}))

    def admit(self) -> bool:
        return isinstance(drive(self.decision()), Charged)

    def close(self) -> None:
        if isinstance(self.ledger, Failover):
            self.ledger.close()
        if self._was_away:
            raise Unfit(f"{self.name}: its store, {self.place.kind}, was away meanwhile")


class Looped(Contestant):
    """What runs on an event loop: all of it on one, which the whole process shares."""

    _runner: asyncio.Runner | None = None

    def admit(self) -> bool:
        return bool(self._run(self.aadmit()))

    def seconds(self, count: int) -> float:
        taken: float = self._run(self._many(count))
        return taken

    async def aadmit(self) -> bool:
        """Ask for one more."""
        raise NotImplementedError

    async def _many(self, count: int) -> float:
        clock = self.place.clock
        began = clock()
        for _ in range(count):
            await self.aadmit()
        return clock() - began

    @staticmethod
    def _run(steps: Any) -> Any:
        if Looped._runner is None:
            Looped._runner = asyncio.Runner()
        return Looped._runner.run(steps)


class LoopedKit(Looped, Kit):
    """The kit, as its guard asks it on an event loop."""

    name = "mlguard, async"

    async def aadmit(self) -> bool:
        return isinstance(await adrive(self.decision()), Charged)


class Bare(Kit):
    """The kit's ledger, as whoever has an order asks it."""

    name = "mlguard's ledger alone"

    def __init__(self, place: Place, rates: Rates) -> None:
        super().__init__(place, rates)
        steps = self.decision()
        self._order = next(steps).order
        steps.close()

    def admit(self) -> bool:
        receipt = self.ledger.debit(self._order)
        return receipt is not None and receipt.is_admitted


class LoopedBare(Looped, Bare):
    """The kit's ledger, as whoever has an order asks it on an event loop."""

    name = "mlguard's ledger alone, async"

    async def aadmit(self) -> bool:
        receipt = await self.ledger.adebit(self._order)
        return receipt is not None and receipt.is_admitted


class Limits(Contestant):
    """`limits`, blocking."""

    name = "limits"

    def __init__(self, place: Place, rates: Rates) -> None:
        import limits

        super().__init__(place, rates)
        storage = limits.storage.storage_from_string(place.url)
        self._limiter = limits.strategies.SlidingWindowCounterRateLimiter(storage)
        self._items = [limits.parse(rate) for rate in rates.all]

    def admit(self) -> bool:
        answers = [self._limiter.hit(item, self.place.caller) for item in self._items]
        return all(answers)


class LimitsLeft(Limits):
    """`limits`, asked what is left too."""

    name = "limits with what is left"

    def admit(self) -> bool:
        is_admitted = super().admit()
        for item in self._items:
            self._limiter.get_window_stats(item, self.place.caller)
        return is_admitted


class LoopedLimits(Looped):
    """`limits` on an event loop."""

    name = "limits.aio"

    def __init__(self, place: Place, rates: Rates) -> None:
        import limits

        super().__init__(place, rates)
        options: dict[str, Any] = {} if place.url == MEMORY else {"implementation": "redispy"}
        storage: Any = limits.storage.storage_from_string(f"async+{place.url}", **options)
        self._limiter = limits.aio.strategies.SlidingWindowCounterRateLimiter(storage)
        self._items = [limits.parse(rate) for rate in rates.all]

    async def aadmit(self) -> bool:
        answers = [await self._limiter.hit(item, self.place.caller) for item in self._items]
        return all(answers)


class SlowAPI(Contestant):
    """slowapi's decorator around an endpoint."""

    name = "slowapi"
    with_headers = False

    def __init__(self, place: Place, rates: Rates) -> None:
        from slowapi import Limiter
        from slowapi.util import get_remote_address
        from starlette.requests import Request
        from starlette.responses import Response

        super().__init__(place, rates)
        limiter = Limiter(
            get_remote_address,
            strategy=STRATEGY,
            storage_uri=place.url,
            headers_enabled=self.with_headers,
        )

        def predict(request: Request) -> Response:
            return Response(b"{}")

        self._bare = predict
        self._limited = limiter.limit(";".join(rates.all))(predict)

    def _request(self) -> Any:
        from starlette.requests import Request

        head = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        return Request({**head, "client": (self.place.caller, 50000)})

    def admit(self) -> bool:
        from slowapi.errors import RateLimitExceeded

        try:
            self._limited(request=self._request())
        except RateLimitExceeded:
            return False
        return True

    def seconds(self, count: int) -> float:
        return self._of(self._limited, count) - self._of(self._bare, count)

    def _of(self, endpoint: Callable[..., Any], count: int) -> float:
        requests, clock = [self._request() for _ in range(count)], self.place.clock
        began = clock()
        for request in requests:
            endpoint(request=request)
        return clock() - began


class SlowAPIHeaders(SlowAPI):
    """The same, where headers are switched on."""

    name = "slowapi with headers"
    with_headers = True


class FlaskLimiter(Contestant):
    """flask-limiter's decorator around a view, and what it hooks into the app."""

    name = "flask-limiter"
    with_headers = False

    def __init__(self, place: Place, rates: Rates) -> None:
        from flask import Flask
        from flask_limiter import Limiter
        from flask_limiter.util import get_remote_address

        super().__init__(place, rates)
        self._bare, self._limited = Flask("bare"), Flask("limited")
        limiter = Limiter(
            get_remote_address,
            app=self._limited,
            strategy=STRATEGY,
            storage_uri=place.url,
            headers_enabled=self.with_headers,
        )

        def predict() -> Any:
            return self._bare.response_class("{}")

        self._bare.post("/predict")(predict)
        self._limited.post("/predict")(limiter.limit(";".join(rates.all))(predict))

    def admit(self) -> bool:
        from flask_limiter import RateLimitExceeded

        try:
            self._once(self._limited)
        except RateLimitExceeded:
            return False
        return True

    def seconds(self, count: int) -> float:
        return sum(self._once(self._limited) - self._once(self._bare) for _ in range(count))

    def _once(self, app: Any) -> float:
        clock, environ = self.place.clock, {"REMOTE_ADDR": self.place.caller}
        with app.test_request_context("/predict", method="POST", environ_base=environ):
            began = clock()
            app.preprocess_request()
            app.process_response(app.view_functions["predict"]())
            return clock() - began


class FlaskLimiterHeaders(FlaskLimiter):
    """The same, where headers are switched on."""

    name = "flask-limiter with headers"
    with_headers = True


CONTESTANTS: tuple[type[Contestant], ...] = (
    Kit,
    LoopedKit,
    Bare,
    LoopedBare,
    Limits,
    LimitsLeft,
    LoopedLimits,
    SlowAPI,
    SlowAPIHeaders,
    FlaskLimiter,
    FlaskLimiterHeaders,
)
COMPARED: tuple[tuple[type[Contestant], type[Contestant]], ...] = (
    (Kit, SlowAPI),
    (Kit, SlowAPIHeaders),
    (Kit, FlaskLimiter),
    (Kit, FlaskLimiterHeaders),
    (Bare, Limits),
    (Bare, LimitsLeft),
    (LoopedBare, LoopedLimits),
)


@contextlib.contextmanager
def redis_server() -> Iterator[callers.Server | None]:
    """Run a Redis of our own that keeps nothing on disk; None where the program is missing."""
    program = shutil.which("redis-server")
    if program is None:
        yield None
        return
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", folder]
        command += ["--save", "", "--appendonly", "no", "--logfile", str(Path(folder) / "log")]
        process = subprocess.Popen(command)
        server = callers.Server(f"redis://127.0.0.1:{port}/0", process.pid)
        try:
            _wait(server, process)
            yield server
        finally:
            process.kill()
            process.wait()


def _wait(server: callers.Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        with contextlib.suppress(Exception), server.client() as client:
            client.ping()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unfit("the Redis does not start")
        time.sleep(0.02)


def prove(make: type[Contestant], url: str) -> None:
    """Make sure that a contestant admits two requests, where two are all, and no third.

    Raises:
        Unfit: It does not.
    """
    contestant = make(Place.fresh(url), TWO)
    answers = [contestant.admit() for _ in range(3)]
    contestant.close()
    if answers != [True, True, False]:
        raise Unfit(f"{contestant.name}, {contestant.place.kind}, answers {answers}")


def trips(server: callers.Server, contestant: Contestant) -> tuple[float, float]:
    """Watch what the Redis reads; return round trips and commands of one admission."""
    contestant.admit()  # by now it is connected, and its scripts are known
    with server.client() as client, client.monitor() as monitor:
        before = client.info("stats")["total_reads_processed"]
        for _ in range(COUNTED):
            contestant.admit()
        # The asking is read too.
        reads = client.info("stats")["total_reads_processed"] - before - 1
        seen = _between(monitor.listen())
    return reads / COUNTED, len(seen) / COUNTED


def _between(heard: Iterator[dict[str, Any]]) -> list[str]:
    """List the commands of clients, not of scripts, between an INFO and the next."""
    sent = (each["command"] for each in heard if each["client_type"] != "lua")
    for command in sent:
        if command.startswith("INFO"):
            break
    return list(takewhile(lambda command: not command.startswith("INFO"), sent))


def turn_of(contestant: Contestant) -> Turn:
    """Return what measures seconds of one admission."""
    count = CALLS[contestant.place.kind]
    return lambda: contestant.seconds(count) / count


def compete(title: str, rates: Rates, server: callers.Server | None) -> None:
    """Measure all contestants everywhere in turns, and print a table."""
    urls = [MEMORY, HOST, *([server.url] if server else [])]
    # One service: one ledger for the host.
    service = f"benchmark-{secrets.token_hex(4)}"
    contestants = [
        make(place, rates)
        for make in CONTESTANTS
        for place in [Place.fresh(url, service) for url in urls]
        if place.kind in make.places
    ]
    found = {(c.name, c.place.kind): c for c in contestants}
    for contestant in contestants:
        contestant.seconds(CALLS[contestant.place.kind])
    turns = {f"{name}: {kind}": turn_of(c) for (name, kind), c in found.items()}

    def progress(number: int) -> None:
        if number % 5 == 0:
            say(f"  {title}: round {number + 1}")

    say(f"measuring {title} for {SECONDS} seconds")
    taken, rounds = take_turns(turns, seconds=SECONDS, progress=progress)
    micros = {name: value * 1e6 for name, value in taken.items()}
    counted = {c.name: trips(server, c) for c in contestants if server and c.place.kind == "Redis"}
    for contestant in contestants:
        contestant.close()
    heading = f"\nTime of one admission, {title}, median of {rounds} rounds"
    print(table(heading, micros, counted), flush=True)


def table(title: str, micros: Mapping[str, float], counted: Mapping[str, Any]) -> str:
    """Write microseconds by contestant and store, what the Redis saw, and comparisons."""
    kinds = list(CALLS)
    heads = [*(f"{kind} µs" for kind in kinds), "round trips", "commands"]

    def line(label: str, figures: Sequence[str]) -> str:
        cells = zip(heads, figures, strict=True)
        return f"{label:52}" + "".join(f"{figure:>{len(head) + 3}}" for head, figure in cells)

    def figure(name: str, kind: str) -> str:
        value = micros.get(f"{name}: {kind}")
        return "-" if value is None else f"{value:.1f}"

    def ratio(ours: str, other: str, kind: str) -> str:
        pair = micros.get(f"{ours}: {kind}"), micros.get(f"{other}: {kind}")
        return "-" if None in pair else f"{pair[0] / pair[1]:.2f}"  # type: ignore[operator]

    lines = [title, "", line("", heads)]
    for each in CONTESTANTS:
        seen = [f"{number:.2f}" for number in counted.get(each.name, ())] or ["-", "-"]
        lines.append(line(each.name, [*(figure(each.name, kind) for kind in kinds), *seen]))
    lines.append("")
    for ours, other in COMPARED:
        label = f"{ours.name} ÷ {other.name}"
        ratios = [ratio(ours.name, other.name, kind) for kind in kinds]
        lines.append(line(label, [*ratios, "", ""]).rstrip())
    return "\n".join(lines)


def work(entries: Sequence[tuple[type[Contestant], Place]], gate: Any, results: Any) -> None:
    """Be one of several workers: admit as fast as it goes whenever the gate opens."""
    contestants = [make(place, ONE) for make, place in entries]
    for contestant in contestants:
        contestant.admit()
    for _ in range(ROUNDS):
        for number, contestant in enumerate(contestants):
            gate.wait(READY_WITHIN)
            count, began = 0, time.perf_counter()
            while (taken := time.perf_counter() - began) < SPELL:
                contestant.admit()
                count += 1
            results.put((number, count / taken))
    gate.wait(READY_WITHIN)
    for contestant in contestants:
        contestant.close()


def together(server: callers.Server | None) -> None:
    """Measure how many requests several processes admit in a second, and print a table."""
    entries: list[tuple[type[Contestant], Place]] = [(Kit, Place.fresh(u)) for u in (MEMORY, HOST)]
    if server:
        entries += [(make, Place.fresh(server.url)) for make in (Kit, Limits, LimitsLeft)]
    say(f"measuring {WORKERS} worker processes for {ROUNDS * SPELL * len(entries):.0f} seconds")
    spawn = multiprocessing.get_context("spawn")
    gate, results = spawn.Barrier(WORKERS), spawn.Queue()
    arguments = entries, gate, results
    workers = [spawn.Process(target=work, args=arguments, daemon=True) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    rates: list[list[float]] = [[] for _ in entries]
    for _ in range(WORKERS * ROUNDS * len(entries)):
        number, rate = results.get(timeout=READY_WITHIN)
        rates[number].append(rate)
    for worker in workers:
        worker.join(READY_WITHIN)
        if worker.exitcode:
            raise Unfit("a worker failed")
    sums = [statistics.median(each) * WORKERS for each in rates]
    names = [f"{make.name}, {place.kind}" for make, place in entries]
    print(f"\nAdmissions a second by {WORKERS} processes together, one window, one caller\n")
    for name, admitted in zip(names, sums, strict=True):
        note = "  (each counts alone)" if name == "mlguard, memory" else ""
        print(f"{name:36}{admitted:>10,.0f}{note}")
    if server:
        print()
        for number in (3, 4):
            print(f"{f'{names[2]} ÷ {names[number]}':52}{sums[2] / sums[number]:>8.2f}")


def main() -> None:
    """Print what an admission costs, how many there are in a second, and what a million keeps."""
    # What the proofs make them warn of is meant to happen.
    for name in ("slowapi", "flask-limiter", "mlguard"):
        logging.getLogger(name).addHandler(logging.NullHandler())
    with redis_server() as server:
        if server is None:
            print("\nThere is no redis-server on the PATH: nothing is measured with a Redis.")
        urls = [MEMORY, *([server.url] if server else [])]
        for make in CONTESTANTS:
            for url in urls:
                prove(make, url)
        prove(Kit, HOST)
        packages = ("limits", "slowapi", "Flask-Limiter", "redis")
        print("\n" + ", ".join(f"{name} {version(name)}" for name in packages))
        compete("one window", ONE, server)
        compete("three windows", THREE, server)
        together(server)
        callers.main(server)
