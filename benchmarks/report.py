"""What did a run find, and what was to be reached?"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.turns import Spread

MEANING = "median (a quarter of the rounds below - a quarter above)"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One goal, and how far it is.

    Attributes:
        what: Is measured.
        value: Was found.
        goal: Is to be reached.
        at_least: Whether more is better.
    """

    what: str
    value: float
    goal: float
    at_least: bool = False

    @property
    def is_reached(self) -> bool:
        """Whether the goal is reached."""
        return self.value >= self.goal if self.at_least else self.value <= self.goal

    def __str__(self) -> str:
        relation = ">=" if self.at_least else "<="
        word = "reached" if self.is_reached else "MISSED "
        return f"{word}  {self.what}: {self.value:.3g} (goal {relation} {self.goal:g})"

    def json(self) -> dict[str, Any]:
        """Write it for a file."""
        return {
            "what": self.what,
            "value": self.value,
            "goal": self.goal,
            "at_least": self.at_least,
            "is_reached": self.is_reached,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """What one part of the benchmark found.

    Attributes:
        figures: For a file.
        verdicts: Its goals.
    """

    figures: Mapping[str, Any]
    verdicts: tuple[Verdict, ...] = ()


def spread(value: Spread, digits: int = 0) -> str:
    """Write a median with its quartiles."""
    return f"{value.median:.{digits}f} ({value.low:.{digits}f}-{value.high:.{digits}f})"


def table(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write a table; the first column is to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]

    def text(line: Sequence[str]) -> str:
        cells = zip(line[1:], widths[1:], strict=True)
        return (line[0].ljust(widths[0]) + "".join(f"   {c:>{w}}" for c, w in cells)).rstrip()

    return "\n".join([f"\n{title}\n", *map(text, lines)])


def versions(packages: Iterable[str]) -> str:
    """Write which versions were measured."""
    return ", ".join(f"{name} {version(name)}" for name in packages)


def machine() -> dict[str, Any]:
    """Say what it ran on."""
    return {
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def write(path: Path, found: Mapping[str, Found]) -> None:
    """Write all that a run found."""
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "on": machine(),
        "parts": {name: each.figures for name, each in found.items()},
        "verdicts": [v.json() for each in found.values() for v in each.verdicts],
    }
    path.write_text(json.dumps(told, indent=1) + "\n")


def conclude(found: Iterable[Found]) -> str:
    """List all goals, and say how many are missed."""
    verdicts = [verdict for each in found for verdict in each.verdicts]
    if not verdicts:
        return ""
    missed = sum(not verdict.is_reached for verdict in verdicts)
    lines = [f"\nGoals: {len(verdicts)}, missed: {missed}\n", *map(str, verdicts)]
    return "\n".join(lines)
