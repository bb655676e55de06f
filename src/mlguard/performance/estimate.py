"""How well does the model do, as far as its own scores tell, before any label is there?

Confidence-based: a score that is calibrated says how often such rows are of the class, so what the
truths will say on average is known without them. It sees what changes in the inputs, where they
move to rows of which the model is less sure, and not what changes in how inputs and truth relate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mlguard.performance.calibration import ScoreCalibration
from mlguard.performance.measure import mean
from mlguard.performance.task import Said, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_DRAWS = 100
_LEAST_DRAWS = 20
_DRAWN = 2_000_000  # truths, over all draws


class Estimate(NamedTuple):
    """What is expected of one metric.

    Attributes:
        value: The estimate.
        error: Its standard error: by how much these rows' truths may differ from what is expected
            of them, and the calibration from what holds.
    """

    value: float
    error: float


def estimate(
    task: Task, said: Sequence[Said], calibration: ScoreCalibration | None = None
) -> dict[str, Estimate]:
    """Estimate a classifier's performance on rows with scores; rows without are left out.

    Args:
        task: What the model is there for; a regression's numbers say nothing of their errors, so
            there is no estimate.
        said: What it said of each row.
        calibration: What its scores are worth; None takes them at their word.
    """
    import numpy as np

    scored = [each for each in said if len(each) > 1]
    if task.kind == "regression" or not scored:
        return {}
    scores = np.array([each[1:] for each in scored], dtype=np.float64)
    places = {name: place for place, name in enumerate(task.classes)}
    predicted = np.array([places[each[0]] for each in scored])
    ranks = [np.unique(column, return_inverse=True)[1] for column in scores.T]
    expected = _metrics(_shares(scores, calibration), predicted, ranks)
    rng = np.random.default_rng(0)  # the same rows have the same error
    draws: dict[str, list[float]] = {name: [] for name in expected}
    for _ in range(max(_LEAST_DRAWS, min(_DRAWS, _DRAWN // len(scored)))):
        truths = _drawn(_shares(scores, calibration, rng), rng)
        for name, value in _metrics(truths, predicted, ranks).items():
            draws[name].append(value)
    return {
        name: Estimate(value, float(np.nanstd(draws[name])))
        for name, value in expected.items()
        if not math.isnan(value)
    }


def _shares(
    scores: NDArray[np.float64],
    calibration: ScoreCalibration | None,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float64]:
    """Return each row's probability of each class; with `rng`, as the calibration may be off."""
    import numpy as np

    shares = scores
    if calibration is not None:
        columns = zip(scores.T, calibration.curves, strict=True)
        shares = np.stack([c.at(s, c.drawn(rng) if rng else None) for s, c in columns], axis=1)
    if shares.shape[1] == 1:
        return np.hstack([1 - shares, shares])
    total = shares.sum(axis=1, keepdims=True)
    even = np.full_like(shares, 1 / shares.shape[1])
    normal: NDArray[np.float64] = np.divide(shares, total, out=even, where=total > 0)
    return normal


def _drawn(shares: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw the truth of each row: one for its class, zero for the others."""
    import numpy as np

    below = shares.cumsum(axis=1)[:, :-1]
    drawn = (rng.random((len(shares), 1)) >= below).sum(axis=1)
    truths: NDArray[np.float64] = np.eye(shares.shape[1])[drawn]
    return truths


def _metrics(
    shares: NDArray[np.float64],
    predicted: NDArray[np.intp],
    ranks: Sequence[NDArray[np.intp]],
) -> dict[str, float]:
    """Measure predictions by truths that are known as probabilities; as `measure` does.

    Args:
        shares: Each row's probability of each class.
        predicted: The class that was named, by its place.
        ranks: Of each score among those of all rows.
    """
    import numpy as np

    rows, classes = shares.shape
    right = shares[np.arange(rows), predicted]
    hits = np.bincount(predicted, right, classes)
    named = np.bincount(predicted, minlength=classes)
    true = shares.sum(axis=0)
    counted = [1] if classes == 2 else list(range(classes))
    return {
        "accuracy": float(right.mean()),
        "precision": mean(_ratio(hits[n], named[n]) for n in counted),
        "recall": mean(_ratio(hits[n], true[n]) for n in counted),
        "auc": mean(_area(shares[:, n], r) for n, r in zip(counted, ranks, strict=True)),
    }


def _area(share: NDArray[np.float64], rank: NDArray[np.intp]) -> float:
    """Return the expected share of pairs in which the one that is of the class has more score."""
    import numpy as np

    ones, others = np.bincount(rank, share), np.bincount(rank, 1 - share)
    itself = share * (1 - share)  # no row is compared with itself
    below = others.cumsum() - others
    above = float((ones * (below + others / 2)).sum() - itself.sum() / 2)
    return _ratio(above, float(share.sum() * (1 - share).sum() - itself.sum()))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else math.nan
