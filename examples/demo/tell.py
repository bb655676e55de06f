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
        "How good is a stolen copy of the model?",
        lambda: show.copies(console, seen.unasked, seen.stolen, seen.free),
        _price(seen.free.rows),
    )
    yield Section(
        "Do the inputs still look like training?",
        lambda: show.drift(console, seen.before, seen.after),
        f"They do, until the wards' new monitors read {_misread()}. Scores are evidently's, "
        "limits are what chance does to so many rows.",
    )
    yield Section(
        "What did each client get?",
        lambda: show.clients(console, seen.clients),
        f"Each caller may send {_rate('requests')} and {_rate('rows')}, counted once for both "
        "workers of a service; the RateLimit header says what is left.",
    )
    yield Section(
        "What happened inside one request?",
        lambda: show.trace(console, *seen.traces["FastAPI"]),
        "By OTLP. The caller is a keyed hash; of patients nothing is in it.",
    )
    yield Section(
        "How long did answers take?",
        lambda: show.latencies(console, seen.scrapes),
        "From /metrics, while clients, services and drift checks shared this computer.",
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
        f"On patients that he does not have. At {_rate('rows')} the last copy takes {hours:.0f} "
        "hours, with refusals that somebody sees: slow and visible, not impossible."
    )
