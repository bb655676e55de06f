"""How good is a copy of the model that was made through its API?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
)
from threadpoolctl import threadpool_limits

from examples.demo.clients import Client, Step, Tally
from examples.demo.patients import Patients
from examples.demo.tokens import Mint

OWN = 60  # patients that the thief knows
BATCH = 25
FEW = 5
UNLIMITED = 10_000  # rows


@dataclass(frozen=True, slots=True)
class Copy:
    """A surrogate of the model, judged on patients that the thief does not have.

    Attributes:
        rows: Answered rows it was trained on.
        agreement: Share of the patients for whom it says what the model says.
        tally: What the thief got from the service; None for a copy made offline.
    """

    rows: int
    agreement: float
    tally: Tally | None = None


NO_COPY = Copy(0, 0.0)


class Thief:
    """Somebody with a valid token, sixty patients of his own and bad intentions.

    Mixes the patients he has into new, plausible ones, asks the model about them and trains a
    surrogate on the probabilities it answers: more than the bare predictions would tell him.

    Args:
        patients: The first sixty are his; his copies are judged on the others.
        model: The model he copies, to judge by and for the copy without limits.
        seed: Of his choices.
    """

    def __init__(self, patients: Patients, model: GradientBoostingClassifier, seed: int) -> None:
        self._own, self._others = patients.rows[:OWN], patients.rows[OWN:]
        self._outcomes = patients.truth[:OWN]
        self._model = model
        self._said = model.predict(self._others)
        self._seed = seed

    def without_asking(self) -> Copy:
        """Train on the outcomes of his own patients only: what he has before he asks anything."""
        own = RandomForestClassifier(random_state=0).fit(self._own, self._outcomes)
        return Copy(0, self._agreement(own.predict(self._others)))

    def steal(self, url: str, mint: Mint, step: Step) -> Copy:
        """Ask the service until it refuses, then train on what was answered."""
        rng = np.random.default_rng([self._seed, 7])
        asked: list[np.ndarray] = []
        answers: list[list[float]] = []
        tally = Tally("copycat", "copies the model")
        with Client(url, tally, mint.token("copycat"), step) as client:
            while (
                answer := client.predict((rows := self._invent(rng, BATCH)).tolist())
            ) is not None:
                asked.append(rows)
                answers += answer["probabilities"]
        if not asked:
            return replace(NO_COPY, tally=tally)
        return self._judged(np.vstack(asked), np.array(answers), tally)

    def steal_without_limits(self, rows: int = UNLIMITED) -> Copy:
        """Do the same offline, with as many rows as he likes."""
        asked = self._invent(np.random.default_rng([self._seed, 7]), rows)
        return self._judged(asked, self._model.predict_proba(asked), None)

    def _invent(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Mix pairs of known patients, and scatter half a standard deviation.

        A feature with few values, such as sex, is taken from one of the two as it is.
        """
        one, other = self._own[rng.integers(OWN, size=(2, count))]
        share = rng.random((count, 1))
        noise = rng.normal(size=one.shape) * self._own.std(axis=0) / 2
        has_few = [len(np.unique(column)) <= FEW for column in self._own.T]
        return np.where(has_few, one, share * one + (1 - share) * other + noise)

    def _judged(self, asked: np.ndarray, answers: np.ndarray, tally: Tally | None) -> Copy:
        says = self._model.classes_[_train(asked, answers, self._others)]
        return Copy(len(asked), self._agreement(says), tally)

    def _agreement(self, says: np.ndarray) -> float:
        return float((says == self._said).mean())


def _train(rows: np.ndarray, probabilities: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Learn each class's log-probability from the rows; the likeliest class of those asked."""
    targets = np.log(np.clip(probabilities, 1e-6, 1)).T
    # One thread: on a busy machine boosting on every core is slower, not faster.
    with threadpool_limits(limits=1):
        parts = [HistGradientBoostingRegressor(random_state=0).fit(rows, y) for y in targets]
        return np.column_stack([part.predict(asked) for part in parts]).argmax(axis=1)
