"""What may training hold without blinding the check, and how is a verdict read?"""

from __future__ import annotations

import time
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlguard.drift import Reference, check
from mlguard.drift.evidently_scores import score
from mlguard.drift.histograms import Bins
from mlguard.drift.profile import comparable
from mlguard.drift.values import read

pytestmark = pytest.mark.xdist_group("evidently")


def normal(rows: int, seed: int, mean: float = 0.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.random.default_rng(seed).normal(mean, 1, rows)


class TestWildValues:
    @pytest.mark.parametrize(
        ("value", "rows"),
        [
            pytest.param(1e6, 1, id="one of 2000 is 1e6"),
            pytest.param(1e308, 1, id="one is 1e308"),
            pytest.param(-1e6, 3, id="three are"),
            pytest.param(-999.0, 20, id="1 % is -999"),
            pytest.param(-999.0, 200, id="10 % is -999"),
        ],
    )
    def test_they_blind_nobody(self, value: float, rows: int) -> None:
        """A shift of 3 standard deviations, or out of the range, is seen beside wild values."""
        values = normal(2000, 0)
        values[:rows] = value
        reference = Reference.build({"a": values})

        shifted = check(reference, [[v] for v in normal(500, 1, 3.0)])
        same = check(reference, [[v] for v in np.random.default_rng(2).choice(values, 500)])

        assert "distribution" in shifted.features[0].reasons
        assert check(reference, [[50.0 + v] for v in normal(500, 3)]).features[0].reasons == (
            "distribution",
            "out of range",
        )
        assert not same.detected

    @pytest.mark.parametrize(("value", "rows"), [(1e6, 1), (-999.0, 100)])
    def test_they_are_told(self, value: float, rows: int) -> None:
        """Whoever builds a reference is told which value carries the deviation."""
        values = normal(2000, 0)
        values[:rows] = value

        (note,) = Reference.build({"a": values, "b": normal(2000, 1)}).notes

        assert note.startswith(f"a: the value {value:g} ({rows} rows")

    @pytest.mark.parametrize(
        ("levels", "noise"),
        [
            pytest.param([-0.5, 0.0, 0.5], 5.55e-17, id="around zero"),
            pytest.param([0.0, 1.0, 2.0, 3.0], 1e-9, id="around 0 to 3"),
            pytest.param([0.0], 5.55e-17, id="zero"),
            pytest.param([0.0, 100.0], 1e-9, id="around 0 and 100"),
        ],
    )
    def test_noise_on_levels(self, levels: list[float], noise: float) -> None:
        """What rounding adds to one of few levels is no drift."""
        rng = np.random.default_rng(0)
        reference = Reference.build({"a": rng.choice(levels, 2000)})

        window = [[v + rng.choice([-noise, noise])] for v in rng.choice(levels, 500)]

        assert not check(reference, window).detected

    def test_values_a_little_out_of_the_range(self) -> None:
        """Ages up to 95 where training had 94 are no drift; 150 are."""
        rng = np.random.default_rng(0)
        reference = Reference.build({"age": rng.uniform(0, 94, 5000)})

        ages = rng.uniform(0, 94, 1000)
        little, far = (np.where(np.arange(1000) < 20, top, ages) for top in (95.0, 150.0))

        assert not check(reference, [[age] for age in little]).detected
        assert check(reference, [[age] for age in far]).features[0].reasons == ("out of range",)


class TestScores:
    @pytest.mark.parametrize(
        "values",
        [
            pytest.param(normal(1000, 0), id="normal"),
            pytest.param(np.exp(normal(1000, 0)), id="heavy tail"),
            pytest.param(np.random.default_rng(0).integers(0, 4, 1000), id="levels"),
            pytest.param(np.random.default_rng(0).choice(list("abc"), 1000), id="categories"),
        ],
    )
    def test_they_are_evidentlys(self, values: Any) -> None:
        """A verdict's score is evidently's own; what calibrates it differs by less than 2 %."""
        reference = Reference.build({"a": values})
        (feature,) = reference.profile
        shift = 1 if feature.kind == "numeric" else "d"
        window = [values[n] + shift if n % 3 == 0 else values[n] for n in range(0, 1000, 2)]
        ours, theirs = (comparable(feature, read(feature, v)) for v in (values, window))
        bins = Bins.of(feature, ours)
        if feature.is_continuous:
            ours, theirs = ours / bins.deviation, theirs / bins.deviation
        binned = [
            np.bincount(bins.codes(v * (bins.deviation or 1)), minlength=bins.size) / len(v)
            for v in (ours, theirs)
        ]

        (found,) = check(reference, [[value] for value in window]).features

        assert found.score == pytest.approx(
            score(found.method, pd.Series(np.sort(ours)), theirs), rel=1e-12
        )
        assert float(bins.scores(*binned)) == pytest.approx(found.score, rel=0.02)

    def test_a_large_reference(self) -> None:
        """Every so many-th value of a large reference gives its score to a thousandth."""
        values = normal(20_000, 0)
        reference = Reference.build({"a": values})
        window = normal(1000, 1, 0.3)

        found = check(reference, [[value] for value in window]).features[0].score

        scaled = pd.Series(values / values.std())
        assert found == pytest.approx(score("wasserstein", scaled, window / values.std()), abs=1e-3)

    def test_a_check_costs_its_window(self) -> None:
        """16 features of 1000 rows take less than 0.1 s of CPU, evidently's import apart."""
        rng = np.random.default_rng(0)
        columns = {f"x{n}": rng.normal(size=10_000) for n in range(12)}
        columns |= {f"c{n}": rng.choice(list("abcdef"), 10_000) for n in range(4)}
        reference = Reference.build(columns)
        window = pd.DataFrame(columns)[:1000]
        check(reference, window)

        def took() -> float:
            began = time.thread_time()
            check(reference, window)
            return time.thread_time() - began

        assert min(took() for _ in range(5)) < 0.1


@pytest.fixture(scope="module")
def answering() -> Reference:
    """Know an input, a prediction and a score."""
    frame = pd.DataFrame({"answer": ["a", "b"] * 500, "x": normal(1000, 0), "p": normal(1000, 1)})
    return Reference.build(frame, predictions=["answer"], scores=["p"])


class TestOutputs:
    """Predictions and scores beside the inputs."""

    def test_they_are_no_inputs(self, answering: Reference) -> None:
        """A model's inputs are what is left."""
        assert answering.features == ("x",)
        roles = [(feature.name, feature.role) for feature in answering.profile]
        assert roles == [("x", "input"), ("answer", "prediction"), ("p", "score")]

    def test_they_are_compared_where_a_window_has_them(self, answering: Reference) -> None:
        """A window of inputs is judged by its inputs, one with answers by those too."""
        inputs = pd.DataFrame({"x": normal(300, 2)})
        answers = inputs.assign(answer="a", p=normal(300, 3))

        assert [f.name for f in check(answering, inputs).features] == ["x"]
        assert check(answering, answers).drifted == ("answer",)
        assert check(answering, answers.to_dict("records")).drifted == ("answer",)


class Texts(HTMLParser):
    """Collects the tags and the texts of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, _: Any) -> None:
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


class TestReading:
    """A verdict in a notebook."""

    NAME = "<script>alert(1)</script>"

    def verdict(self) -> Any:
        reference = Reference.build({"same": normal(1000, 0), self.NAME: normal(1000, 1)})
        return check(reference, np.stack([normal(300, 2), normal(300, 3, 2.0)], axis=1))

    def test_to_frame(self) -> None:
        """It is a table, one row a feature."""
        frame = self.verdict().to_frame()

        assert list(frame.index) == ["same", self.NAME]
        assert list(frame["detected"]) == [False, True]
        assert frame.loc[self.NAME, "reasons"].split(", ")[0] == "distribution"
        assert frame.loc["same", "smallest_detectable"] > 0

    def test_repr_html(self) -> None:
        """It shows itself, drifted features first, and names as text."""
        found = Texts(self.verdict()._repr_html_())

        assert "script" not in found.tags
        assert found.texts.index(self.NAME) < found.texts.index("same")
        assert "1 of 2 features drifted" in found.texts

    def test_reference_repr_html(self) -> None:
        """A reference shows what it can see."""
        reference = Reference.build({self.NAME: normal(1000, 1)})

        found = Texts(reference._repr_html_())

        assert "script" not in found.tags
        assert {self.NAME, "numeric", "rows"} <= set(found.texts)
