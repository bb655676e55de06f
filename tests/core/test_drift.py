"""Do the inputs still look alike?"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from mlguard.drift import FeatureVerdict, Verdict, check
from mlguard.reference import Reference

pytestmark = pytest.mark.xdist_group("evidently")

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Change = Callable[[pd.DataFrame, np.random.Generator], None]


def draw(rows: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return rows of ten features; x1 has standard deviation 2, x5 has a heavy tail."""
    columns: dict[str, Any] = {f"x{i}": rng.normal(i, 1 + i, size=rows) for i in range(5)}
    columns["x5"] = rng.lognormal(size=rows)
    columns["x6"] = rng.poisson(3, rows).astype(float)
    columns["flag"] = (rng.random(rows) < 0.2).astype(float)
    columns["c4"] = rng.choice(list("abcd"), rows, p=[0.5, 0.3, 0.15, 0.05])
    columns["c20"] = rng.choice([f"k{i}" for i in range(20)], rows)
    return pd.DataFrame(columns)


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.build(draw(10_000, np.random.default_rng(0)))


def of(verdict: Verdict, name: str) -> FeatureVerdict:
    return next(feature for feature in verdict.features if feature.name == name)


def rows_of(frame: pd.DataFrame) -> list[list[Any]]:
    return [list(row) for row in frame.itertuples(index=False)]


def small(values: list[Any], window: list[Any]) -> FeatureVerdict:
    """Check a window of one feature against a reference of one feature."""
    verdict = check(Reference.build({"a": values}), [[value] for value in window])
    return verdict.features[0]


@lru_cache(typed=True)  # 1 is True
def of_two(one: object, other: object) -> Reference:
    """Know two categories, equally often."""
    return Reference.build({"a": pd.Series([one, other] * 50, dtype=object)})


# Changes of a window, in place.


def shift(sigmas: float) -> Change:
    def change(frame: pd.DataFrame, _: np.random.Generator) -> None:
        frame["x1"] += 2 * sigmas

    return change


def replace(name: str, share: float, value: object) -> Change:
    def change(frame: pd.DataFrame, rng: np.random.Generator) -> None:
        frame.loc[rng.random(len(frame)) < share, name] = value

    return change


def one(name: str, value: object) -> Change:
    def change(frame: pd.DataFrame, _: np.random.Generator) -> None:
        frame.loc[0, name] = value

    return change


def windows(rows: int, times: int, change: Change | None = None) -> Iterator[pd.DataFrame]:
    for seed in range(times):
        rng = np.random.default_rng([7, rows, seed])
        frame = draw(rows, rng)
        if change:
            change(frame, rng)
        yield frame


class TestTrust:
    """Which verdicts can be trusted."""

    @pytest.mark.parametrize(("rows", "times", "most"), [(60, 10, 2), (200, 15, 3), (1000, 15, 2)])
    def test_silence(self, reference: Reference, rows: int, times: int, most: int) -> None:
        """Of many windows without drift very few alarm, whatever their size."""
        found = [check(reference, w) for w in windows(rows, times)]

        assert sum(verdict.detected for verdict in found) <= most

    def test_silence_of_a_small_reference(self) -> None:
        """A reference of 300 rows does not alarm more often."""
        reference = Reference.build(draw(300, np.random.default_rng(1)))

        found = [check(reference, w) for w in windows(1000, 10)]

        assert sum(verdict.detected for verdict in found) <= 2

    @pytest.mark.parametrize(
        ("change", "name", "reason", "rows"),
        [
            pytest.param(shift(0.5), "x1", "distribution", 200, id="mean +0.5 sigma, 200 rows"),
            pytest.param(shift(0.5), "x1", "distribution", 1000, id="mean +0.5 sigma"),
            pytest.param(shift(0.25), "x1", "distribution", 1000, id="mean +0.25 sigma"),
            pytest.param(
                replace("c4", 0.02, "new"), "c4", "unseen categories", 1000, id="2 % new category"
            ),
            pytest.param(replace("x1", 0.2, math.nan), "x1", "missing", 200, id="20 % missing"),
            pytest.param(replace("c20", 0.05, None), "c20", "missing", 1000, id="5 % no category"),
            pytest.param(replace("x1", 0.02, 50.0), "x1", "out of range", 1000, id="2 % beyond"),
            pytest.param(replace("flag", 0.3, 1.0), "flag", "distribution", 1000, id="a flag"),
            pytest.param(replace("c4", 0.3, "d"), "c4", "distribution", 1000, id="other shares"),
        ],
    )
    def test_detects(
        self,
        reference: Reference,
        change: Change,
        name: str,
        reason: str,
        rows: int,
    ) -> None:
        """Drift in one feature of ten is found in each of 3 windows, with its reason."""
        for window in windows(rows, 3, change):
            verdict = check(reference, window)

            assert verdict.detected
            assert name in verdict.drifted
            assert reason in of(verdict, name).reasons

    @pytest.mark.parametrize(
        ("change", "name"),
        [
            pytest.param(one("x1", 1e9), "x1", id="huge"),
            pytest.param(one("x1", -math.inf), "x1", id="infinite"),
            pytest.param(one("x1", math.nan), "x1", id="missing"),
            pytest.param(one("flag", 1e9), "flag", id="huge flag"),
            pytest.param(one("c4", "new"), "c4", id="new category"),
        ],
    )
    @pytest.mark.parametrize("rows", [200, 1000])
    def test_one_row(
        self,
        reference: Reference,
        change: Change,
        name: str,
        rows: int,
    ) -> None:
        """One strange row is no drift."""
        for window in windows(rows, 3, change):
            verdict = check(reference, window)

            assert name not in verdict.drifted

    @pytest.mark.parametrize("categories", [60, 150, 1000, 10**9])
    @pytest.mark.parametrize("known", [300, 6000])
    def test_silence_of_many_categories(self, known: int, categories: int) -> None:
        """A feature with more categories than can be kept does not alarm without drift."""
        rng = np.random.default_rng(5)
        reference = Reference.build({"city": rng.integers(0, categories, known).astype(str)})

        for rows in (200, 2000):
            window = [[str(value)] for value in rng.integers(0, categories, rows)]
            assert not check(reference, window).detected

    def test_null_scores_scale(self, reference: Reference) -> None:
        """The threshold falls as a window grows, and never below the smallest that matters."""
        threshold = reference.calibration.threshold

        found = [threshold("x1", rows, 10_000) for rows in (30, 200, 10**6)]

        assert found == sorted(found, reverse=True)
        assert found[-1] == 0.1

    def test_calibration_is_seeded(self) -> None:
        """The same reference and seed give the same thresholds, and another seed others."""
        data = {"a": np.random.default_rng(2).normal(size=200)}

        one, two, other = (Reference.build(data, seed=seed).calibration for seed in (1, 1, 2))

        assert one == two
        assert one != other


class TestWindow:
    """What a window may hold."""

    def test_forms(self, reference: Reference) -> None:
        """Rows as lists, tuples, arrays or mappings, and a frame, are one window."""
        frame = next(windows(200, 1))
        rows = rows_of(frame)
        forms: list[Any] = [
            frame,
            frame[reversed(frame.columns)].assign(extra=1),
            rows,
            iter(map(tuple, rows)),
            [np.array(row, dtype=object) for row in rows],
            frame.to_dict("records"),
        ]

        first, *others = (check(reference, form) for form in forms)

        assert first.rows == 200
        assert others == [first] * 5

    def test_vanished_column(self, reference: Reference) -> None:
        """A column that vanished is all missing, and the others are still judged."""
        frame = next(windows(200, 1)).drop(columns="x1")

        verdict = check(reference, frame)

        assert verdict.drifted == ("x1",)
        assert of(verdict, "x1").missing_ratio == 1.0
        assert of(verdict, "x1").score == 0.0

    @pytest.mark.parametrize(
        "value",
        ["12.5", None, math.nan, [1.0], {"a": 1}, b"1", pd.NaT, object()],
        ids=["text", "None", "NaN", "list", "dict", "bytes", "NaT", "object"],
    )
    def test_junk_among_numbers(self, reference: Reference, value: object) -> None:
        """A value that is no number is missing."""
        rows = rows_of(next(windows(200, 1)))
        for row in rows[:50]:
            row[1] = value

        x1 = of(check(reference, rows), "x1")

        assert (x1.missing_ratio, x1.reasons) == (0.25, ("missing",))

    @pytest.mark.parametrize(
        "row",
        [None, 7, "abcdefghij", [], [1.0] * 9, [1.0] * 11, {"other": 1}, np.float64(1.0)],
        ids=["None", "number", "text", "empty", "short", "long", "mapping", "scalar"],
    )
    def test_junk_rows(self, reference: Reference, row: object) -> None:
        """A row that is none of this model is missing in every feature."""
        window = [*rows_of(next(windows(200, 1))), *[row] * 50]

        verdict = check(reference, window)

        assert {feature.missing_ratio for feature in verdict.features} == {0.2}

    @pytest.mark.parametrize("value", [10**400, -(10**400), math.inf], ids=["+", "-", "inf"])
    def test_beyond_floats(self, reference: Reference, value: float) -> None:
        """A number beyond a float's range is out of the reference's."""
        rows = rows_of(next(windows(200, 1)))
        for row in rows[:20]:
            row[1] = value

        x1 = of(check(reference, rows), "x1")

        assert x1.out_of_range_ratio == 0.1
        assert "out of range" in x1.reasons
        assert math.isfinite(x1.score)

    def test_junk_categories_are_fast(self, reference: Reference) -> None:
        """Thousands of distinct junk categories are detected in well under a second."""
        rows = rows_of(next(windows(8000, 1)))
        for number, row in enumerate(rows):
            row[8] = f"junk {number} </script>"

        start = time.thread_time()
        c4 = of(check(reference, rows), "c4")
        took = time.thread_time() - start

        assert c4.unseen_category_ratio == 1.0
        assert c4.reasons == ("distribution", "unseen categories")
        assert took < 1.0

    @pytest.mark.parametrize("rows", [0, 1, 29])
    def test_too_small(self, reference: Reference, rows: int) -> None:
        """A window of fewer than 30 rows is refused rather than judged by chance."""
        window = rows_of(next(windows(200, 1)))[:rows]

        with pytest.raises(ValueError, match=f"window of {rows} rows .* at least 30"):
            check(reference, window)

    def test_duplicate_columns(self, reference: Reference) -> None:
        """A frame that has a feature twice is refused."""
        frame = next(windows(200, 1))

        with pytest.raises(ValueError, match="2 columns 'x1'"):
            check(reference, pd.concat([frame, frame[["x1"]]], axis=1))


class TestFeature:
    """What a feature may be."""

    @pytest.mark.parametrize("form", [1, 1.0, True, "1", np.int64(1), np.float32(1)], ids=repr)
    @pytest.mark.parametrize("trained", [1, True, "1"], ids=repr)
    def test_forms_of_a_category(self, trained: object, form: object) -> None:
        """1, 1.0, True and "1" are one category, in the reference and in a window."""
        other = {1: 2, "1": "2"}.get(trained) if trained is not True else False
        reference = of_two(trained, other)

        verdict = check(reference, [[form], [other]] * 20)

        assert not verdict.detected

    @pytest.mark.parametrize("constant", [0.0, 3.0, -1e300, 1e-300, 0.1])
    def test_constant(self, constant: float) -> None:
        """A constant feature alarms when it changes, however little, and not when it stays."""
        reference = Reference.build({"a": [constant] * 500})
        changed = constant + (abs(constant) or 1) * 1e-3
        stays, moves, once = (
            check(reference, [[value] for value in window]).features[0]
            for window in ([constant] * 100, [changed] * 100, [constant] * 59 + [7.0])
        )

        assert (stays.score, stays.reasons) == (0.0, ())
        assert moves.reasons == ("distribution", "out of range")
        assert once.reasons == ()

    def test_float32(self) -> None:
        """A reference in single precision matches windows in double precision."""
        levels = np.array([0.1, 0.2, 0.3] * 50, dtype="float32")

        verdict = check(Reference.build({"a": levels}), [[0.1], [0.2], [0.3]] * 20)

        assert not verdict.detected

    @pytest.mark.parametrize("scale", [1e-300, 1e-9, 1e9, 1e300, 1.7e308])
    def test_scale(self, scale: float) -> None:
        """The score does not depend on the unit of measure."""
        rng = np.random.default_rng(3)
        ours, theirs = rng.uniform(-1, 0.8, 500), rng.uniform(-0.8, 1, 100)

        plain = small(list(ours), list(theirs))
        scaled = small(list(ours * scale), list(theirs * scale))

        assert scaled.score == pytest.approx(plain.score, rel=1e-6)
        assert scaled.reasons == plain.reasons

    def test_sparse(self) -> None:
        """A feature that is nearly always zero alarms when it no longer is."""
        rng = np.random.default_rng(4)
        ours = np.where(rng.random(5000) < 0.002, rng.normal(size=5000), 0.0)

        same = small(list(ours), list(rng.permutation(ours)[:300]))
        changed = small(list(ours), list(np.where(rng.random(300) < 0.3, 0.1, 0.0)))

        assert not same.detected
        assert changed.reasons == ("distribution",)

    def test_identifiers(self) -> None:
        """Categories that never repeat are no drift, and a category that turns into them is."""
        identifiers = [f"id-{number}" for number in range(2000)]

        assert not small(identifiers[:1000], identifiers[1000:]).detected
        assert small(["a", "b"] * 500, identifiers[:100]).detected

    def test_missing_in_training(self) -> None:
        """A share that was missing in training may be missing now."""
        ours = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, None, None] * 100

        assert not small(ours, ours[:200]).detected
        assert small(ours, [None] * 150 + [1.0] * 10).reasons == ("missing",)


class TestOptions:
    """How it is called."""

    def test_alpha(self) -> None:
        """The rarer a false alarm may be, the higher the thresholds."""
        data = {"a": np.random.default_rng(2).normal(size=200)}

        one, other = (Reference.build(data, alpha=alpha).calibration for alpha in (0.05, 0.001))

        assert one.threshold("a", 100, 200) < other.threshold("a", 100, 200)

    def test_plain_values(self, reference: Reference) -> None:
        """A verdict holds nothing but plain Python values."""
        verdict = check(reference, next(windows(200, 1)))

        plain = {str, float, bool, tuple}
        fields = dataclasses.fields(FeatureVerdict)
        kinds = {type(getattr(f, field.name)) for f in verdict.features for field in fields}
        assert kinds == plain

    def test_import_is_light(self) -> None:
        """Importing the module loads no evidently, pandas or numpy."""
        code = (
            "import sys, mlguard.drift\n"
            "heavy = {'pandas', 'numpy', 'scipy', 'evidently'} & set(sys.modules)\n"
            "assert not heavy, heavy\n"
        )

        subprocess.run([sys.executable, "-c", code], check=True)
