"""What does it cost to say no? CPU of each kind of refusal, as a multiple of the app's bare 404.

All parts but drift are on, and what is held at the end of a turn is exported within it. Each kind
has a guard of its own with the settings that lead to it. What is repeated in one stretch (bodies
that had to be read) is sent by one caller again and again: the first of them may cost more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks import fastapi_stacks, flask_stacks
from benchmarks.cases import REST, Case, cases, sent
from benchmarks.contestants import Contestant
from benchmarks.measure import ASGI, WSGI, Answer, Driver, Request
from benchmarks.receiver import Receiver
from benchmarks.report import Found, Verdict, table
from benchmarks.service import bearer, settings
from benchmarks.turns import Spread, Turn, cpu, every, rounds_of, say

TURN, MOST = 0.15, 200  # CPU seconds and requests of a turn, at most
TRIED = 3  # before it is known how many make a turn
SECONDS = 8  # for one framework
STRETCH, FEWEST = 1.5, 2  # seconds and requests, where one caller repeats himself
BASE = "404 of the bare app"


@dataclass(frozen=True, slots=True)
class Refused:
    """What came of one kind of refusal.

    Attributes:
        case: Which.
        answer: The first one.
        first: Its CPU seconds.
        spread: CPU seconds of one.
        requests: How many were measured.
    """

    case: Case
    answer: Answer
    first: float
    spread: Spread
    requests: int

    def times(self, base: float) -> Spread:
        """Write it in bare 404s."""
        return self.spread.times(1 / base)

    @property
    def is_expected(self) -> bool:
        """Whether it is the refusal that it is meant to be."""
        return self.answer.status in self.case.status


class Stand:
    """One guarded app, brought to where it refuses.

    Args:
        stacks: Makes the app.
        driver: Sends requests.
        case: What is to be refused.
        url: Takes the spans.
        number: Tells the services apart.
    """

    def __init__(
        self, stacks: ModuleType, driver: Driver, case: Case, url: str, number: int
    ) -> None:
        self._driver, self.case = driver, case
        gate = driver.gate() if case.is_held else None
        name = f"{stacks.FRAMEWORK.lower()}-refusal-{number}"
        tables = settings(name, url, parts=REST, changes=case.changes)
        app = stacks.service(hold=gate)
        self._contestant: Contestant = stacks.guarded(tables, app=app)
        self._release: Callable[[], None] = lambda: None
        if gate is not None:
            self._release = driver.hold(app, sent(bearer()), gate)
        for request in case.before:
            driver.ask(app, request)
        self._contestant.flush()
        self._prepared = driver.prepared(case.request)
        self.answer, self.first = self._ask()
        self.count = self._count()

    def close(self) -> None:
        """End what was started."""
        self._release()
        self._contestant.close()

    def turn(self) -> float:
        """Measure CPU seconds of one refusal, with all that it leads to."""
        return cpu(lambda: self._work(self.count)) / self.count

    def stretch(self) -> tuple[float, int]:
        """Measure CPU seconds of one refusal where one caller repeats himself."""
        count = 0

        def work() -> None:
            nonlocal count
            ends = time.monotonic() + STRETCH
            while count < FEWEST or time.monotonic() < ends:
                self._driver.run(self._contestant.app, [self._prepared])
                count += 1
            self._contestant.flush()

        return cpu(work) / count, count

    def _ask(self) -> tuple[Answer, float]:
        answers: list[Answer] = []
        ask = self._driver.ask

        def work() -> None:
            answers.append(ask(self._contestant.app, self.case.request))
            self._contestant.flush()

        taken = cpu(work)
        return answers[0], taken

    def _count(self) -> int:
        """Return how many make a turn: many, that what a batch costs at once is shared."""
        if self.case.is_repeated:
            return 0
        at_once = self.case.at_once
        began = time.process_time()
        self._send(TRIED * at_once)
        each = (time.process_time() - began) / (TRIED * at_once)
        self._contestant.flush()
        # Of what is sent together, whole numbers.
        return max(1, min(MOST, int(TURN / each)) // at_once) * at_once

    def _work(self, count: int) -> None:
        self._send(count)
        self._contestant.flush()

    def _send(self, count: int) -> None:
        app, at_once = self._contestant.app, self.case.at_once
        if at_once == 1:
            self._driver.run(app, [self._prepared] * count)
            return
        for _ in range(count // at_once):
            self._driver.together(app, [self._prepared] * at_once)


def base_turn(stacks: ModuleType, driver: Driver) -> Turn:
    """Return what measures CPU seconds of the bare app's 404."""
    app = stacks.service()
    prepared = [driver.prepared(Request("GET", "/nowhere", body=b""))] * MOST
    return lambda: cpu(lambda: driver.run(app, prepared)) / MOST


def refuse(stacks: ModuleType, driver: Driver, url: str) -> tuple[Spread, list[Refused]]:
    """Measure every kind of refusal on one framework."""
    framework = stacks.FRAMEWORK
    with ExitStack() as stack:
        stands = []
        say(f"measuring refusals of {framework}, for {SECONDS} seconds or more")
        for number, case in enumerate(cases()):
            stands.append(Stand(stacks, driver, case, url, number))
            stack.callback(stands[-1].close)
        steady = {stand.case.name: stand.turn for stand in stands if not stand.case.is_repeated}
        turns = {BASE: base_turn(stacks, driver), **steady}
        progress = every(2, f"{framework} refusals")
        measured = rounds_of(turns, seconds=SECONDS, progress=progress, least=5)
        return Spread.of(measured[BASE]), [_found(stand, measured) for stand in stands]


def _found(stand: Stand, measured: Mapping[str, Sequence[float]]) -> Refused:
    case = stand.case
    if not case.is_repeated:
        taken = measured[case.name]
        requests = len(taken) * stand.count
        return Refused(case, stand.answer, stand.first, Spread.of(taken), requests)
    say(f"  {case.name}, again and again")
    mean, count = stand.stretch()
    return Refused(case, stand.answer, stand.first, Spread.of([mean]), count)


def rows_of(base: Spread, refused: Sequence[Refused]) -> Iterator[tuple[str, ...]]:
    """Write each kind of refusal."""
    yield BASE, "404", f"{base.median * 1e6:.0f}", "1.0", "", "", "", ""
    for each in refused:
        times, goal = each.times(base.median), each.case.goal
        first = f"{each.first / base.median:.0f}" if each.case.is_repeated else ""
        word = "" if times.median <= goal else "EXCEEDS"
        yield (
            each.case.name,
            f"{each.answer.status}{'' if each.is_expected else ' NOT AS MEANT'}",
            f"{each.spread.median * 1e6:.0f}",
            f"{times.median:.1f}",
            "" if each.case.is_repeated else f"{times.low:.1f}-{times.high:.1f}",
            first,
            f"{goal:g}",
            word,
        )


HEADS = ("", "status", "µs", "x bare 404", "quartiles", "the first", "goal", "")


def verdicts(framework: str, base: Spread, refused: Sequence[Refused]) -> Iterator[Verdict]:
    """Compare with the goals; what is not refused as it is meant to be has not reached any."""
    for each in refused:
        value = each.times(base.median).median if each.is_expected else float("inf")
        yield Verdict(f"{framework}: {each.case.name}, as bare 404s", value, each.case.goal)


def _json(base: Spread, refused: Sequence[Refused]) -> dict[str, Any]:
    told = {
        each.case.name: {
            "status": each.answer.status,
            "code": _code(each.answer.body),
            "times_bare_404": each.times(base.median).json(),
            "first_times_bare_404": each.first / base.median,
            "requests": each.requests,
            "goal": each.case.goal,
        }
        for each in refused
    }
    return {"bare_404_micros": base.times(1e6).json(), "refusals": told}


def _code(body: bytes) -> str | None:
    try:
        return str(json.loads(body).get("code"))
    except (ValueError, AttributeError):
        return None


def main() -> Found:
    """Measure both frameworks, and print a table for each."""
    figures: dict[str, Any] = {}
    reached: list[Verdict] = []
    with Receiver() as receiver:
        for stacks, driver in ((fastapi_stacks, ASGI()), (flask_stacks, WSGI())):
            base, refused = refuse(stacks, driver, receiver.url)
            framework = stacks.FRAMEWORK
            title = f"{framework}: CPU of a refusal, all threads, its span exported"
            print(table(title, HEADS, rows_of(base, refused)), flush=True)
            figures[framework] = _json(base, refused)
            reached += verdicts(framework, base, refused)
            driver.close()
    return Found(figures, tuple(reached))
