"""What is said of a principal?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["none", "off_population", "probing"]


@dataclass(frozen=True, slots=True)
class Signal:
    """One thing that speaks against a principal.

    Attributes:
        name: Of the signal; docs/extraction.md says what each sees.
        strength: Its evidence in tenths of what a verdict takes, at most 1.
    """

    name: str
    strength: float


@dataclass(frozen=True, slots=True)
class ExtractionVerdict:
    """What a principal's rows look like so far.

    Attributes:
        kind: "none"; "off_population", where the rows are unlike those of training, as those of a
            client that drifted are; "probing", where they are no population at all.
        score: The evidence in tenths of what a verdict takes, at most 1. It moves in steps, and a
            verdict lasts, so that nobody learns from it what one row does.
        signals: Those that speak, the strongest first.
        rows: That were observed, whatever they were.
        counted: Of these, the ones that carried weight: exact repeats carry none.
    """

    kind: Kind
    score: float
    signals: tuple[Signal, ...]
    rows: int
    counted: int

    @property
    def is_suspicious(self) -> bool:
        """Say whether there is a verdict."""
        return self.kind != "none"
