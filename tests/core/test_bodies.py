"""Where are the rows in a request, and the predictions in an answer?"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard.bodies import Layout, parse
from mlguard.reference import MAX_CATEGORY_LENGTH

NAMED = Layout(("a", "b"), "instances", "predictions")
UNNAMED = Layout((), "instances", "predictions")
V1 = Layout(("a", "b"), protocol="v1")
V2 = Layout(("a", "b"), protocol="v2")
DEEP = Layout(("a", "b"), "data.rows", "data.results")


def read(layout: Layout, body: Any) -> list[list[Any] | None] | None:
    """Return all rows, as the drift check would get them."""
    rows = layout.rows(body)
    return None if rows is None else [layout.row(rows, index) for index in range(len(rows))]


class TestParsing:
    @pytest.mark.parametrize(
        "raw",
        [b"", b"{", b"\xff\xfe{", b"[" * 100_000, b"nul", b'{"a":' + b"9" * 5000 + b"}", b"1 2"],
        ids=lambda raw: repr(raw[:8]),
    )
    def test_junk(self, raw: bytes) -> None:
        """What is no JSON, or more than Python reads, is None."""
        assert parse(raw) is None

    @pytest.mark.parametrize(
        "raw", [b' {"a":1} ', '{"a":1}'.encode("utf-16"), b'\xef\xbb\xbf{"a":1}'], ids=repr
    )
    def test_as_a_handler_reads_it(self, raw: bytes) -> None:
        """What Python's reader takes is read alike here and in a handler."""
        assert parse(raw) == json.loads(raw) == {"a": 1}


class TestRows:
    @pytest.mark.parametrize(
        ("layout", "body", "expected"),
        [
            pytest.param(
                NAMED, {"instances": [[1, 2], [3, 4]]}, [[1, 2], [3, 4]], id="list of rows"
            ),
            pytest.param(NAMED, {"instances": [{"b": 2, "a": 1}]}, [[1, 2]], id="list of objects"),
            pytest.param(
                NAMED, {"instances": [{"b": 2, "x": 9}]}, [[None, 2]], id="objects that lack one"
            ),
            pytest.param(
                NAMED, {"instances": {"b": [2, 4], "a": [1, 3]}}, [[1, 2], [3, 4]], id="columns"
            ),
            pytest.param(
                NAMED,
                {"instances": {"a": [1, 3], "b": [2]}},
                [[1, 2], [3, None]],
                id="ragged columns",
            ),
            pytest.param(NAMED, {"instances": {"b": 2, "a": 1}}, [[1, 2]], id="one object"),
            pytest.param(NAMED, {"instances": [1, 2]}, [[1, 2]], id="one row"),
            pytest.param(NAMED, {"instances": []}, [], id="no rows"),
            pytest.param(UNNAMED, {"instances": [1, 2, 3]}, [[1], [2], [3]], id="scalars"),
            pytest.param(UNNAMED, {"instances": ["x", "y"]}, [["x"], ["y"]], id="texts"),
            pytest.param(UNNAMED, {"instances": [[1], [1, 2]]}, [[1], [1, 2]], id="ragged rows"),
            pytest.param(NAMED, {"instances": [[1], [1, 2]]}, [None, [1, 2]], id="ragged, named"),
            pytest.param(NAMED, {"instances": [[1, [2]]]}, [None], id="nested values"),
            pytest.param(NAMED, {"instances": [[1, None]]}, [[1, None]], id="missing value"),
            pytest.param(
                Layout(("a",), "x"), {"x": [1, 2, 3]}, [[1], [2], [3]], id="scalars of one feature"
            ),
            pytest.param(V1, {"instances": [[1, 2]]}, [[1, 2]], id="v1"),
            pytest.param(DEEP, {"data": {"rows": [[1, 2]]}}, [[1, 2]], id="deeper"),
            pytest.param(NAMED, {"rows": []}, None, id="no such key"),
            pytest.param(NAMED, {"instances": 7}, None, id="number"),
            pytest.param(NAMED, {"instances": "ab"}, None, id="text"),
            pytest.param(NAMED, {"instances": None}, None, id="null"),
            pytest.param(NAMED, {"instances": {}}, None, id="empty object"),
            pytest.param(NAMED, [[1, 2]], None, id="bare list"),
            pytest.param(NAMED, None, None, id="no JSON"),
            pytest.param(DEEP, {"data": [1]}, None, id="list where an object is"),
            pytest.param(Layout(("a", "b")), {"instances": [[1, 2]]}, None, id="nothing is read"),
        ],
    )
    def test_layouts(self, layout: Layout, body: Any, expected: Any) -> None:
        """Rows are found in every layout that clients use, in the features' order."""
        assert read(layout, body) == expected

    def test_long_texts_are_cut(self) -> None:
        """A category is kept in 64 characters."""
        assert read(UNNAMED, {"instances": ["x" * 1000]}) == [["x" * MAX_CATEGORY_LENGTH]]

    @pytest.mark.parametrize(
        ("instances", "expected"),
        [
            pytest.param({"a": [1] * 9, "b": [2] * 9, "x": 0}, 9, id="a key more"),
            pytest.param({"a": [1] * 9, "b": 2}, 9, id="a scalar that a table repeats"),
            pytest.param([None, [1, 2]], 2, id="a null before a row"),
        ],
    )
    def test_rows_cannot_be_hidden(self, instances: Any, expected: int) -> None:
        """What pandas.DataFrame or a loop would see as many rows is counted as many."""
        rows = NAMED.rows({"instances": instances})

        assert rows is not None
        assert len(rows) == expected


TENSORS = [
    pytest.param([{"shape": [2, 2], "data": [1, 2, 3, 4]}], [[1, 2], [3, 4]], id="matrix"),
    pytest.param([{"shape": [2, 2], "data": [[1, 2], [3, 4]]}], [[1, 2], [3, 4]], id="nested"),
    pytest.param(
        [{"name": "a", "shape": [2], "data": [1, 3]}, {"name": "b", "shape": [2], "data": [2, 4]}],
        [[1, 2], [3, 4]],
        id="columns",
    ),
    pytest.param(
        [{"shape": [2, 1], "data": [[1], [3]]}, {"shape": [2, 1], "data": [2, 4]}],
        [[1, 2], [3, 4]],
        id="columns as matrices",
    ),
    pytest.param(
        [{"shape": [3, 2], "data": [1, 2, 3]}], [[1, 2], None, None], id="fewer than the shape"
    ),
    pytest.param([{"shape": [1, 2], "data": [1, 2, 3, 4]}], [[1, 2], [3, 4]], id="more than it"),
    pytest.param(
        [{"shape": [2, 3], "data": [1, 2, 3, 4, 5, 6]}], [[1, 2], [3, 4], [5, 6]], id="too wide"
    ),
    pytest.param([{"shape": [1, 2, 1], "data": [1, 2]}], [[1, 2]], id="three dimensions"),
    pytest.param([{"shape": [1, 2], "data": []}], [None], id="no data"),
    pytest.param([{"shape": [1, 10**30], "data": [1]}], [None], id="absurd shape"),
    pytest.param([], None, id="no tensors"),
    pytest.param([{"data": [1, 2]}], [[1, 2]], id="no shape"),
    pytest.param([{"shape": [], "data": [1]}], [None], id="empty shape"),
    pytest.param([{"shape": [0, 2], "data": []}], [None], id="shape of nothing"),
    pytest.param([{"shape": [-1, 2], "data": [1, 2]}], [[1, 2]], id="negative shape"),
    pytest.param([{"shape": [True, 2], "data": [1, 2]}], [[1, 2]], id="boolean shape"),
    pytest.param([{"shape": [1.0, 2], "data": [1, 2]}], [[1, 2]], id="float shape"),
    pytest.param([{"shape": "12", "data": [1, 2]}], [[1, 2]], id="shape of text"),
    pytest.param([{"shape": [1, 2], "data": "AAAA"}], None, id="data of text"),
    pytest.param([{"shape": [1, 2], "data": [1, 2]}, 5], [None], id="a number among tensors"),
    pytest.param({"shape": [1, 2], "data": [1, 2]}, None, id="no list"),
]


class TestTensors:
    @pytest.mark.parametrize(
        "shape", [[1] + [9] * 100_000, [1, 10**4000, 10**4000], [10**4000, 2], [1] * 17], ids=len
    )
    def test_shapes_are_no_bombs(self, shape: list[int]) -> None:
        """However a shape is written, reading it is quick and no row is without a value."""
        rows = V2.rows({"inputs": [{"shape": shape, "data": [1, 2, 3]}]})

        assert rows is not None
        assert 1 <= len(rows) <= 3

    @pytest.mark.parametrize(
        ("inputs", "expected"),
        [
            ([{"shape": [-1, 2], "data": [1] * 2000}], 1000),
            ([{"shape": [1000, 2], "data": [1] * 2000}, {"name": "no data"}], 1000),
            ([{"shape": [1], "data": [[[[1, 2]], [[3, 4]]]]}], 2),
        ],
        ids=["shape to be guessed", "a tensor without data", "nested deep"],
    )
    def test_nothing_hides_rows(self, inputs: Any, expected: int) -> None:
        """What a client leaves out or nests does not make many rows one."""
        rows = V2.rows({"inputs": inputs})

        assert rows is not None
        assert len(rows) >= expected

    def test_a_table_as_pandas_writes_it(self) -> None:
        """Columns may be mappings from row names."""
        rows = NAMED.rows({"instances": {"a": {"0": 1, "1": 2}, "b": {"0": 3, "1": 4}}})

        assert rows is not None
        assert [NAMED.row(rows, n) for n in range(len(rows))] == [[1, 3], [2, 4]]

    @pytest.mark.parametrize(("inputs", "expected"), TENSORS)
    def test_inputs(self, inputs: Any, expected: Any) -> None:
        """The Open Inference Protocol's tensors are rows: one matrix, or a column a tensor."""
        assert read(V2, {"inputs": inputs}) == expected

    @pytest.mark.parametrize(
        ("outputs", "expected"),
        [
            ([{"shape": [3], "data": [0, 1, 0]}], 3),
            ([{"shape": [3, 2], "data": [0.5] * 6}], 3),
            ([{"shape": [3], "data": [0] * 3}, {"shape": [3, 2], "data": [0.5] * 6}], 3),
            ([], None),
            ("x", None),
            ([{"shape": [3]}], None),
        ],
        ids=["labels", "scores", "both", "none", "text", "no data"],
    )
    def test_outputs(self, outputs: Any, expected: int | None) -> None:
        """Predictions are counted as rows are."""
        assert V2.predictions({"outputs": outputs}) == expected

    @pytest.mark.parametrize(
        "tensor",
        [
            pytest.param({"shape": [1, 2000], "data": [0] * 2000}, id="a wide shape"),
            pytest.param({"shape": [1000, 2], "data": [[0] * 2000]}, id="one nested list"),
            pytest.param({"shape": [1, 1000, 2], "data": [0] * 2000}, id="one more dimension"),
        ],
    )
    def test_rows_cannot_be_hidden(self, tensor: dict[str, Any]) -> None:
        """What reshape(-1, features) would make 1000 rows is counted as 1000."""
        rows = V2.rows({"inputs": [tensor]})

        assert rows is not None
        assert len(rows) == 1000


class TestPredictions:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            ({"predictions": [0, 1, 1]}, 3),
            ({"predictions": []}, 0),
            ({"predictions": 5}, None),
            ({"predictions": {"a": [1]}}, None),
            ({"other": [1]}, None),
            ([1, 2], None),
            (None, None),
        ],
        ids=repr,
    )
    def test_counted(self, answer: Any, expected: int | None) -> None:
        """A list of predictions is one a row; anything else is no count."""
        assert NAMED.predictions(answer) == expected

    def test_not_looked_for(self) -> None:
        """Without `outputs` no answer is read."""
        layout = Layout(("a",), "instances")

        assert not layout.reads_answers
        assert layout.predictions({"predictions": [1]}) is None


class TestHandlersRows:
    """What handlers give `guard.inference`: arrays, tables, objects."""

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(np.array([[1.5, 2.5], [3.5, 4.5]]), id="array"),
            pytest.param(np.array([[1.5, 2.5], [3.5, 4.5]], dtype="float32"), id="float32"),
            pytest.param([np.array([1.5, 2.5]), np.array([3.5, 4.5])], id="list of arrays"),
            pytest.param(pd.DataFrame({"a": [1.5, 3.5], "b": [2.5, 4.5]}), id="table"),
            pytest.param(
                pd.DataFrame({"a": [1.5, 3.5], "b": [2.5, 4.5]}, index=[7, 7]), id="odd index"
            ),
            pytest.param([{"a": 1.5, "b": 2.5}, {"b": 4.5, "a": 3.5}], id="objects"),
            pytest.param([(1.5, 2.5), (3.5, 4.5)], id="tuples"),
            pytest.param(np.array([[1.5, 2.5], [3.5, 4.5]], dtype=object), id="array of objects"),
        ],
    )
    def test_read(self, rows: Any) -> None:
        """A row is plain values, whatever holds it."""
        row = NAMED.row(rows, 1)

        assert row == [3.5, 4.5]
        assert [type(value) for value in row or ()] == [float, float]

    @pytest.mark.parametrize(
        ("rows", "expected"),
        [
            pytest.param(
                pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}), [2, "y"], id="table of two types"
            ),
            pytest.param(
                pd.DataFrame({"a": [1, 2], "b": [True, False]}), [2, False], id="with booleans"
            ),
            pytest.param(
                pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": ["x", "y"]}),
                [None, "y"],
                id="missing value of a table",
            ),
            pytest.param([[0, 0], [np.int64(2), np.float32(0.5)]], [2, 0.5], id="NumPy scalars"),
            pytest.param(
                [{}, {"a": np.int64(2), "b": np.bool_(True)}], [2, True], id="objects of scalars"
            ),
        ],
    )
    def test_scalars_of_numpy(self, rows: Any, expected: list[Any]) -> None:
        """A NumPy scalar is the number that it holds, and NA is missing."""
        assert NAMED.row(rows, 1) == expected

    def test_columns_of_a_table_have_names(self) -> None:
        """A table whose columns stand in another order is read by their names."""
        assert NAMED.row(pd.DataFrame({"b": [2.0], "a": [1.0]}), 0) == [1.0, 2.0]

    @pytest.mark.parametrize(
        "row", [[1], [1, 2, 3], [object(), 1], [[1], 2], b"ab", np.zeros((2, 2))], ids=repr
    )
    def test_wrong_shapes(self, row: Any) -> None:
        """A row that is not of the features is None: it is counted as dropped."""
        assert NAMED.row([row], 0) is None

    def test_not_finite(self) -> None:
        """NaN and infinities are values: drift must see them."""
        row = NAMED.row(np.array([[math.nan, math.inf]]), 0)

        assert row is not None
        assert math.isnan(row[0])
        assert row[1] == math.inf


JSONS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["a", "b", "instances", "inputs", "shape", "data", "outputs", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)
LAYOUTS = [
    NAMED,
    UNNAMED,
    V1,
    V2,
    DEEP,
    Layout((), protocol="v2"),
    Layout(("a",), "instances", "x"),
]


@pytest.mark.parametrize(
    "layout", LAYOUTS, ids=["named", "unnamed", "v1", "v2", "deep", "v2 unnamed", "one"]
)
@examples(max_examples=60, deadline=None)
@given(value=JSONS, key=st.sampled_from(["instances", "inputs", "outputs", "predictions", "data"]))
def test_any_json(layout: Layout, value: Any, key: str) -> None:
    """Whatever JSON is sent, counting and reading never raise."""
    for body in (value, {key: value}, {key: [value]}, {key: [{"shape": [1, 2], "data": value}]}):
        rows = layout.rows(body)
        count = layout.predictions(body)

        assert count is None or count >= 0
        if rows is not None:
            assert len(rows) >= 0
            read_rows = [layout.row(rows, index) for index in range(min(len(rows), 5))]
            width = len(layout.features)
            assert all(row is None or not width or len(row) == width for row in read_rows)
