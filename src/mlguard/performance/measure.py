"""How well did the model do, now that the truth is known?

In plain Python, as workers have no NumPy: some thousand labels are some milliseconds.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TypeAlias

from mlguard.performance.task import Said, Task

Truth: TypeAlias = str | float
Pair: TypeAlias = tuple[Said, Truth]
"""What the model said of a row, and the truth of it."""


def measure(task: Task, pairs: Sequence[Pair]) -> dict[str, float]:
    """Measure a model by the truth; what is not defined for these rows is left out.

    Of two classes, precision and recall are those of the last; of more, the mean over the classes
    for which they are defined, and so is the area under the ROC curve (one class against the rest).
    """
    if not pairs:
        return {}
    if task.kind == "regression":
        return _errors(pairs)
    right = sum(said[0] == truth for said, truth in pairs)
    counted = task.classes[-1:] if task.is_binary else task.classes
    found = {
        "accuracy": right / len(pairs),
        "precision": mean(_precision(pairs, name) for name in counted),
        "recall": mean(_recall(pairs, name) for name in counted),
        "auc": mean(_area(pairs, name, place) for place, name in enumerate(counted, 1)),
    }
    return {name: value for name, value in found.items() if not math.isnan(value)}


def _errors(pairs: Sequence[Pair]) -> dict[str, float]:
    errors = [float(said[0]) - float(truth) for said, truth in pairs]
    squares = math.fsum(error * error for error in errors)
    return {
        "mae": math.fsum(map(abs, errors)) / len(errors),
        "rmse": math.sqrt(squares / len(errors)),
    }


def _precision(pairs: Sequence[Pair], name: str) -> float:
    of = Counter(truth == name for said, truth in pairs if said[0] == name)
    return of[True] / of.total() if of else math.nan


def _recall(pairs: Sequence[Pair], name: str) -> float:
    of = Counter(said[0] == name for said, truth in pairs if truth == name)
    return of[True] / of.total() if of else math.nan


def _area(pairs: Sequence[Pair], name: str, place: int) -> float:
    """Return the share of pairs in which the score of the one that is of the class is larger.

    Args:
        pairs: Those without scores do not count.
        name: The class.
        place: Where its score stands in what was said.
    """
    scored = sorted((said[place], truth == name) for said, truth in pairs if len(said) > place)
    above, below = 0.0, 0
    for _, ties in groupby(scored, key=lambda item: item[0]):
        of = Counter(is_one for _, is_one in ties)
        above += of[True] * (below + of[False] / 2)
        below += of[False]
    compared = below * (len(scored) - below)
    return above / compared if compared else math.nan


def mean(values: Iterable[float]) -> float:
    """Return the mean of those that are defined; NaN where none is."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan
