"""In which order is it played? Train, start, let clients call, show what came of it."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from rich.console import Console

from examples import train
from examples.demo import show
from examples.demo.clients import CLINICS, WARDS, Crowd, Step, Tally
from examples.demo.patients import Patients
from examples.demo.scrape import Scrape, Verdict
from examples.demo.seen import Seen
from examples.demo.services import Service, ServiceFailed, twins
from examples.demo.spans import Received, receiver
from examples.demo.stage import Stage
from examples.demo.tell import SETTINGS, tell
from examples.demo.thief import UNLIMITED, Thief
from examples.demo.tokens import Mint

__all__ = ["ServiceFailed", "play"]

WINDOW = SETTINGS["drift"]["window"]
CLINIC_REQUESTS = 80
STRANGER_REQUESTS = 5
DASHBOARD_REQUESTS = 140
WARD_REQUESTS = 110  # by four wards: the last window has no other rows, wherever it begins
PATIENCE = 90.0  # seconds

T = TypeVar("T")


def play(console: Console, stage: Stage, folder: Path, *, seed: int, serve: bool) -> None:
    """Play the whole play; whatever happens, no process is left.

    Raises:
        ServiceFailed: A service did not start, or did not do what the play is about.
    """
    mint = Mint()
    trained, patients = _prepare(stage, folder)
    thief = Thief(patients, trained.model, seed)
    # A host's file outlives its services: what an earlier play was charged is not of this one.
    with receiver() as received, TemporaryDirectory(prefix="mlguard-demo-") as host:
        ports = (8000, 8001) if serve else (0, 0)
        services = twins(folder, Path(host), mint.secret, received.url, ports)
        with _running(stage, services):
            acts = Acts(stage, services, mint, patients, seed)
            seen = acts.all(thief, received)
            seen.save(folder, stage.elapsed)
            tell(console, seen)
            show.heading(console, "Where to look next")
            show.where_next(console, services, folder, serve)
            if serve:
                _serve(console, services, mint, patients)
    console.print(f"All of it took {stage.elapsed:.0f} s; no process is left.", highlight=False)


def _prepare(stage: Stage, folder: Path) -> tuple[train.Trained, Patients]:
    with stage.act("Train a classifier, write down what its inputs look like"):
        trained = train.train()
        train.save_model(trained, folder)
        train.save_reference(trained, folder)
    return trained, Patients.load(folder)


@contextmanager
def _running(stage: Stage, services: list[Service]) -> Iterator[None]:
    try:
        with stage.act("Start both services, by uvicorn and gunicorn, 2 workers each"):
            for service in services:
                service.start()
            for service in services:
                service.wait_until_ready()
        yield
    finally:
        with _undisturbed(), stage.act("Stop both services"):
            for service in services:
                service.ask_to_stop()
            for service in services:
                service.stop()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold off an impatient second Ctrl-C until everything has stopped."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


class Acts:
    """Every act is played against both services, one after the other."""

    def __init__(
        self, stage: Stage, services: list[Service], mint: Mint, patients: Patients, seed: int
    ) -> None:
        self._stage = stage
        self._services = services
        self._mint = mint
        self._patients = patients
        self._seed = seed
        self._seen = Seen(clients={s.framework: [] for s in services})

    def all(self, thief: Thief, received: Received) -> Seen:
        """Play them in order; the analysts get ready for drift checks meanwhile."""
        self._everyday()
        self._theft(thief)
        self._drift()
        for service in self._services:
            self._seen.scrapes[service.framework] = Scrape.of(service.url)
            self._seen.traces[service.framework] = received.inference(service.name)
        return self._seen

    def _everyday(self) -> None:
        self._crowd(
            "Clinics, strangers, a dashboard and a nightly job ask",
            len(CLINICS) * CLINIC_REQUESTS + 2 * STRANGER_REQUESTS + DASHBOARD_REQUESTS + 6,
            lambda crowd: [
                *crowd.well_behaved(CLINIC_REQUESTS),
                crowd.tokenless(STRANGER_REQUESTS),
                crowd.expired(STRANGER_REQUESTS),
                crowd.hasty(DASHBOARD_REQUESTS),
                crowd.bulk(),
            ],
        )

    def _theft(self, thief: Thief) -> None:
        seen = self._seen
        seen.stolen = self._both(
            "A copycat asks until he is refused, and trains a copy",
            None,
            lambda service, step: thief.steal(service.url, self._mint, step),
        )
        for framework, copy in seen.stolen.items():
            seen.clients[framework] += [copy.tally] if copy.tally else []
        with self._stage.act(f"For comparison: a copy from {UNLIMITED:,} answers, made offline"):
            seen.unasked, seen.free = thief.without_asking(), thief.steal_without_limits()

    def _drift(self) -> None:
        self._seen.before = self._both(
            "Wait for the drift checks, which load evidently",
            None,
            lambda service, _: _verdict(service, 1),
        )
        self._crowd(
            "Four wards send patients measured by new monitors",
            len(WARDS) * WARD_REQUESTS,
            lambda crowd: crowd.drifted(WARD_REQUESTS),
        )
        self._seen.after = self._both(
            "Wait for the verdict on those",
            None,
            lambda service, _: _verdict(service, _windows(service)),
        )

    def _crowd(self, title: str, requests: int, scene: Callable[[Crowd], list[Tally]]) -> None:
        def enter(service: Service, step: Step) -> list[Tally]:
            return scene(Crowd(service.url, self._patients, self._mint, self._seed, step))

        for framework, tallies in self._both(title, requests, enter).items():
            self._seen.clients[framework] += tallies

    def _both(
        self, title: str, requests: int | None, scene: Callable[[Service, Step], T]
    ) -> dict[str, T]:
        total = requests and requests * len(self._services)
        with self._stage.act(title, total) as step:
            return {service.framework: scene(service, step) for service in self._services}


def _windows(service: Service) -> int:
    """How many windows the rows sent so far fill."""
    scrape = Scrape.of(service.url)
    lost = scrape.total("mlguard_drift_rows_dropped_total")
    return int((scrape.total("mlguard_drift_rows_sampled_total") - lost) // WINDOW)


def _verdict(service: Service, checks: int) -> Verdict:
    """Wait until the service has made so many drift checks, and read the last."""
    deadline = time.monotonic() + PATIENCE
    while True:
        service.check_alive()
        found = Verdict.read(Scrape.of(service.url))
        if found.checks >= checks:
            return found
        if time.monotonic() > deadline:
            said = f"{found.checks} drift checks instead of {checks} within {PATIENCE:.0f} s"
            raise ServiceFailed(f"{service.name} made {said}; its log is {service.log}")
        time.sleep(0.25)


def _serve(console: Console, services: list[Service], mint: Mint, patients: Patients) -> None:
    """Wait for Ctrl-C."""
    body = json.dumps({"instances": patients.rows[:1].tolist()})
    show.heading(console, "Both services keep running; Ctrl-C ends them")
    show.curl(console, services, mint.token("you"), body)
    try:
        while True:
            for service in services:
                service.check_alive()
            time.sleep(1)
    except KeyboardInterrupt:
        console.print()
