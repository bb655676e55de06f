"""Does each contestant do what its row of the table says?"""

from __future__ import annotations

import json
import time

from benchmarks.contestants import Contestant
from benchmarks.measure import Driver, Request
from benchmarks.receiver import Receiver
from benchmarks.service import ANSWER, bearer
from benchmarks.turns import Unfit, say

WORKER_WITHIN = 60  # seconds


def prove(driver: Driver, contestant: Contestant, receiver: Receiver) -> None:
    """Make sure that a contestant answers, and does what its row of the table says.

    Raises:
        Unfit: Names what it does not do.
    """
    headers = {"Authorization": bearer()}
    answer = driver.ask(contestant.app, Request(headers=headers))
    if answer.status != 200 or json.loads(answer.body) != ANSWER:
        raise Unfit(f"{contestant.name} answers {answer}")
    contestant.flush()
    if contestant.service and not receiver.counts()[contestant.service]:
        raise Unfit(f"{contestant.name} sends no spans")
    if not contestant.guarded:
        return
    refusal = driver.ask(contestant.app, Request())
    if refusal.status not in (401, 403):
        raise Unfit(f"{contestant.name} answers a request without a token: {refusal}")
    if b"/predict" not in driver.ask(contestant.app, scrape()).body:
        raise Unfit(f"{contestant.name} has no metrics of the route")


def prove_limit(driver: Driver, contestant: Contestant) -> None:
    """Make sure that a contestant that was built with a limit of two requests has it.

    Raises:
        Unfit: It has none.
    """
    request = Request(headers={"Authorization": bearer()})
    answers = [driver.ask(contestant.app, request) for _ in range(3)]
    contestant.close()
    if [answer.status for answer in answers] != [200, 200, 429]:
        raise Unfit(f"{contestant.name} does not limit requests: {answers}")


def scrape() -> Request:
    """Ask for the metrics."""
    return Request("GET", "/metrics", headers={"Authorization": bearer()}, body=b"")


def wait_for_worker(driver: Driver, contestant: Contestant) -> None:
    """Wait until drift is being checked: starting must not share the machine with measuring."""
    deadline = time.monotonic() + WORKER_WITHIN
    request = scrape()
    # At the beginning of a line: what explains it begins with a 1 too.
    while b"\nmlguard_drift_worker_up 1" not in driver.ask(contestant.app, request).body:
        if time.monotonic() > deadline:
            say(f"  its drift worker is not up after {WORKER_WITHIN} s: drift is not being checked")
            return
        time.sleep(0.5)
