"""How often is a score right? Learned from rows whose truth is known."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlguard.errors import InvalidReference
from mlguard.performance.measure import measure
from mlguard.performance.task import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = 1
LEAST = 100  # rows
_BINS = 100
_OF_A_BIN = 50  # rows at least
BUILD_COMMAND = "mlguard reference calibrate scored.csv --truth COLUMN --scores COLUMN"


@dataclass(frozen=True, slots=True)
class ReliabilityCurve:
    """How often rows of a class are among those with a score: rising, in steps.

    Attributes:
        scores: The mean score of each step, ascending.
        shares: The share of the class among its rows.
        rows: How many they are.
    """

    scores: tuple[float, ...]
    shares: tuple[float, ...]
    rows: tuple[int, ...]

    def at(
        self, scores: NDArray[np.float64], shares: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """Return the shares at some scores, between two steps on the line from one to the other.

        Args:
            scores: Where.
            shares: Of the steps, in place of those that were found.
        """
        import numpy as np

        values = self.shares if shares is None else shares
        found: NDArray[np.float64] = np.interp(scores, self.scores, values)
        return found

    def drawn(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw the shares as they may be, by how many rows each was found in."""
        import numpy as np

        rows = np.asarray(self.rows)
        hits = np.asarray(self.shares) * rows
        drawn: NDArray[np.float64] = rng.beta(hits + 0.5, rows - hits + 0.5)
        return drawn


@dataclass(frozen=True, slots=True)
class ScoreCalibration:
    """What a model's scores are worth.

    Attributes:
        classes: The model's, in the order of their scores.
        curves: One of each class; of two, one of the last.
        rows: Rows that it was learned from.
        performance: Of the model on those, by metric: what is to be expected of it.
    """

    classes: tuple[str, ...]
    curves: tuple[ReliabilityCurve, ...]
    rows: int
    performance: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def fit(cls, task: Task, scores: Sequence[Any], truths: Sequence[Any]) -> ScoreCalibration:
        """Learn from rows that the model was not trained on: their scores, and their truths.

        Raises:
            InvalidReference: Too few of the rows have a truth and scores that make sense.
        """
        import numpy as np

        said = [task.said(None, score) for score in scores]
        true = [task.truth(value) for value in truths]
        known = [(s, t) for s, t in zip(said, true, strict=True) if s and s[1:] and t is not None]
        if len(known) < LEAST:
            classes = ", ".join(task.classes)
            raise InvalidReference(
                f"{len(known)} of {len(said)} rows have scores in [0, 1] and a truth of {classes}: "
                f"a calibration needs {LEAST} at least"
            )
        table = np.array([s[1:] for s, _ in known])
        counted = task.classes[-1:] if task.is_binary else task.classes
        truth = np.array([t for _, t in known])
        curves = [_curve(table[:, n], truth == name) for n, name in enumerate(counted)]
        return cls(task.classes, tuple(curves), len(known), measure(task, known))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as JSON; an OSError where that fails."""
        about = {
            "format": FORMAT,
            "classes": self.classes,
            "rows": self.rows,
            "curves": [[c.scores, c.shares, c.rows] for c in self.curves],
            "performance": self.performance,
        }
        Path(path).write_text(json.dumps(about) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ScoreCalibration:
        """Read what `save` wrote.

        Raises:
            InvalidReference: The file is missing, damaged, or no calibration.
        """
        try:
            return _read(json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError as error:
            text = f"{path} does not exist: make it with `{BUILD_COMMAND}`"
            raise InvalidReference(text) from error
        except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
            text = f"{path} must be a file made by `{BUILD_COMMAND}`, and cannot be read as one"
            raise InvalidReference(f"{text}: {error}") from error


def _read(about: Any) -> ScoreCalibration:
    """Read what is written in a file; an error of the usual kinds where it is no such."""
    if about["format"] != FORMAT:
        raise ValueError(f"its format is {about['format']!r}")
    curves = tuple(ReliabilityCurve(tuple(s), tuple(p), tuple(n)) for s, p, n in about["curves"])
    if not curves or not all(map(_is_curve, curves)):
        raise ValueError("its curves are none")
    found = {str(name): float(value) for name, value in about.get("performance", {}).items()}
    return ScoreCalibration(tuple(map(str, about["classes"])), curves, int(about["rows"]), found)


def _is_curve(curve: ReliabilityCurve) -> bool:
    numbers = (*curve.scores, *curve.shares, *curve.rows)
    lengths = {len(curve.scores), len(curve.shares), len(curve.rows)}
    return len(lengths) == 1 and bool(numbers) and all(map(math.isfinite, numbers))


def _curve(scores: NDArray[np.float64], is_one: NDArray[np.bool_]) -> ReliabilityCurve:
    """Put rows of like scores together, then neighbours until the shares rise (isotonic)."""
    import numpy as np

    order = np.argsort(scores, kind="stable")
    bins = min(_BINS, len(scores) // _OF_A_BIN)
    steps: list[tuple[float, float, int]] = []  # sums of scores and of hits, and rows
    for part in np.array_split(order, max(bins, 1)):
        step = (float(scores[part].sum()), float(is_one[part].sum()), len(part))
        while steps and steps[-1][1] * step[2] >= step[1] * steps[-1][2]:
            last = steps.pop()
            step = (last[0] + step[0], last[1] + step[1], last[2] + step[2])
        steps.append(step)
    return ReliabilityCurve(
        tuple(total / rows for total, _, rows in steps),
        tuple(hits / rows for _, hits, rows in steps),
        tuple(rows for _, _, rows in steps),
    )
