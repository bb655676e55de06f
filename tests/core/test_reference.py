"""What did training look like?"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlguard.drift.reference import Reference
from mlguard.drift.values import to_category, to_number
from mlguard.errors import InvalidReference


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "age": [20.0, 30.0, math.nan, 50.0, 41.5, 38.0, math.inf, 20.0],
            "region": ["north", "south", "north", None, "north", "east", "south", "north"],
            "member": [True, False, True, True, False, True, True, True],
            "rooms": [1, 2, 3, 3, 2, 1, 2, 2],
        }
    )


@pytest.fixture
def saved(frame: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "reference.parquet"
    Reference.build(frame).save(path)
    return path


class TestBuild:
    def test_kinds(self, frame: pd.DataFrame) -> None:
        """Text, booleans and named columns are categorical, the others are numeric."""
        reference = Reference.build(frame, categorical=["rooms"])

        kinds = [feature.kind for feature in reference.profile]
        assert kinds == ["numeric", "categorical", "categorical", "categorical"]

    def test_numeric(self, frame: pd.DataFrame) -> None:
        """A numeric feature's range is of finite values; infinities are present but novel."""
        age = Reference.build(frame).profile[0]

        assert (age.low, age.high, age.missing, age.present) == (20.0, 50.0, 1, 7)
        assert age.novel == 2  # the infinity, and 50.0, which no other row reaches

    def test_categorical(self, frame: pd.DataFrame) -> None:
        """A categorical feature keeps its categories, the most frequent first."""
        region = Reference.build(frame).profile[1]

        assert region.categories == (("north", 4), ("south", 2), ("east", 1))
        assert region.missing_ratio == 1 / 8
        assert region.novel == 1  # no second row is from the east

    def test_categories_are_bounded(self) -> None:
        """Of many categories 100 stay, chosen by one half of the rows and counted in the other."""
        often = [f"often-{number % 200}" for number in range(6000)]

        feature = Reference.build({"id": [*often, *map(str, range(500))]}).profile[0]

        assert feature.is_cut
        assert len(feature.categories) == 100
        assert feature.counted == 3250
        assert sum(rows for _, rows in feature.categories) + feature.novel == feature.counted
        assert 0.35 < sum(feature.shares.values()) < 0.5

    def test_rare_categories_of_many(self) -> None:
        """Of many categories those that hardly repeat are left out."""
        names = [*map(str, range(500)), *["often"] * 100]

        feature = Reference.build({"id": names}).profile[0]

        assert [category for category, _ in feature.categories] == ["often"]

    def test_sample_is_bounded_and_seeded(self) -> None:
        """The sample has at most `max_rows` rows, the same for the same seed, rows kept whole."""
        data = {"a": np.arange(1000.0), "b": np.arange(1000.0) * 2}

        one, two, other = (Reference.build(data, max_rows=50, seed=s) for s in (1, 1, 2))

        assert one.rows == 1000
        assert len(one.sample["a"]) == 50
        assert (one.sample["a"] == two.sample["a"]).all()
        assert (one.sample["a"] != other.sample["a"]).any()
        assert (one.sample["b"] == 2 * one.sample["a"]).all()

    @pytest.mark.parametrize(
        ("data", "options", "words"),
        [
            pytest.param(pd.DataFrame(), {}, "no columns", id="nothing"),
            pytest.param({"a": []}, {}, "no rows", id="no rows"),
            pytest.param({"a": [1], "b": [1, 2]}, {}, "equal length", id="ragged"),
            pytest.param(3, {}, "not a table", id="not a table"),
            pytest.param({"a": [None, math.nan]}, {}, "'a' has no", id="missing"),
            pytest.param({"a": [math.nan, math.nan]}, {}, "'a' has no value", id="NaN"),
            pytest.param({"a": [math.inf, math.nan]}, {}, "'a' holds only inf", id="infinite"),
            pytest.param({"a": [[1], {}, b"x"]}, {}, "'a' has no usable value", id="junk"),
            pytest.param({"a": pd.to_datetime(["2024-01-01"])}, {}, "'a' holds dat", id="dates"),
            pytest.param({"a": [1j]}, {}, "'a' holds complex", id="complex"),
            pytest.param(pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "'a' is th", id="twice"),
            pytest.param({"a": [1]}, {"categorical": ["b"]}, "'b', which is not", id="unknown"),
            pytest.param({"a": [1]}, {"categorical": "a"}, "list of column", id="a string"),
            pytest.param({"a": [1]}, {"max_rows": 0}, "max_rows=0", id="max_rows"),
            pytest.param({"a": [1]}, {"alpha": 1.0}, "alpha=1.0", id="alpha"),
            pytest.param({"a": [1]}, {"features": ["b"]}, "features names .* 'b'", id="features"),
            pytest.param({"a": [1]}, {"scores": ["b"]}, "scores names .* 'b'", id="scores"),
            pytest.param({"a": [1]}, {"time": "b"}, "time names .* 'b'", id="time"),
            pytest.param({"a": [1], "t": ["x"]}, {"time": "t"}, "no times that", id="no times"),
            pytest.param({"a": [1]}, {"timezone": "Mars"}, "timezone='Mars'", id="zone"),
            pytest.param(
                {"a": [*range(101)], "s": [*range(101)]},
                {"segment": "s"},
                "101 distinct",
                id="segments",
            ),
            pytest.param({"t": ["2024-01-01"]}, {"time": "t"}, "no columns", id="only a time"),
        ],
    )
    def test_refuses(self, data: Any, options: dict[str, Any], words: str) -> None:
        """What cannot be a reference is refused with the column's name and what to do."""
        with pytest.raises(InvalidReference, match=words):
            Reference.build(data, **options)

    @pytest.mark.parametrize("dtype", ["Int64", "Float64", "int8", "float32"])
    def test_numeric_types(self, dtype: str) -> None:
        """Every numeric column type is read as float64."""
        reference = Reference.build({"a": pd.Series([1, 2, 3], dtype=dtype)})

        assert sorted(reference.sample["a"].tolist()) == [1.0, 2.0, 3.0]

    @pytest.mark.parametrize("dtype", ["category", "string", "object"])
    def test_text_types(self, dtype: str) -> None:
        """Every text column type is categorical, its missing values are None."""
        reference = Reference.build({"a": pd.Series(["x", None, "y"], dtype=dtype)})

        assert set(reference.sample["a"].tolist()) == {"x", None, "y"}


class TestFile:
    def test_round_trip(self, frame: pd.DataFrame, tmp_path: Path) -> None:
        """What is loaded is what was saved."""
        moment = datetime(2024, 5, 1, 12, tzinfo=UTC)
        built = Reference.build(frame, categorical=["rooms"], created=moment)
        built.save(tmp_path / "r.parquet")

        loaded = Reference.load(tmp_path / "r.parquet")

        assert loaded.profile == built.profile
        assert (loaded.rows, loaded.created) == (8, "2024-05-01T12:00:00+00:00")
        for name in built.features:
            pd.testing.assert_series_equal(
                pd.Series(loaded.sample[name]), pd.Series(built.sample[name])
            )

    def test_strange_names(self, tmp_path: Path) -> None:
        """Names and categories of any characters survive, halves of surrogate pairs too."""
        texts = pd.Series(["\ud800", "x" * 1000], dtype=object)
        Reference.build({"a.b": [1.0, 2.0], "ü/=": texts, "": [True, False]}).save(
            tmp_path / "r.parquet"
        )

        loaded = Reference.load(tmp_path / "r.parquet")

        assert loaded.features == ("a.b", "ü/=", "")
        assert set(loaded.sample["ü/="].tolist()) == {"?", "x" * 256}

    def test_save_leaves_one_file(self, saved: Path) -> None:
        """Saving leaves nothing but the file, and replaces an older one."""
        Reference.build({"other": [1, 2]}).save(saved)

        assert [path.name for path in saved.parent.iterdir()] == ["reference.parquet"]
        assert Reference.peek(saved) == ("other",)

    def test_peek(self, saved: Path) -> None:
        """The names can be read without the rows."""
        assert Reference.peek(saved) == ("age", "region", "member", "rooms")

    def test_imports(self, saved: Path) -> None:
        """Neither importing the module nor peeking loads anything heavy: a worker peeks."""
        code = (
            "import sys, mlguard.reference as r\n"
            "heavy = {'pandas', 'numpy', 'pyarrow', 'evidently'}\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
            f"r.Reference.peek({str(saved)!r})\n"
            "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        )

        subprocess.run([sys.executable, "-c", code], check=True)

    @pytest.mark.parametrize("read", [Reference.load, Reference.peek], ids=["load", "peek"])
    @pytest.mark.parametrize("damage", ["missing", "folder", "text", "empty", "truncated"])
    def test_damaged(self, saved: Path, read: Any, damage: str) -> None:
        """A file that is missing or damaged is refused with its path and the command for it."""
        content = saved.read_bytes()
        saved.unlink()
        if damage == "folder":
            saved.mkdir()
        elif damage != "missing":
            kept = {"text": b"a,b\n1,2\n" * 9, "empty": b"", "truncated": content[:-100]}
            saved.write_bytes(kept[damage])

        with pytest.raises(InvalidReference) as caught:
            read(saved)

        assert str(saved) in str(caught.value)
        assert "mlguard reference build data.csv -o reference.parquet" in str(caught.value)

    @pytest.mark.parametrize("read", [Reference.load, Reference.peek], ids=["load", "peek"])
    def test_plain_parquet(self, tmp_path: Path, read: Any) -> None:
        """A parquet file of training data is refused with the command that makes a reference."""
        path = tmp_path / "data.parquet"
        pq.write_table(pa.table({"a": [1]}), path)

        with pytest.raises(InvalidReference) as caught:
            read(path)

        assert f"mlguard reference build {path} -o reference.parquet" in str(caught.value)

    def test_plain_parquet_is_not_overwritten(self, tmp_path: Path) -> None:
        """The suggested command never writes over the training data."""
        path = tmp_path / "reference.parquet"
        pq.write_table(pa.table({"a": [1]}), path)

        with pytest.raises(InvalidReference, match=r"-o built\.parquet"):
            Reference.load(path)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            pytest.param({"format": 3}, "format 3.*upgrade", id="future"),
            pytest.param({"format": 1}, "format 1.*what chance does: make it anew", id="past"),
            pytest.param({"format": None}, "format None", id="no version"),
            pytest.param({"profile": [{"name": "age"}], "features": None}, "made by", id="profile"),
            pytest.param({"rows": "many", "features": 1}, "made by", id="rows"),
        ],
    )
    @pytest.mark.parametrize("read", [Reference.load, Reference.peek], ids=["load", "peek"])
    def test_bad_metadata(
        self, saved: Path, read: Any, change: dict[str, object], words: str
    ) -> None:
        """Metadata of another format, or without what it must have, is refused."""
        table = pq.read_table(saved)
        about = json.loads(table.schema.metadata[b"mlguard"]) | change
        metadata = {b"mlguard": json.dumps(about).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), saved)

        with pytest.raises(InvalidReference, match=words):
            read(saved)

    def test_lost_column(self, saved: Path) -> None:
        """A profile whose column is not in the sample is refused."""
        pq.write_table(pq.read_table(saved).drop_columns(["age"]), saved)

        with pytest.raises(InvalidReference, match="age"):
            Reference.load(saved)


@pytest.mark.parametrize(
    ("value", "category", "number"),
    [
        pytest.param(1, "1", 1.0, id="int"),
        pytest.param(1.0, "1", 1.0, id="float"),
        pytest.param(True, "1", 1.0, id="bool"),
        pytest.param("1", "1", math.nan, id="text"),
        pytest.param(np.int8(1), "1", 1.0, id="numpy int"),
        pytest.param(np.float32(1), "1", 1.0, id="numpy float"),
        pytest.param(np.bool_(True), "1", 1.0, id="numpy bool"),
        pytest.param(np.str_("1"), "1", math.nan, id="numpy text"),
        pytest.param(Decimal("1.50"), "1.5", 1.5, id="decimal"),
        pytest.param(-0.0, "0", 0.0, id="negative zero"),
        pytest.param(0.1, "0.1", 0.1, id="fraction"),
        pytest.param(math.inf, "inf", math.inf, id="infinity"),
        pytest.param(10**400, hex(10**400), math.inf, id="huge int"),
        pytest.param(-(10**5000), hex(-(10**5000)), -math.inf, id="huge negative int"),
        pytest.param(None, None, math.nan, id="None"),
        pytest.param(math.nan, None, math.nan, id="NaN"),
        pytest.param(pd.NA, None, math.nan, id="NA"),
        pytest.param(pd.NaT, None, math.nan, id="NaT"),
        pytest.param(Decimal("sNaN"), None, math.nan, id="signalling NaN"),
        pytest.param([1], None, math.nan, id="list"),
        pytest.param({"a": 1}, None, math.nan, id="dict"),
        pytest.param(b"1", None, math.nan, id="bytes"),
        pytest.param(np.ones(3), None, math.nan, id="array"),
        pytest.param(1j, None, math.nan, id="complex"),
        pytest.param("", "", math.nan, id="empty text"),
    ],
)
def test_values(value: object, category: str | None, number: float) -> None:
    """Every value has one text form and one number, and junk is missing."""
    assert to_category(value) == category
    assert to_number(value) == pytest.approx(number, nan_ok=True)
