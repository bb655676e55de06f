"""What grows with rows, routes and callers, and how much memory does a worker take?

Rows: what the kit adds to a batch of 1000 rows of 10 numbers, less what it adds to one row and less
one parse of the batch by Python's json, by row.
Routes and callers: what the kit adds with many of them, as a multiple of what it adds with few.
Memory: workers of real servers that have answered so many requests, less one with the bare app.
All but tracing and drift are on, save in the workers, which have tracing too.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import fastapi_stacks, flask_stacks
from benchmarks.cases import REST
from benchmarks.contestants import BARE, OURS, Contestant
from benchmarks.hosting import Served
from benchmarks.load import Load, ended, start
from benchmarks.measure import ASGI, WSGI, Driver, Request
from benchmarks.receiver import Receiver
from benchmarks.report import Found, Verdict, table
from benchmarks.servers import FRAMEWORKS
from benchmarks.service import BODY, PARTS, bearer, build_reference, settings
from benchmarks.turns import Spread, Turn, cpu, every, rounds_of, say

ROWS, COLUMNS = 1000, 10
FEW_ROUTES, MANY_ROUTES = 5, 200
CALLERS = 10_000
REQUESTS, BATCHES = 150, 15  # in a turn
SECONDS = 6  # for one framework
SERVED, EXPORTED = 2000, 2.0  # requests; seconds until their spans have left
CHEAP = ("model", "auth", "quotas")  # what else is on costs the same whatever grows
DRIFT = "with drift"
HEAVY = ("pandas", "pyarrow", "numpy", "scipy")
MIB = 2**20
ROW_GOAL, MEMORY_GOAL, DRIFT_GOAL = 1.0, 30.0, 35.0  # µs, MiB, MiB
# Both are measured: this much they may seem to differ by chance.
SAME = 1.1


def batch() -> bytes:
    """Write a body with many rows."""
    chance = random.Random(0)
    rows = [[round(chance.uniform(0, 10), 1) for _ in range(COLUMNS)] for _ in range(ROWS)]
    return json.dumps({"instances": rows}).encode()


class Field:
    """One framework's apps, bare and guarded, with few and many routes and callers.

    Args:
        stacks: Makes them.
        driver: Sends requests.
        tokens: Of all callers.
    """

    def __init__(self, stacks: ModuleType, driver: Driver, tokens: Sequence[str]) -> None:
        self._stacks, self._driver = stacks, driver
        self._guarded: list[Contestant] = []
        self._one = self._prepared(tokens[0])
        self._batch = self._prepared(tokens[0], batch())
        self._callers = [self._prepared(token) for token in tokens]

    def _prepared(self, token: str, body: bytes | None = None) -> Any:
        headers = {"authorization": token}
        return self._driver.prepared(
            Request(headers=headers) if body is None else Request(headers=headers, body=body)
        )

    def _app(self, routes: int) -> Any:
        app = self._stacks.service()
        self._stacks.add_routes(app, routes)
        return app

    def _guard(self, name: str, routes: int = 0) -> Contestant:
        service = f"{self._stacks.FRAMEWORK.lower()}-{name}"
        tables = settings(service, "", parts=CHEAP)
        # Which columns there are, the rows say.
        tables["models"][0]["features"] = []
        self._guarded.append(self._stacks.guarded(tables, name, app=self._app(routes)))
        return self._guarded[-1]

    def _turn(self, contestant: Contestant, prepared: Sequence[Any]) -> Turn:
        def work() -> None:
            self._driver.run(contestant.app, prepared)
            contestant.flush()

        return lambda: cpu(work) / len(prepared)

    def _among(self, contestant: Contestant) -> Turn:
        """Return what measures a request of somebody among many."""
        chance = random.Random(0)
        say(f"  {self._stacks.FRAMEWORK}: {len(self._callers)} callers introduce themselves")
        for first in range(0, len(self._callers), 1000):
            self._driver.run(contestant.app, self._callers[first : first + 1000])
            contestant.flush()
        sample = chance.sample(self._callers, min(REQUESTS, len(self._callers)))
        return self._turn(contestant, sample)

    def turns(self) -> dict[str, Turn]:
        """List what is measured."""
        one, many = [self._one] * REQUESTS, [self._batch] * BATCHES
        bare, ours = self._stacks.bare(), self._guard("one")
        few = self._stacks.bare(self._app(FEW_ROUTES))
        lots = self._stacks.bare(self._app(MANY_ROUTES))
        return {
            "bare": self._turn(bare, one),
            "ours": self._turn(ours, one),
            "bare, batch": self._turn(bare, many),
            "ours, batch": self._turn(ours, many),
            "bare, few routes": self._turn(few, one),
            "ours, few routes": self._turn(self._guard("few", FEW_ROUTES), one),
            "bare, many routes": self._turn(lots, one),
            "ours, many routes": self._turn(self._guard("lots", MANY_ROUTES), one),
            "ours, many callers": self._among(self._guard("callers")),
            "parse": parse_turn(),
        }

    def close(self) -> None:
        """End what was started."""
        for contestant in self._guarded:
            contestant.close()


def parse_turn() -> Turn:
    """Return what measures one parse of the batch by Python's json."""
    body = batch()

    def work() -> None:
        for _ in range(BATCHES):
            json.loads(body)

    return lambda: cpu(work) / BATCHES


Measured = Mapping[str, Sequence[float]]
"""CPU seconds of a request, by what and round."""


def added(measured: Measured, ours: str, bare: str) -> list[float]:
    """Return what the kit adds, round by round."""
    return [a - b for a, b in zip(measured[ours], measured[bare], strict=True)]


def figures_of(measured: Measured) -> dict[str, Spread]:
    """Work out µs a row, and ratios."""
    plain = added(measured, "ours", "bare")
    batches = added(measured, "ours, batch", "bare, batch")
    parse = measured["parse"]
    row = [(b - p) / ROWS * 1e6 for b, p in zip(batches, plain, strict=True)]
    beyond = [each - p / ROWS * 1e6 for each, p in zip(row, parse, strict=True)]
    few = added(measured, "ours, few routes", "bare, few routes")
    many = added(measured, "ours, many routes", "bare, many routes")
    callers = added(measured, "ours, many callers", "bare")
    return {
        "µs a row": Spread.of(row),
        "one parse by json, µs a row": Spread.of([p / ROWS * 1e6 for p in parse]),
        "µs a row beyond one parse": Spread.of(beyond),
        f"{MANY_ROUTES} routes / {FEW_ROUTES}": Spread.of(_ratios(many, few)),
        f"{CALLERS} callers / 1": Spread.of(_ratios(callers, plain)),
    }


def _ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(values, others, strict=True)]


def tokens() -> list[str]:
    """Sign a token for each caller."""
    say(f"signing {CALLERS} tokens")
    return [bearer(f"caller-{number}") for number in range(CALLERS)]


def told(framework: str, stack: str, url: str, reference: Path) -> dict[str, Any]:
    """Say what a worker serves."""
    parts = PARTS if stack == DRIFT else REST
    name = f"{framework}-{stack.replace(' ', '-')}"
    tables = settings(name, url, parts=parts, reference=reference)
    return {"stack": stack, "endpoint": url, "settings": tables}


def memory(url: str, reference: Path) -> dict[str, dict[str, Any]]:
    """Measure what workers take, by server."""
    token = bearer()
    say("starting six servers (some 20 seconds: the statistics packages are large)")
    with ExitStack() as stack:
        running = {
            (server, name): stack.enter_context(
                Served(server, told(framework, name, url, reference))
            )
            for server, framework in FRAMEWORKS.items()
            for name in (BARE, OURS, DRIFT)
        }
        for (server, name), served in running.items():
            served.wait(token)
            if name == DRIFT:
                served.wait_for_drift()
            say(f"  {server}, {name}: {_answered(served, token)} requests answered")
        time.sleep(EXPORTED)
        return {server: _grown(server, running) for server in FRAMEWORKS}


def _answered(served: Served, token: str) -> int:
    load = Load(served.port, (token,), (BODY.decode(), "", "", 0), 1.0, 8)
    answered = 0
    while answered < SERVED:
        answered += ended(start(load)).statuses["200"]
    return answered


def _grown(server: str, running: Mapping[tuple[str, str], Served]) -> dict[str, Any]:
    bare, drift = running[server, BARE].resident(), running[server, DRIFT]
    return {
        "bare MiB": bare / MIB,
        "added MiB": (running[server, OURS].resident() - bare) / MIB,
        "added MiB with drift": (drift.resident() - bare) / MIB,
        "heavy": [name for name in HEAVY if drift.loads(name)],
    }


def measure(stacks: ModuleType, driver: Driver, callers: Sequence[str]) -> dict[str, Spread]:
    """Measure one framework."""
    field = Field(stacks, driver, callers)
    try:
        turns = field.turns()
        for turn in turns.values():
            turn()
        what = f"{stacks.FRAMEWORK} rows, routes and callers"
        say(f"measuring {what}, for {SECONDS} seconds or more")
        return figures_of(rounds_of(turns, seconds=SECONDS, progress=every(3, what), least=7))
    finally:
        field.close()


def growth(framework: str, found: Mapping[str, Spread]) -> tuple[Verdict, ...]:
    """Compare with the goals of time."""
    row, routes, callers = [found[name].median for name in list(found)[2:]]
    return (
        Verdict(f"{framework}: µs a row beyond one parse", row, ROW_GOAL),
        Verdict(f"{framework}: added CPU, many routes as few", routes, SAME),
        Verdict(f"{framework}: added CPU, many callers as one", callers, SAME),
    )


def weight(server: str, grown: Mapping[str, Any]) -> tuple[Verdict, ...]:
    """Compare with the goals of memory."""
    loaded = [name for name in ("pandas", "pyarrow") if name in grown["heavy"]]
    return (
        Verdict(f"{server}: MiB of a worker above bare", grown["added MiB"], MEMORY_GOAL),
        Verdict(f"{server}: the same with drift", grown["added MiB with drift"], DRIFT_GOAL),
        Verdict(f"{server}: of pandas and pyarrow, loaded in a worker", len(loaded), 0),
    )


def written(framework: str, found: Mapping[str, Spread]) -> str:
    """Write what grows with rows, routes and callers."""
    rows = [(n, f"{s.median:.2f}", f"{s.low:.2f}-{s.high:.2f}") for n, s in found.items()]
    title = f"{framework}: what grows with rows ({ROWS} x {COLUMNS}), routes and callers"
    return table(title, ("", "median", "quartiles"), rows)


def weighed(grown: Mapping[str, Mapping[str, Any]]) -> str:
    """Write what workers take."""
    heads = ("", "bare MiB", "added", "added with drift", "loaded with drift")
    rows = [
        (server, *(f"{value:.1f}" for value in list(each.values())[:3]), ", ".join(each["heavy"]))
        for server, each in grown.items()
    ]
    title = f"Resident memory of a worker that answered {SERVED} requests"
    return table(title, heads, rows)


def main() -> Found:
    """Measure both frameworks, and print a table for each and one of memory."""
    figures: dict[str, Any] = {}
    reached: list[Verdict] = []
    callers = tokens()
    for stacks, driver in ((fastapi_stacks, ASGI()), (flask_stacks, WSGI())):
        found = measure(stacks, driver, callers)
        driver.close()
        print(written(stacks.FRAMEWORK, found), flush=True)
        figures[stacks.FRAMEWORK] = {name: each.json() for name, each in found.items()}
        reached += growth(stacks.FRAMEWORK, found)
    with Receiver() as receiver, tempfile.TemporaryDirectory() as folder:
        reference = build_reference(Path(folder) / "reference.parquet")
        grown = memory(receiver.url, reference)
    print(weighed(grown), flush=True)
    for server, each in grown.items():
        reached += weight(server, each)
    return Found(figures | {"memory": grown}, tuple(reached))
