"""Which questions does a spectator have, and what are the answers?"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from rich.console import Console

from examples.demo import show
from examples.demo.patients import MISREAD
from examples.demo.seen import Seen
from examples.demo.services import ROOT

SETTINGS = tomllib.loads((ROOT / "examples" / "mlguard.toml").read_text("utf-8"))
LIMITS = {unit: SETTINGS["quotas"][unit][0] for unit in ("requests", "rows")}


class Section(NamedTuple):
    """One table with the question above it and the answer below."""

    question: str
    draw: Callable[[], None]
    answer: str


def tell(console: Console, seen: Seen) -> None:
    """Show everything."""
    for question, draw, answer in _sections(console, seen):
        show.heading(console, question)
        draw()
        show.note(console, answer)


def _sections(console: Console, seen: Seen) -> Iterator[Section]:
    yield Section(
        "What did each client get?",
        lambda: show.clients(console, seen.clients),
        "Both services read the same settings file and decide alike. A refusal has a code for "
        "programs and a sentence for people; with 429 it says when to come back.",
    )
    yield Section(
        "How much of its quota has each client used?",
        lambda: show.quotas(console, seen.clients, LIMITS),
        f"Each caller may send {_rate('requests')} and {_rate('rows')}, and reads in the RateLimit "
        "header of every answer what is left. What is refused costs nothing. Counts are per worker "
        "here; each client keeps one connection and so one worker.",
    )
    yield Section(
        "What did the services count?",
        lambda: show.counted(console, seen.scrapes),
        "A service has two workers and one /metrics.",
    )
    yield Section(
        "How long did answers take?",
        lambda: show.latencies(console, seen.scrapes),
        "Read from the histograms in /metrics, while clients, services and drift checks shared "
        "this computer: an example of what can be read, not of how fast it is.",
    )
    yield Section(
        "Do the inputs still look like training?",
        lambda: show.drift(console, seen.before, seen.after),
        f"They do, until the wards' new monitors read {_misread()}. Scores are evidently's, "
        "computed beside the workers; thresholds allow for the number of rows and features.",
    )
    yield Section(
        "How good is a stolen copy of the model?",
        lambda: show.copies(console, seen.unasked, seen.stolen, seen.free),
        _price(seen.free.rows),
    )
    yield Section(
        "What happened inside one request?",
        lambda: show.trace(console, *seen.traces["FastAPI"]),
        "Spans are sent over OTLP, here to the demo itself; Flask's look the same. The caller "
        "appears as a keyed hash, patients do not appear at all.",
    )


def _rate(unit: str) -> str:
    """Write "400/hour" as people say it."""
    number, _, period = LIMITS[unit].partition("/")
    return f"{number} {unit} {'an' if period == 'hour' else 'a'} {period}"


def _misread() -> str:
    names = " and ".join(name.replace("_", " ") for name in MISREAD)
    return f"{names} {min(MISREAD.values()) - 1:.0%} too high"


def _price(rows: int) -> str:
    hours = rows / int(LIMITS["rows"].split("/")[0])
    return (
        f"On patients the copycat does not have. At {_rate('rows')} the last copy would take "
        f"{hours:.0f} hours, with refusals in each that somebody can see. Quotas make copying slow "
        "and visible, not impossible: a simple model is copied from few rows."
    )
