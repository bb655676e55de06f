"""How well does a model do, by the truth and by its own scores?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as sklearn

from mlguard.errors import InvalidReference
from mlguard.performance import Said, Task, measure
from mlguard.performance.calibration import ScoreCalibration
from mlguard.performance.estimate import estimate

BINARY = Task("classification")
NAMED = Task("classification", ("no", "yes"), 0.3)
COLORS = Task("classification", ("blue", "green", "red"))
NUMBER = Task("regression")


class TestTask:
    @pytest.mark.parametrize(
        ("task", "prediction", "scores", "said"),
        [
            pytest.param(BINARY, 1, 0.9, ["1", 0.9], id="class and score"),
            pytest.param(BINARY, True, None, ["1"], id="class alone"),
            pytest.param(BINARY, [0.0], [0.8, 0.2], ["0", 0.2], id="one column, both scores"),
            pytest.param(BINARY, None, 0.5, ["1", 0.5], id="score alone"),
            pytest.param(NAMED, 0.31, 0.31, ["yes", 0.31], id="threshold"),
            pytest.param(NAMED, "no", {"yes": 0.4, "no": 0.6}, ["no", 0.4], id="scores by name"),
            pytest.param(COLORS, None, [0.1, 0.7, 0.2], ["green", 0.1, 0.7, 0.2], id="likeliest"),
            pytest.param(COLORS, np.str_("red"), None, ["red"], id="NumPy's text"),
            pytest.param(COLORS, None, np.array([1, 0, 0]), ["blue", 1.0, 0.0, 0.0], id="array"),
            pytest.param(NUMBER, np.float32(2.5), None, [2.5], id="number"),
            pytest.param(NUMBER, [3], None, [3.0], id="number in a column"),
        ],
    )
    def test_what_makes_sense(self, task: Task, prediction: Any, scores: Any, said: Said) -> None:
        """Classes, probabilities in any usual shape, and numbers are read."""
        assert task.said(prediction, scores) == said
        assert json.loads(json.dumps(said)) == said

    @pytest.mark.parametrize(
        ("task", "prediction", "scores"),
        [
            pytest.param(BINARY, "maybe", None, id="no class"),
            pytest.param(BINARY, 1, 1.5, id="no probability"),
            pytest.param(BINARY, 1, math.nan, id="NaN"),
            pytest.param(BINARY, 1, "0.5", id="text for a score"),
            pytest.param(BINARY, 1, [0.1, 0.2, 0.7], id="scores of more classes"),
            pytest.param(COLORS, "red", 0.7, id="one score of three"),
            pytest.param(COLORS, "red", {"red": 1.0}, id="scores of some classes"),
            pytest.param(COLORS, None, None, id="nothing"),
            pytest.param(NUMBER, math.inf, None, id="infinity"),
            pytest.param(NUMBER, "3", None, id="text for a number"),
            pytest.param(NUMBER, [1, 2], None, id="two numbers"),
            pytest.param(NUMBER, {}, None, id="an object"),
        ],
    )
    def test_what_makes_none(self, task: Task, prediction: Any, scores: Any) -> None:
        """What cannot be what the model says is not taken for it."""
        assert task.said(prediction, scores) is None

    @pytest.mark.parametrize(
        ("task", "value", "truth"),
        [
            pytest.param(BINARY, True, "1", id="class"),
            pytest.param(BINARY, 2, None, id="no class"),
            pytest.param(NAMED, "yes", "yes", id="name"),
            pytest.param(NAMED, None, None, id="nothing"),
            pytest.param(NUMBER, 7, 7.0, id="number"),
            pytest.param(NUMBER, math.nan, None, id="NaN"),
            pytest.param(NUMBER, "7", None, id="text"),
        ],
    )
    def test_truths(self, task: Task, value: Any, truth: Any) -> None:
        """A truth is a class of the model, or a finite number."""
        assert task.truth(value) == truth


class TestMeasure:
    def test_two_classes(self) -> None:
        """A binary model is measured as scikit-learn does, ties and all."""
        said, truths = binary(500)

        found = measure(BINARY, list(zip(said, truths, strict=True)))

        predicted, scores = [s[0] for s in said], [s[1] for s in said]
        assert found == pytest.approx({
            "accuracy": sklearn.accuracy_score(truths, predicted),
            "precision": sklearn.precision_score(truths, predicted, pos_label="1"),
            "recall": sklearn.recall_score(truths, predicted, pos_label="1"),
            "auc": sklearn.roc_auc_score(truths, scores),
        })  # fmt: skip

    def test_more_classes(self) -> None:
        """Of more classes, each counts as much as the others, as scikit-learn's macro has it."""
        said, truths = colored(600)

        found = measure(COLORS, list(zip(said, truths, strict=True)))

        predicted, scores = [s[0] for s in said], [s[1:] for s in said]
        assert found == pytest.approx({
            "accuracy": sklearn.accuracy_score(truths, predicted),
            "precision": sklearn.precision_score(truths, predicted, average="macro"),
            "recall": sklearn.recall_score(truths, predicted, average="macro"),
            "auc": sklearn.roc_auc_score(truths, scores, multi_class="ovr"),
        })  # fmt: skip

    def test_numbers(self) -> None:
        """A regression is measured by its mean absolute and root mean squared error."""
        found = measure(NUMBER, [([1.0], 2.0), ([5.0], 2.0), ([2.0], 2.0)])

        assert found == pytest.approx({"mae": 4 / 3, "rmse": math.sqrt(10 / 3)})

    def test_what_is_not_defined_is_left_out(self) -> None:
        """Without a positive prediction, a positive truth or scores there is no such metric."""
        assert measure(BINARY, []) == {}
        assert measure(BINARY, [(["0"], "0")]) == {"accuracy": 1.0}
        assert measure(BINARY, [(["0", 0.1], "1")]) == {"accuracy": 0.0, "recall": 0.0}


class TestEstimate:
    @pytest.mark.parametrize("task", [BINARY, COLORS], ids=["two classes", "three"])
    def test_a_certain_estimate_is_a_measurement(self, task: Task) -> None:
        """Scores of 0 and 1 estimate what truths that they name measure."""
        rng = np.random.default_rng(1)
        predicted, true = rng.integers(len(task.classes), size=(2, 200))
        shares = np.eye(len(task.classes))[true]
        said = [[task.classes[p], *s[-1:]] if task.is_binary else [task.classes[p], *s]
                for p, s in zip(predicted, shares.tolist(), strict=True)]  # fmt: skip

        found = {name: e.value for name, e in estimate(task, said).items()}

        pairs = [(s, task.classes[t]) for s, t in zip(said, true, strict=True)]
        assert found == pytest.approx(measure(task, pairs))
        assert max(e.error for e in estimate(task, said).values()) < 1e-9

    @pytest.mark.parametrize(
        ("task", "draw"),
        [pytest.param(BINARY, "binary", id="two"), pytest.param(COLORS, "colored", id="three")],
    )
    def test_the_truth_lies_in_the_band(self, task: Task, draw: str) -> None:
        """Of windows with calibrated scores, the truth is within two errors in nine of ten."""
        misses: dict[str, int] = dict.fromkeys(("accuracy", "precision", "recall", "auc"), 0)
        for seed in range(30):
            said, truths = {"binary": binary, "colored": colored}[draw](400, seed=seed)
            truth = measure(task, list(zip(said, truths, strict=True)))
            for name, found in estimate(task, said).items():
                misses[name] += abs(found.value - truth[name]) > 2 * found.error

        assert {name: n for name, n in misses.items() if n > 5} == {}

    def test_scores_that_are_too_sure_are_calibrated(self) -> None:
        """A model that is too sure is overestimated, unless its scores were calibrated."""
        said, truths = binary(20_000, sharpened=3)
        kept, judged = said[:10_000], said[10_000:]
        calibration = ScoreCalibration.fit(BINARY, [s[1] for s in kept], truths[:10_000])
        truth = measure(BINARY, list(zip(judged, truths[10_000:], strict=True)))["accuracy"]

        raw = estimate(BINARY, judged)["accuracy"].value
        found = estimate(BINARY, judged, calibration)["accuracy"]

        assert raw - truth > 0.05
        assert abs(found.value - truth) < 0.02
        assert found.error > estimate(BINARY, judged)["accuracy"].error

    def test_doubtful_inputs_are_seen(self) -> None:
        """Where inputs move to where the model is unsure, the estimate falls as the truth does."""
        sure, _ = binary(2000)
        unsure, truths = binary(2000, spread=0.5)
        truth = measure(BINARY, list(zip(unsure, truths, strict=True)))["accuracy"]

        before, after = (estimate(BINARY, said)["accuracy"].value for said in (sure, unsure))

        assert before - after > 0.1
        assert abs(after - truth) < 0.03

    def test_what_cannot_be_estimated(self) -> None:
        """Numbers say nothing of their errors, and classes without scores neither."""
        assert estimate(NUMBER, [[1.0], [2.0]]) == {}
        assert estimate(BINARY, [["1"], ["0"]]) == {}
        assert estimate(BINARY, []) == {}


class TestCalibration:
    def test_it_survives_the_file(self, tmp_path: Path) -> None:
        """What was saved is what is loaded."""
        said, truths = colored(500)
        made = ScoreCalibration.fit(COLORS, [s[1:] for s in said], truths)
        made.save(tmp_path / "calibration.json")

        assert ScoreCalibration.load(tmp_path / "calibration.json") == made
        assert (made.classes, made.rows, len(made.curves)) == (COLORS.classes, 500, 3)

    def test_curves_rise(self) -> None:
        """A larger score is never worth less."""
        said, truths = binary(3000)
        curve = ScoreCalibration.fit(BINARY, [s[1] for s in said], truths).curves[0]

        assert list(curve.scores) == sorted(curve.scores)
        assert list(curve.shares) == sorted(curve.shares)
        assert sum(curve.rows) == 3000

    def test_too_little_is_refused(self) -> None:
        """Rows without a truth or a probability teach nothing."""
        with pytest.raises(InvalidReference, match="99 of 103 rows have scores"):
            ScoreCalibration.fit(
                BINARY, [0.5] * 99 + [0.5, 7, None, "x"], [1] * 99 + ["maybe", 1, 1, 1]
            )

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "{}", '{"format": 2}',
         '{"format": 1, "classes": ["0"], "rows": 1, "curves": []}',
         '{"format": 1, "classes": ["0"], "rows": 1, "curves": [[[0.1], [], []]]}',
         '{"format": 1, "classes": ["0"], "rows": 1, "curves": [[["x"], [1], [1]]]}',
         '{"format": 1, "classes": [], "rows": 1, "curves": [[[1], [1], [1]]], "performance": []}'],
    )  # fmt: skip
    def test_other_files(self, tmp_path: Path, text: str) -> None:
        """A file that is none names the command that makes one."""
        path = tmp_path / "calibration.json"
        for written in (None, text):
            if written is not None:
                path.write_text(written)
            with pytest.raises(InvalidReference, match="mlguard reference calibrate"):
                ScoreCalibration.load(path)


def binary(
    rows: int, *, seed: int = 0, spread: float = 2.0, sharpened: float = 1.0
) -> tuple[list[Said], list[str]]:
    """Draw what a model of two classes says, and truths by its scores; many scores are ties.

    Args:
        rows: How many.
        seed: Of the chance.
        spread: The deviation of the log odds.
        sharpened: By how much the log odds that are told are too large.
    """
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, spread, rows).round(1)
    truths = (rng.random(rows) < 1 / (1 + np.exp(-odds))).astype(int).astype(str).tolist()
    scores = (1 / (1 + np.exp(-odds * sharpened))).tolist()
    return [BINARY.said(None, score) or [] for score in scores], truths


def colored(rows: int, *, seed: int = 0) -> tuple[list[Said], list[str]]:
    """Draw what a model of three classes says, and truths by its scores."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet((0.5, 0.5, 0.5), rows)
    drawn = (rng.random((rows, 1)) >= scores.cumsum(axis=1)[:, :-1]).sum(axis=1)
    said = [COLORS.said(None, share) or [] for share in scores.tolist()]
    return said, [COLORS.classes[n] for n in drawn]
