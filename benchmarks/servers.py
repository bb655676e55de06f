"""How many requests does a real server answer, with and without a guard?

One worker, eight connections in a closed loop: each sends the next request when it has its answer.
The worker has one core, and who loads it the other, with the receiver of the spans and with what
works beside the worker. All have their turns of a few seconds, round after round.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contestants import BARE, HAND, OTEL, OURS
from benchmarks.hosting import Served, cores
from benchmarks.load import Load, ended, start
from benchmarks.receiver import Receiver
from benchmarks.report import MEANING, Found, Verdict, spread, table
from benchmarks.service import BODY, bearer, build_reference, settings
from benchmarks.turns import Spread, Unfit, say

CONNECTIONS = 8
SECONDS, ROUNDS = 2, 3  # of each turn; of turns
STACKS = (BARE, OTEL, HAND, OURS)
FRAMEWORKS: Mapping[str, str] = {"uvicorn": "fastapi", "gunicorn gthread": "flask"}
GOALS: Mapping[str, float] = {"uvicorn": 0.5, "gunicorn gthread": 0.6}
# So that statistics begin in no turn: what they take is the other core's, which is in use.
WINDOW = 1_000_000

Rates = Mapping[str, Sequence[float]]
"""Requests a second, by contestant and round."""

Measure = Callable[[Served], float]
"""Loads a server; returns good answers a second."""


def told(server: str, stack: str, url: str, reference: Path) -> dict[str, Any]:
    """Say what is served."""
    tables = settings(
        f"served-{FRAMEWORKS[server]}",
        url,
        reference=reference,
        changes={"drift": {"window": WINDOW}},
    )
    return {"stack": stack, "endpoint": url, "settings": tables}


@contextmanager
def generator(token: str) -> Iterator[tuple[str, Measure]]:
    """Find what loads servers: wrk where it is, else our own."""
    program, (_, core) = shutil.which("wrk"), cores()
    if program is None:
        load = Load(0, (token,), (BODY.decode(), "", "", 0), SECONDS, CONNECTIONS)
        yield "the benchmark's own generator", lambda served: _own(load, served, core)
        return
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(_script(token))
        script.flush()
        command = [program, "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", "-s"]
        taskset = shutil.which("taskset")
        pinned = [taskset, "-c", str(core)] if taskset and core is not None else []
        yield "wrk", lambda served: _wrk([*pinned, *command, script.name], served)


def _own(load: Load, served: Served, core: int | None) -> float:
    sent = Load(served.port, load.tokens, load.body, load.seconds, load.connections)
    loaded = ended(start(sent, core))
    if set(loaded.statuses) != {"200"}:
        raise Unfit(f"answers {dict(loaded.statuses)}")
    return loaded.rate


def _script(token: str) -> str:
    return (
        f"wrk.method = 'POST'\nwrk.body = '{BODY.decode()}'\n"
        "wrk.headers['Content-Type'] = 'application/json'\n"
        f"wrk.headers['Authorization'] = '{token}'\n"
    )


def _wrk(command: Sequence[str], served: Served) -> float:
    url = f"http://127.0.0.1:{served.port}/predict"
    text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Requests/sec:\s*([0-9.]+)", text)
    if found is None or "Non-2xx" in text:
        raise Unfit(f"wrk says: {text}")
    return float(found[1])


def race(server: str, running: Mapping[str, Served], measure: Measure) -> Rates:
    """Let all have their turns, each round in another order."""
    rates: dict[str, list[float]] = {name: [] for name in running}
    names = list(running)
    for number in range(ROUNDS):
        say(f"  {server}: round {number + 1} of {ROUNDS}")
        for name in [*names[number % 4 :], *names[: number % 4]]:
            running[name].pin(*cores())
            rates[name].append(measure(running[name]))
    return rates


def serve(stack: ExitStack, url: str, reference: Path, token: str) -> dict[str, dict[str, Served]]:
    """Start everything; idle servers take no time from those that are measured."""
    say("starting eight servers (some 20 seconds: the statistics packages are large)")
    running: dict[str, dict[str, Served]] = {server: {} for server in FRAMEWORKS}
    for server, served in running.items():
        for name in STACKS:
            app = told(server, name, url, reference)
            served[name] = stack.enter_context(Served(server, app))
    for served in running.values():
        for name, each in served.items():
            each.wait(token)
            if name == OURS:
                each.wait_for_drift()
    return running


def shares(rates: Rates) -> dict[str, Spread]:
    """Return what each answers as a share of the bare service, round by round."""
    return {
        name: Spread.of([ours / bare for ours, bare in zip(taken, rates[BARE], strict=True)])
        for name, taken in rates.items()
    }


def written(server: str, rates: Rates, by: str) -> str:
    """Write what each answers."""
    of_bare = shares(rates)
    rows = [
        (name, spread(Spread.of(taken)), spread(of_bare[name], 2)) for name, taken in rates.items()
    ]
    framework = FRAMEWORKS[server]
    title = (
        f"{server}, {framework} {version(framework)}: one worker, {CONNECTIONS} connections "
        f"by {by},\n{ROUNDS} rounds of {SECONDS} s; {MEANING}"
    )
    return table(title, ("", "requests/s", "share of bare"), rows)


def verdicts(server: str, rates: Rates) -> tuple[Verdict, ...]:
    """Compare with the goals."""
    of_bare = shares(rates)
    of_otel = Spread.of([a / b for a, b in zip(rates[OURS], rates[OTEL], strict=True)])
    return (
        Verdict(f"{server}: share of bare throughput", of_bare[OURS].median, GOALS[server], True),
        Verdict(f"{server}: throughput as that of OpenTelemetry alone", of_otel.median, 1, True),
    )


def main() -> Found:
    """Measure both servers, and print a table for each."""
    figures: dict[str, Any] = {}
    reached: list[Verdict] = []
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        receiver, token = stack.enter_context(Receiver()), bearer()
        reference = build_reference(Path(folder) / "reference.parquet")
        by, measure = stack.enter_context(generator(token))
        for server, running in serve(stack, receiver.url, reference, token).items():
            rates = race(server, running, measure)
            print(written(server, rates, by), flush=True)
            figures[server] = {
                "by": by,
                "requests_a_second": {n: Spread.of(taken).json() for n, taken in rates.items()},
                "share_of_bare": {n: value.json() for n, value in shares(rates).items()},
            }
            reached += verdicts(server, rates)
    return Found(figures, tuple(reached))
