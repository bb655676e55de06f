"""How do thieves ask?

A thief knows the features and their ranges; a seeded one has some natural rows, too. Those of
`TUNED` were looked at while the detector was made, those of `HELD_OUT` were not. KnockoffNets (with
rows of another population) and CopycatCNN are written from their papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.extraction_data import Matrix, Table

Rng = np.random.Generator
Answer = Callable[[Matrix], NDArray[np.int64]]
SEEDS = 100


@dataclass(frozen=True, eq=False)
class Aim:
    """What a thief has.

    Attributes:
        known: What is public: rows from which ranges, marginals or other populations are taken.
        seeds: Natural rows of his own.
        answer: The victim's labels.
        rng: His dice.
        rows: That he asks.
    """

    known: Table
    seeds: Matrix
    answer: Answer
    rng: Rng
    rows: int

    def marginals(self, rows: int) -> Matrix:
        """Draw each feature by itself."""
        there = self.known.values
        at = self.rng.integers(len(there), size=(rows, there.shape[1]))
        return there[at, np.arange(there.shape[1])]

    @property
    def numeric(self) -> NDArray[np.intp]:
        """Return which features are numbers."""
        return np.flatnonzero(~self.known.categorical)

    @property
    def spread(self) -> Matrix:
        """Return the standard deviation of each number."""
        return np.nan_to_num(np.nanstd(self.known.values[:, self.numeric], axis=0)) + 1e-12

    def whole(self, values: Matrix) -> Matrix:
        """Round what is whole in the known rows, as a careful thief does."""
        sample = self.known.values[:500]
        for at in self.numeric:
            if np.all(np.mod(sample[:, at][~np.isnan(sample[:, at])], 1) == 0):
                values[:, at] = np.round(values[:, at])
        return values


def uniform(aim: Aim) -> Matrix:
    found = aim.marginals(aim.rows)
    for at in range(found.shape[1]):
        there = aim.known.values[:, at]
        there = there[~np.isnan(there)]
        if aim.known.categorical[at]:
            found[:, at] = aim.rng.choice(np.unique(there), aim.rows)
        else:
            found[:, at] = aim.rng.uniform(there.min(), there.max(), aim.rows)
    return found


def uniform_whole(aim: Aim) -> Matrix:
    return aim.whole(uniform(aim))


def marginals(aim: Aim) -> Matrix:
    return aim.marginals(aim.rows)


def gaussian(aim: Aim) -> Matrix:
    """Numbers from normal distributions, whole where they are; categories by frequency."""
    found = aim.marginals(aim.rows)
    mean = np.nanmean(aim.known.values[:, aim.numeric], axis=0)
    found[:, aim.numeric] = aim.rng.normal(mean, aim.spread, (aim.rows, len(aim.numeric)))
    return aim.whole(found)


def knockoff(aim: Aim) -> Matrix:
    """Rows of another population, scaled to this one's ranges: real, but of something else."""
    there = aim.known.values[aim.rng.integers(len(aim.known.values), size=aim.rows)]
    found = aim.marginals(aim.rows)
    shuffled = aim.rng.permutation(aim.numeric)
    ranks = np.argsort(np.argsort(there[:, shuffled], axis=0), axis=0)
    ordered = np.sort(aim.known.values[:, aim.numeric], axis=0)
    at = (ranks / aim.rows * len(ordered)).astype(int)
    found[:, aim.numeric] = np.take_along_axis(ordered, at, axis=0)
    return found


def bisection(aim: Aim) -> Matrix:
    """Between two rows of different labels, to the boundary: adaptive retraining, path finding."""
    found: list[Matrix] = []
    while sum(map(len, found)) < aim.rows:
        ends = aim.marginals(8)
        labels = aim.answer(ends)
        found.append(ends)
        other = np.flatnonzero(labels != labels[0])
        if not len(other):
            continue
        low, high = ends[:1].copy(), ends[other[:1]].copy()
        for _ in range(10):
            middle = high.copy()
            middle[:, aim.numeric] = (low[:, aim.numeric] + high[:, aim.numeric]) / 2
            found.append(middle)
            if aim.answer(middle)[0] == labels[0]:
                low = middle
            else:
                high = middle
    return np.concatenate(found)[: aim.rows]


def tree_paths(aim: Aim) -> Matrix:
    """One field after the other is bisected from a start (Tramer et al. 2016)."""
    found: list[Matrix] = []
    while sum(map(len, found)) < aim.rows:
        base = aim.marginals(1)
        found.append(base)
        label = aim.answer(base)[0]
        for at in aim.rng.permutation(base.shape[1]):
            there = aim.known.values[:, at]
            there = there[~np.isnan(there)]
            if aim.known.categorical[at]:
                asked = np.tile(base, (min(6, len(np.unique(there))), 1))
                asked[:, at] = np.unique(there)[: len(asked)]
                found.append(asked)
                continue
            low, high = there.min(), there.max()
            for _ in range(8):
                middle = base.copy()
                middle[:, at] = (low + high) / 2
                found.append(middle)
                if aim.answer(middle)[0] == label:
                    low = (low + high) / 2
                else:
                    high = (low + high) / 2
    return np.concatenate(found)[: aim.rows]


def jacobian(aim: Aim, size: float = 0.1) -> Matrix:
    """Seeds, then each moved along the sign of a substitute's gradient (Papernot et al. 2017)."""
    from sklearn.linear_model import LogisticRegression

    found = [aim.seeds]
    total = len(aim.seeds)
    center = np.nan_to_num(np.nanmean(aim.known.values[:, aim.numeric], axis=0))
    while total < aim.rows:
        so_far = np.concatenate(found)
        labels = aim.answer(so_far)
        scaled = np.nan_to_num((so_far[:, aim.numeric] - center) / aim.spread)
        if len(np.unique(labels)) > 1:
            substitute = LogisticRegression(max_iter=60).fit(scaled, labels)
            weights = substitute.coef_
            if len(weights) == 1:
                weights = np.concatenate([-weights, weights])
            of_label = np.searchsorted(substitute.classes_, labels)
            gradient = weights[of_label]
        else:
            gradient = aim.rng.normal(size=scaled.shape)
        moved = so_far.copy()
        noise = aim.rng.choice([-1.0, 1.0], size=scaled.shape)
        moved[:, aim.numeric] += size * aim.spread * np.sign(gradient + 1e-9 * noise)
        found.append(moved)
        total += len(moved)
    return np.concatenate(found)[: aim.rows]


def jacobian_whole(aim: Aim) -> Matrix:
    return aim.whole(jacobian(aim, 0.3))


def jitter(aim: Aim) -> Matrix:
    """Seeds with noise of a quarter of a standard deviation."""
    found = aim.seeds[aim.rng.integers(len(aim.seeds), size=aim.rows)].copy()
    noise = aim.rng.normal(0, 0.25, (aim.rows, len(aim.numeric)))
    found[:, aim.numeric] += noise * aim.spread
    return found


def mixed_fields(aim: Aim) -> Matrix:
    """Each field from one of two seeds."""
    pair = aim.rng.integers(len(aim.seeds), size=(2, aim.rows))
    takes = aim.rng.random((aim.rows, aim.seeds.shape[1])) < 0.5
    return np.where(takes, aim.seeds[pair[0]], aim.seeds[pair[1]])


def between(aim: Aim) -> Matrix:
    """Points between two seeds (SMOTE, mixup)."""
    pair = aim.rng.integers(len(aim.seeds), size=(2, aim.rows))
    found = aim.seeds[pair[0]].copy()
    part = aim.rng.random((aim.rows, 1))
    other = aim.seeds[pair[1]][:, aim.numeric]
    found[:, aim.numeric] = (1 - part) * found[:, aim.numeric] + part * other
    return found


def differences(aim: Aim) -> Matrix:
    """A seed, then each of its numbers a little larger: gradients by finite differences."""
    found: list[Matrix] = []
    while sum(map(len, found)) < aim.rows:
        base = aim.seeds[aim.rng.integers(len(aim.seeds))]
        asked = np.tile(base, (len(aim.numeric) + 1, 1))
        for row, (at, spread) in enumerate(zip(aim.numeric, aim.spread, strict=True), 1):
            asked[row, at] += 0.01 * spread
        found.append(asked)
    return np.concatenate(found)[: aim.rows]


def boundary(aim: Aim) -> Matrix:
    """Bisection between seeds, then small steps around the boundary (HopSkipJump)."""
    found: list[Matrix] = []
    tries = 0
    while sum(map(len, found)) < aim.rows:
        pair = aim.seeds[aim.rng.choice(len(aim.seeds), 2, replace=False)]
        labels = aim.answer(pair)
        tries += 1
        if labels[0] == labels[1] and tries < 20:
            continue
        found.append(pair)
        low, high = pair[0].copy(), pair[1].copy()
        for _ in range(8):
            middle = high.copy()
            middle[aim.numeric] = (low[aim.numeric] + high[aim.numeric]) / 2
            found.append(middle[None])
            if aim.answer(middle[None])[0] == labels[0]:
                low = middle
            else:
                high = middle
        around = np.tile(high, (30, 1))
        noise = aim.rng.normal(0, 0.02, (30, len(aim.numeric)))
        around[:, aim.numeric] += noise * aim.spread
        found.append(around)
    return np.concatenate(found)[: aim.rows]


def sweep(aim: Aim) -> Matrix:
    """A seed, of which one field after the other takes the values that are usual."""
    found: list[Matrix] = []
    while sum(map(len, found)) < aim.rows:
        base = aim.seeds[aim.rng.integers(len(aim.seeds))]
        for at in aim.rng.permutation(len(base)):
            there = np.unique(aim.known.values[:, at])
            there = there[~np.isnan(there)]
            asked = np.tile(base, (min(10, len(there)), 1))
            asked[:, at] = np.sort(aim.rng.choice(there, len(asked), replace=False))
            found.append(asked)
    return np.concatenate(found)[: aim.rows]


def natural(aim: Aim) -> Matrix:
    """Rows of the population itself: nothing can tell them."""
    return aim.known.values[aim.rng.integers(len(aim.known.values), size=aim.rows)]


Thief = Callable[[Aim], Matrix]
DATA_FREE: Mapping[str, Thief] = {
    "uniform": uniform,
    "uniform, whole": uniform_whole,
    "marginals": marginals,
    "gaussian": gaussian,
    "knockoff": knockoff,
    "bisection": bisection,
    "tree paths": tree_paths,
}
SEEDED: Mapping[str, Thief] = {
    "jacobian": jacobian,
    "jacobian, whole": jacobian_whole,
    "jitter": jitter,
    "mixed fields": mixed_fields,
    "between": between,
    "differences": differences,
    "boundary": boundary,
    "sweep": sweep,
}
HELD_OUT = ("gaussian", "knockoff", "mixed fields", "boundary")


def models(seed: int) -> dict[str, Any]:
    """Return the victims; all are also what a thief trains."""
    from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    return {
        "logistic regression": LogisticRegression(max_iter=300),
        "tree": DecisionTreeClassifier(max_depth=10, random_state=seed),
        "forest": RandomForestClassifier(50, max_depth=12, random_state=seed),
        "boosting": HistGradientBoostingClassifier(max_iter=50, random_state=seed),
        "MLP": MLPClassifier((32,), max_iter=60, random_state=seed),
    }
