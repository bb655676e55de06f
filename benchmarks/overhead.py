"""What does guarding a request cost, and what do others charge?

Everything runs in one process and one run. That is fair as far as these go, and no further:
OpenTelemetry reads OTEL_SEMCONV_STABILITY_OPT_IN once per process, so all contestants follow the
stable conventions, which cost the contrib instrumentation less than its default, the old ones;
FastAPI's own telemetry is off as long as no provider is global, and none is;
the contrib instrumentation patches background tasks for the whole process, and nobody has any.
Everybody's spans go by OTLP/HTTP to one receiver in another process. What is still held at the end
of a contestant's turn is sent within that turn, and the receiver counts what came.
What works in the analyst is not in these figures: it works beside the requests.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import fastapi_stacks, flask_stacks
from benchmarks.contestants import BARE, HAND, OTEL, OURS, Contestant
from benchmarks.measure import ASGI, WSGI, Driver, Request
from benchmarks.proofs import prove, prove_limit, wait_for_worker
from benchmarks.receiver import Receiver
from benchmarks.report import MEANING, Found, Verdict, spread, table, versions
from benchmarks.service import PARTS, bearer, build_reference, settings
from benchmarks.turns import Spread, Turn, Unfit, calls, cpu, every, rounds_of, say

REQUESTS = 200  # in one contestant's turn
SECONDS = 18  # for one framework's contestants
STEPS_SECONDS = 10  # for one framework's parts
COUNTED = 50  # requests whose Python calls are counted
TWO = "2/minute"
LEAST_SPANS = {OTEL: 1, HAND: 1, OURS: 2}  # of a request
GOALS: Mapping[str, float] = {"FastAPI": 0.16, "Flask": 0.22}

Rounds = Mapping[str, Sequence[float]]
"""CPU seconds of a request, by contestant and round."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Where one framework's contestants meet.

    Attributes:
        stacks: Makes them.
        driver: Sends their requests.
        receiver: Takes their spans.
        reference: What drift compares with.
    """

    stacks: ModuleType
    driver: Driver
    receiver: Receiver
    reference: Path

    @property
    def framework(self) -> str:
        """Its name."""
        return str(self.stacks.FRAMEWORK)

    def guarded(self, name: str, parts: Sequence[str] = PARTS, **changes: Any) -> Contestant:
        """Make the kit with some of its parts on."""
        slug = f"{self.framework.lower()}-{len(parts)}-{'-'.join(changes) or 'kit'}"
        tables = settings(
            slug, self.receiver.url, parts=parts, reference=self.reference, changes=changes
        )
        contestant: Contestant = self.stacks.guarded(tables, name)
        return contestant

    def turn(self, contestant: Contestant) -> Turn:
        """Return what measures CPU seconds a request, with all that it leads to."""
        prepared = [self.driver.prepared(authorized())] * REQUESTS

        def work() -> None:
            self.driver.run(contestant.app, prepared)
            contestant.flush()

        return lambda: cpu(work) / REQUESTS

    def race(self, contestants: Sequence[Contestant], what: str, seconds: float) -> Rounds:
        """Let all have their turns, once before it counts."""
        turns = {contestant.name: self.turn(contestant) for contestant in contestants}
        for turn in turns.values():
            turn()
        say(f"measuring {self.framework}, {what}, for {seconds:g} seconds")
        progress = every(5, f"{self.framework}, {what}")
        return rounds_of(turns, seconds=seconds, progress=progress)

    def calls(self, contestant: Contestant) -> int:
        """Count the Python functions that one request calls in its thread."""
        prepared = [self.driver.prepared(authorized())] * COUNTED
        return round(calls(lambda: self.driver.run(contestant.app, prepared)) / COUNTED)


def authorized() -> Request:
    """Make the request of the benchmark."""
    return Request(headers={"Authorization": bearer()})


def added(rounds: Rounds, name: str, base: str = BARE) -> list[float]:
    """Return what somebody adds to another, round by round."""
    return [ours - other for ours, other in zip(rounds[name], rounds[base], strict=True)]


def share(rounds: Rounds, name: str, of: str) -> Spread:
    """Return what somebody adds to the bare service, as a share of what another adds."""
    pairs = zip(added(rounds, name), added(rounds, of), strict=True)
    return Spread.of([ours / other for ours, other in pairs])


def arrived(arena: Arena, contestants: Sequence[Contestant], rounds: int) -> dict[str, float]:
    """Return how many spans of each request came in, by contestant.

    Raises:
        Unfit: Somebody lost some.
    """
    counts = arena.receiver.counts()
    # Turns, the one before them, and what was sent to prove them.
    requests = REQUESTS * (rounds + 1)
    spans = {c.name: counts[c.service] / requests for c in contestants if c.service}
    for name, each in spans.items():
        if each < LEAST_SPANS[name]:
            raise Unfit(f"{name} sends {each:.2f} spans a request")
    return spans


def compete(arena: Arena, ours: Contestant) -> tuple[Rounds, dict[str, float]]:
    """Prove and measure one framework's contestants."""
    stacks, url = arena.stacks, arena.receiver.url
    prove_limit(arena.driver, stacks.assembled(url, TWO))
    alone = [part for part in PARTS if part != "drift"]  # which takes the file of a host
    limited = arena.guarded(
        OURS, alone, quotas={"requests": [TWO]}, service={"host_file": False, "name": "limited"}
    )
    prove_limit(arena.driver, limited)
    contestants = [stacks.bare(), stacks.otel(url), stacks.assembled(url), ours]
    for contestant in contestants:
        prove(arena.driver, contestant, arena.receiver)
    rounds = arena.race(contestants, "all parts on", SECONDS)
    spans = arrived(arena, contestants, len(rounds[BARE]))
    for contestant in contestants[1:3]:
        contestant.close()
    return rounds, spans


def dissect(arena: Arena, ours: Contestant) -> tuple[Rounds, int, int]:
    """Measure the parts, switched on one by one; count calls of the bare app, and of all parts."""
    bare = arena.stacks.bare()
    steps = [arena.guarded(_step(count), PARTS[:count]) for count in range(len(PARTS))]
    rounds = arena.race([bare, *steps, ours], "part by part", STEPS_SECONDS)
    counted = arena.calls(bare), arena.calls(ours)
    for contestant in steps:
        contestant.close()
    return rounds, *counted


def _step(count: int) -> str:
    return f"+ {PARTS[count - 1]}" if count else "nothing configured"


def compared(arena: Arena, rounds: Rounds, spans: Mapping[str, float]) -> str:
    """Write what a request costs, and what each contestant adds to the bare service."""
    heads = ("", "µs/request", "added µs", "x bare", "added / OTel", "added / by hand", "spans")

    def line(name: str) -> list[str]:
        whole = Spread.of(rounds[name]).times(1e6)
        if name == BARE:
            return [name, spread(whole), "0", "1.00", "0", "0", "0"]
        times = Spread.of([a / b for a, b in zip(rounds[name], rounds[BARE], strict=True)])
        return [
            name,
            spread(whole),
            spread(Spread.of(added(rounds, name)).times(1e6)),
            f"{times.median:.2f}",
            spread(share(rounds, name, OTEL), 2),
            spread(share(rounds, name, HAND), 2),
            f"{spans[name]:.1f}",
        ]

    packages = versions(arena.stacks.PACKAGES)
    title = (
        f"{arena.framework}: CPU time of one request with one row, all threads, all parts on,\n"
        f"spans exported within each turn; {MEANING},\n{len(rounds[BARE])} rounds of {REQUESTS}; "
        f"{packages}"
    )
    return table(title, heads, map(line, rounds))


def parts(arena: Arena, rounds: Rounds, counted: tuple[int, int]) -> str:
    """Write what each part adds to those before it."""
    steps = [name for name in rounds if name != BARE]
    befores = [BARE, *steps[:-1]]
    lines = [
        [f"+ {PARTS[-1]}" if name == OURS else name, spread(_step_cost(rounds, name, before))]
        for name, before in zip(steps, befores, strict=True)
    ]
    lines.append(["all of it", spread(Spread.of(added(rounds, OURS)).times(1e6))])
    bare, ours = counted
    return (
        table(f"{arena.framework}: mlguard part by part", ("", "added µs"), lines)
        + f"\nPython calls a request: bare {bare}, mlguard {ours}"
    )


def _step_cost(rounds: Rounds, name: str, before: str) -> Spread:
    return Spread.of(added(rounds, name, before)).times(1e6)


def verdicts(arena: Arena, rounds: Rounds) -> tuple[Verdict, ...]:
    """Compare with the goals."""
    name, goal = arena.framework, GOALS[arena.framework]
    of_hand, of_otel = share(rounds, OURS, HAND).median, share(rounds, OURS, OTEL).median
    return (
        Verdict(f"{name}: added CPU as a share of the hand-assembled stack's", of_hand, goal),
        Verdict(f"{name}: added CPU as a share of OpenTelemetry's alone", of_otel, 1.0),
    )


def measure(arena: Arena, ours: Contestant) -> tuple[dict[str, Any], tuple[Verdict, ...]]:
    """Measure one framework, and print its tables."""
    rounds, spans = compete(arena, ours)
    print(compared(arena, rounds, spans), flush=True)
    steps, *counted = dissect(arena, ours)
    print(parts(arena, steps, (counted[0], counted[1])), flush=True)
    whole, extra = _by_name(rounds), {n: Spread.of(added(rounds, n)) for n in rounds}
    figures = {
        "rounds": len(rounds[BARE]),
        "micros": {name: value.times(1e6).json() for name, value in whole.items()},
        "added_micros": {n: v.times(1e6).json() for n, v in extra.items() if n != BARE},
        "share_of_hand": share(rounds, OURS, HAND).json(),
        "share_of_otel": share(rounds, OURS, OTEL).json(),
        "spans": spans,
        "parts_added_micros": _parts_json(steps),
        "python_calls": {BARE: counted[0], OURS: counted[1]},
        "versions": versions(arena.stacks.PACKAGES),
    }
    return figures, verdicts(arena, rounds)


def _by_name(rounds: Rounds) -> dict[str, Spread]:
    return {name: Spread.of(taken) for name, taken in rounds.items()}


def _parts_json(rounds: Rounds) -> dict[str, dict[str, float]]:
    names = list(rounds)
    pairs = zip(names[1:], names, strict=False)
    return {name: _step_cost(rounds, name, before).json() for name, before in pairs}


def peers() -> str:
    """Say how the stacks that are assembled by hand are put together."""
    lists = [
        f"  {stacks.FRAMEWORK}: " + ";\n    ".join(stacks.PEERS) + "."
        for stacks in (fastapi_stacks, flask_stacks)
    ]
    lacking = "  It has no drift checks, no inference span, and no quota in rows."
    return "\n".join(["\nAssembled by hand is:", *lists, lacking])


def main() -> Found:
    """Measure both frameworks and print two tables for each."""
    figures: dict[str, Any] = {}
    reached: list[Verdict] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        receiver = stack.enter_context(Receiver())
        say("building a reference")
        reference = build_reference(Path(folder) / "reference.parquet")
        entries = []
        for stacks, driver in ((fastapi_stacks, ASGI()), (flask_stacks, WSGI())):
            stack.callback(driver.close)
            arena = Arena(stacks, driver, receiver, reference)
            ours = arena.guarded(OURS)
            stack.callback(ours.close)
            prove(driver, ours, receiver)
            entries.append((arena, ours))
        say("starting the drift workers (some 20 seconds: the statistics packages are large)")
        for arena, ours in entries:
            wait_for_worker(arena.driver, ours)
        print(peers())
        for arena, ours in entries:
            figures[arena.framework], found = measure(arena, ours)
            reached += found
    return Found(figures, tuple(reached))
