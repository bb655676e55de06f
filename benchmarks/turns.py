"""How is measured, so that what else the machine does meets everybody alike?"""

from __future__ import annotations

import gc
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Turn = Callable[[], float]
"""One contestant's turn: seconds of one of whatever is measured."""

LEAST_ROUNDS = 9
# Sleeping costs no CPU time: it lets a contestant's threads finish within its own turn.
SETTLE = 0.02


class Unfit(AssertionError):
    """A contestant does not do what it is measured for."""


def say(text: str) -> None:
    """Tell how far it is."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class Spread:
    """What came of several turns.

    Attributes:
        median: Half of the turns took less.
        low: A quarter took less.
        high: A quarter took more.
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarize what was measured."""
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def times(self, factor: float) -> Spread:
        """Write it in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def json(self) -> dict[str, float]:
        """Write it for a file."""
        return {"median": self.median, "low": self.low, "high": self.high}


def rounds_of(
    turns: Mapping[str, Turn],
    *,
    seconds: float,
    progress: Callable[[int], None],
    least: int = LEAST_ROUNDS,
) -> dict[str, list[float]]:
    """Let all have their turns, round after round; return what each took in each round.

    In each round every contestant has its turn, in another order, so that what the machine does
    meanwhile meets all of them.
    """
    names = list(turns)
    measured: dict[str, list[float]] = {name: [] for name in names}
    # What all these packages keep is not for a contestant's turn to be searched for garbage.
    gc.collect()
    gc.freeze()
    deadline = time.monotonic() + seconds
    rounds = 0
    try:
        while rounds < least or time.monotonic() < deadline:
            progress(rounds)
            first = rounds % len(names)
            for name in [*names[first:], *names[:first]]:
                measured[name].append(turns[name]())
            rounds += 1
    finally:
        gc.unfreeze()
    return measured


def take_turns(
    turns: Mapping[str, Turn], *, seconds: float, progress: Callable[[int], None]
) -> tuple[dict[str, float], int]:
    """Let all have their turns; return the median of each, and the rounds."""
    measured = rounds_of(turns, seconds=seconds, progress=progress)
    rounds = len(next(iter(measured.values())))
    return {name: statistics.median(taken) for name, taken in measured.items()}, rounds


def cpu(work: Callable[[], object]) -> float:
    """Measure CPU seconds of all threads of this process."""
    began = time.process_time()
    work()
    time.sleep(SETTLE)
    return time.process_time() - began


def every(number: int, text: str) -> Callable[[int], None]:
    """Tell each so many rounds how far it is."""

    def progress(rounds: int) -> None:
        if rounds % number == 0:
            say(f"  {text}: round {rounds + 1}")

    return progress


def calls(work: Callable[[], object]) -> int:
    """Count the Python functions that are called in this thread."""
    counted = 0

    def seen(_frame: object, event: str, _argument: object) -> None:
        nonlocal counted
        counted += event == "call"

    sys.setprofile(seen)
    try:
        work()
    finally:
        sys.setprofile(None)
    return counted
