"""What does guarding a request cost, and what do others charge?

Everything runs in one process and one run. That is fair as far as these go, and no further:
OpenTelemetry reads OTEL_SEMCONV_STABILITY_OPT_IN once per process, so all contestants follow the
stable conventions, which cost the contrib instrumentation less than its default, the old ones;
FastAPI's own telemetry is off as long as no provider is global, and none is;
the contrib instrumentation patches background tasks for the whole process, and nobody has any.
What works in the companion process is not in these figures: it works beside the requests.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import fastapi_stacks, flask_stacks, measure
from benchmarks.measure import Contestant, Driver, say

REQUESTS = 150  # in one contestant's turn
SECONDS = 15  # for one framework's contestants
WORKER_WITHIN = 60  # seconds
TWO = "2/minute"


def settings(reference: Path) -> Callable[[str, str, bool], dict[str, Any]]:
    """Turn all five parts on."""

    def named(name: str, limit: str, companion: bool) -> dict[str, Any]:
        return {
            "service": {"name": name, "companion": companion},
            "models": [
                {
                    "name": "iris",
                    "version": "3",
                    "route": "/predict",
                    "inputs": "instances",
                    "outputs": "predictions",
                    "features": list(measure.FEATURES),
                    "reference": str(reference),
                }
            ],
            "auth": {
                "issuer": measure.ISSUER,
                "audience": measure.AUDIENCE,
                "secret_env": "BENCHMARK_SECRET",
                "algorithms": ["HS256"],
            },
            "quotas": {"requests": [limit], "rows": [measure.UNREACHED]},
            "drift": {"window": 1000},
            "tracing": {},
        }

    return named


def wait_for_worker(driver: Driver, contestant: Contestant) -> None:
    """Wait until drift is being checked: starting must not share the machine with measuring."""
    deadline = time.monotonic() + WORKER_WITHIN
    headers = {"Authorization": measure.bearer()}
    while (
        # At the beginning of a line: what explains it begins with a 1 too.
        b"\nmlguard_drift_worker_up 1"
        not in driver.send(contestant.app, "GET", "/metrics", headers).body
    ):
        if time.monotonic() > deadline:
            say(f"  its drift worker is not up after {WORKER_WITHIN} s: drift is not being checked")
            return
        time.sleep(0.2)


def table(title: str, seconds: dict[str, float]) -> str:
    """Write what a request costs, and what each contestant adds to the bare service."""
    micros = {name: value * 1e6 for name, value in seconds.items()}
    added = {name: value - micros["bare"] for name, value in micros.items()}
    otel, assembled = added["OpenTelemetry contrib"], added["assembled by hand"]
    head = ("µs/request", "added µs", "x bare", "added ÷ OTel", "added ÷ by hand")
    lines = [title, "", " " * 22 + "".join(f"{word:>{len(word) + 3}}" for word in head)]
    for name in micros:
        figures = (
            f"{micros[name]:.0f}",
            f"{added[name]:.0f}",
            f"{micros[name] / micros['bare']:.2f}",
            f"{added[name] / otel:.2f}",
            f"{added[name] / assembled:.2f}",
        )
        columns = zip(head, figures, strict=True)
        lines.append(f"{name:22}" + "".join(f"{figure:>{len(w) + 3}}" for w, figure in columns))
    return "\n".join(lines)


def compete(
    framework: str, stacks: ModuleType, driver: Driver, ours: Contestant
) -> tuple[dict[str, float], int]:
    """Measure one framework's contestants."""
    contestants: Sequence[Contestant] = [stacks.bare(), stacks.otel(), stacks.assembled(), ours]
    token = measure.bearer()
    for contestant in contestants:
        measure.prove(driver, contestant, token)
    measure.prove_limit(driver, stacks.assembled(TWO), token)

    def progress(number: int) -> None:
        if number % 5 == 0:
            say(f"  {framework}: round {number + 1}")

    say(f"measuring {framework} for {SECONDS} seconds")
    return measure.race(driver, contestants, seconds=SECONDS, requests=REQUESTS, progress=progress)


def main() -> None:
    """Measure both frameworks and print one table for each."""
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.parquet"
        say("building a reference")
        # In a process of its own: pandas would make every garbage collection here slower.
        builder = multiprocessing.get_context("spawn").Process(
            target=measure.build_reference, args=(reference,)
        )
        builder.start()
        builder.join()
        asgi, wsgi = measure.ASGI(), measure.WSGI()
        entries = []
        for framework, stacks, driver in (
            ("FastAPI", fastapi_stacks, asgi),
            ("Flask", flask_stacks, wsgi),
        ):
            named = settings(reference)
            limited = stacks.guarded(named, TWO, companion=False)
            measure.prove_limit(driver, limited, measure.bearer())
            limited.close()
            ours = stacks.guarded(named)
            measure.prove(driver, ours, measure.bearer())
            entries.append((framework, stacks, driver, ours))
        say("starting the drift workers (some 20 seconds: the statistics packages are large)")
        for _, _, driver, ours in entries:
            wait_for_worker(driver, ours)
        for framework, stacks, driver, ours in entries:
            seconds, rounds = compete(framework, stacks, driver, ours)
            title = (
                f"\n{framework} {version(framework.lower())}: CPU time of one request with "
                f"one row, median of {rounds} rounds of {REQUESTS}"
            )
            print(table(title, seconds), flush=True)
            verdicts.append((framework, seconds))
        for *_, ours in entries:
            ours.close()
        asgi.close()
    print(f"\n{'; '.join(verdict(*each) for each in verdicts)}")


def verdict(framework: str, seconds: dict[str, float]) -> str:
    """Say in words how the kit compares."""
    ours = seconds["mlguard"]

    def compared(other: str) -> str:
        return "below" if ours < seconds[other] else "NOT below"

    return (
        f"{framework}: mlguard's added cost is {compared('assembled by hand')} the hand-assembled "
        f"stack's and {compared('OpenTelemetry contrib')} OpenTelemetry's"
    )
