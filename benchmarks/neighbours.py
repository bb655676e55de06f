"""Does a caller notice that others are refused?

Three callers send bodies of 8 MB with more rows than they may still ask, each the next as soon as
he is refused; another asks for one row, twenty times a second. Real servers, one worker on a core
of its own; who sends has the other core, and the three a lower priority there.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.cases import MANY, REST, crowded
from benchmarks.contestants import OURS
from benchmarks.hosting import COMMANDS, Served, cores
from benchmarks.load import Load, Loaded, ended, start
from benchmarks.receiver import Receiver
from benchmarks.report import Found, Verdict, table
from benchmarks.service import BODY, bearer, settings
from benchmarks.turns import say

REFUSED = 3
ALONE, BESIDE = 2.0, 5.0  # seconds
EARLIER = 2.0  # seconds in which the others are refused before anybody looks
PACE = 0.05  # seconds from one request to the next
GOAL = 2.0
SMALL = (BODY.decode(), "", "", 0)
LARGE = ('{"instances": [', "[]", "]}", MANY)


@dataclass(frozen=True, slots=True)
class Noticed:
    """What a caller noticed.

    Attributes:
        alone: His requests before the others came.
        beside: His requests beside them.
        others: Theirs.
    """

    alone: Loaded
    beside: Loaded
    others: Loaded

    @property
    def times(self) -> float:
        """How much longer half of his requests took at least."""
        return _middle(self.beside) / _middle(self.alone)

    def row(self, server: str) -> tuple[str, ...]:
        """Write it."""
        return (
            server,
            f"{_middle(self.alone) * 1e3:.1f}",
            f"{_middle(self.beside) * 1e3:.1f}",
            f"{self.times:.1f}",
            str(len(self.alone.latencies)),
            str(len(self.beside.latencies)),
            _counted(self.others.statuses),
        )

    def json(self) -> dict[str, Any]:
        """Write it for a file."""
        return {
            "p50_alone_seconds": _middle(self.alone),
            "p50_beside_seconds": _middle(self.beside),
            "times": self.times,
            "answers_beside": dict(self.beside.statuses),
            "refused": dict(self.others.statuses),
        }


def _middle(loaded: Loaded) -> float:
    return statistics.median(loaded.latencies)


def _counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count} x {status}" for status, count in sorted(statuses.items()))


def notice(server: str, url: str) -> Noticed:
    """Measure one server."""
    caller = bearer("the caller")
    others = tuple(bearer(f"refused {number}") for number in range(REFUSED))
    tables = settings(f"neighbours-{server[:4]}", url, parts=REST, changes=crowded())
    with Served(server, {"stack": OURS, "endpoint": url, "settings": tables}) as served:
        for token in (caller, *others):  # one row each: now the large ones are too many
            served.wait(token)
        mine, theirs = cores()
        served.pin(mine, theirs)
        say(f"  {server}: one caller alone, {ALONE:g} s")
        alone = ended(start(Load(served.port, (caller,), SMALL, ALONE, pace=PACE), theirs))
        say(f"  {server}: the same beside {REFUSED} that are refused, {BESIDE:g} s or more")
        together = EARLIER + BESIDE
        rude = start(Load(served.port, others, LARGE, together, REFUSED, is_rude=True), theirs)
        polite = start(
            Load(served.port, (caller,), SMALL, BESIDE, delay=EARLIER, pace=PACE), theirs
        )
        return Noticed(alone, ended(polite), ended(rude))


def main() -> Found:
    """Measure both servers, and print a table."""
    figures: dict[str, Any] = {}
    reached: list[Verdict] = []
    rows = []
    with Receiver() as receiver:
        for server in COMMANDS:
            noticed = notice(server, receiver.url)
            rows.append(noticed.row(server))
            figures[server] = noticed.json()
            what = f"{server}: a caller's p50 beside {REFUSED} refused ones, as alone"
            reached.append(Verdict(what, noticed.times, GOAL))
    heads = ("", "p50 alone, ms", "beside, ms", "times", "answers alone", "beside", "refused")
    title = f"A caller beside {REFUSED} that are refused, with bodies of 8 MB"
    print(table(title, heads, rows), flush=True)
    return Found(figures, tuple(reached))
