"""Where are the rows in a request, and the predictions in an answer?"""

from __future__ import annotations

import gzip
import json
import math
import time
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard.bodies import BodyReading, Layout, Rows, is_json, parse
from mlguard.messages import MAX_CATEGORY_LENGTH

NAMED = Layout(("a", "b"), "instances", "predictions")
UNNAMED = Layout((), "instances", "predictions")
V1 = Layout(("a", "b"), protocol="v1")
V2 = Layout(("a", "b"), protocol="v2")
DEEP = Layout(("a", "b"), "data.rows", "data.results")


def table(layout: Layout, body: Any) -> Rows | None:
    """Return the rows that are sampled from."""
    return layout.read(json.dumps(body).encode()).table


def read(layout: Layout, body: Any) -> list[list[Any] | None] | None:
    """Return all rows, as the drift check would get them."""
    rows = table(layout, body)
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
        assert NAMED.read(body(instances)).rows == expected


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


def body(instances: Any, **others: Any) -> bytes:
    return json.dumps({"instances": instances, **others}).encode()


IRIS = Layout(("a", "b", "c", "d"), "instances", "predictions")
TEXTS = Layout(("text",), "instances", "predictions")
ROW = [5.1, 3.5, 1.4, 0.2]
IMAGE = [[0, 1, 0, 1]] * 4


class TestCounting:
    @pytest.mark.parametrize(
        ("layout", "raw", "rows", "least"),
        [
            pytest.param(IRIS, body([ROW] * 9), 9, 9, id="rows of the features"),
            pytest.param(IRIS, body(ROW), 1, 1, id="one flat row"),
            pytest.param(IRIS, body(ROW * 500), 500, 1, id="flat rows to be reshaped"),
            pytest.param(IRIS, body([ROW * 500]), 500, 1, id="500 rows in one"),
            pytest.param(IRIS, body([[ROW] * 500]), 500, 1, id="500 rows one deeper"),
            pytest.param(IRIS, body([{"data": ROW * 500}]), 500, 1, id="500 rows in an object"),
            pytest.param(IRIS, body([{"a": 1}] * 9), 9, 9, id="objects"),
            pytest.param(IRIS, body({"a": [1] * 9, "b": 2}), 9, 1, id="columns"),
            pytest.param(IRIS, body({"a": 1, "b": 2}), 1, 1, id="one object"),
            pytest.param(IRIS, body({n: [1] for n in "abcd"}), 1, 1, id="columns of one row"),
            pytest.param(
                IRIS, body({str(n): ROW for n in range(9)}), 9, 1, id="rows by their names"
            ),
            pytest.param(
                IRIS, body({"a": {"0": 1}, "b": {"1": 1}}), 2, 1, id="columns that name other rows"
            ),
            pytest.param(
                IRIS, body({"x": 0, "y": []}), 2, 1, id="rows by their names, one of them empty"
            ),
            pytest.param(IRIS, body([None, ROW]), 2, 1, id="a null before a row"),
            pytest.param(IRIS, body([]), 0, 0, id="no rows"),
            pytest.param(IRIS, body([[]] * 9), 9, 1, id="empty rows"),
            pytest.param(IRIS, body("1,2,3,4\n5,6,7,8"), 2, 1, id="CSV in a text"),
            pytest.param(IRIS, body(["1,2,3,4"] * 4), 4, 1, id="lines of CSV"),
            pytest.param(IRIS, body(7), 1, 1, id="a number"),
            pytest.param(UNNAMED, body(ROW), 4, 1, id="flat, unnamed"),
            pytest.param(UNNAMED, body([ROW] * 9), 9, 1, id="rows, unnamed"),
            pytest.param(UNNAMED, body(IMAGE), 4, 1, id="an image, unnamed"),
            pytest.param(UNNAMED, body({"image": IMAGE}), 4, 1, id="an object with nested lists"),
            pytest.param(
                UNNAMED, body({"r1": ROW, "r2": ROW}), 4, 1, id="columns or rows, unnamed"
            ),
            pytest.param(
                Layout([str(n) for n in range(16)], "instances"), body(IMAGE), 4, 1, id="an image"
            ),
            pytest.param(TEXTS, body(["one [", "two"]), 2, 2, id="texts"),
            pytest.param(TEXTS, body("one, two"), 1, 1, id="one text"),
            pytest.param(TEXTS, body([["one"], ["two"]]), 2, 2, id="texts as rows"),
            pytest.param(TEXTS, body({"id1": "one", "id2": "two"}), 2, 1, id="texts by name"),
            pytest.param(V1, body([[1, 2]] * 3), 3, 3, id="v1"),
            pytest.param(DEEP, b'{"data": {"rows": [[1, 2], [3, 4]]}}', 2, 2, id="deeper"),
        ],
    )
    def test_counted(self, layout: Layout, raw: bytes, rows: int, least: int) -> None:
        """Rows are counted by the largest plausible reading, and by the smallest."""
        reading = layout.read(raw)

        assert (reading.rows, reading.least) == (rows, least)
        assert reading.found
        assert reading.readable

    @pytest.mark.parametrize(
        ("raw", "rows"),
        [
            pytest.param(b'{"rows": [[1, 2, 3, 4], [1, 2, 3, 4]]}', 4, id="another key"),
            pytest.param(b"[[1, 2, 3, 4], [1, 2, 3, 4], [], [], []]", 5, id="a bare list"),
            pytest.param(b'{"instances": [], "rows": [[1], [2]]}', 2, id="an empty list first"),
            pytest.param(b'{"instances": null, "rows": [[1], [2]]}', 2, id="a null first"),
            pytest.param(b'{"sepal_length": 5.1, "sepal_width": 3.5}', 1, id="one row as the root"),
            pytest.param(b'{"a": [1, 2], "b": [3, 4]}', 2, id="columns as the root"),
            pytest.param(b"7", 1, id="a number"),
            pytest.param(b'"[[1,2,3,4],[1,2,3,4]]"', 8, id="JSON in JSON"),
            pytest.param(b'{"rows": [1, 2, 3], "rows": 7}', 3, id="another key said twice"),
        ],
    )
    def test_a_handler_may_look_elsewhere(self, raw: bytes, rows: int) -> None:
        """Where nothing stands at `inputs`, all that the body holds counts."""
        assert IRIS.read(raw).rows == rows

    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(b'{"instances":[[1,2,3,4]],"instances":%s}', id="last"),
            pytest.param(b'{"instances":%s,"instances":[[1,2,3,4]]}', id="first"),
            pytest.param(b'{"instances":%s,"instances":null}', id="before a null"),
            pytest.param(b'{"inst\\u0061nces":%s,"instances":[[1,2,3,4]]}', id="escaped"),
            pytest.param(b'{"INSTANCES":1,"instances":%s,"instances":7}', id="another case"),
        ],
    )
    def test_said_twice(self, raw: bytes) -> None:
        """Of a key that is said twice, readers take one or the other: the larger counts."""
        assert IRIS.read(raw % json.dumps([ROW] * 500).encode()).rows == 500

    def test_said_twice_within(self) -> None:
        """Neither a column, a tensor's data, nor a key above hides a longer one."""
        many = json.dumps([1] * 500).encode()
        above = b'{"data":{"rows":%s},"data":{"rows":[1,2]}}' % json.dumps([[1, 2]] * 500).encode()

        assert NAMED.read(b'{"instances":{"a":%s,"a":[1]}}' % many).rows == 500
        assert TEXTS.read(b'{"instances":0,"instances":[]}').rows == 1
        assert NAMED.read(b'{"instances":{"x":[],"y":1,"y":[]}}').rows == 2
        assert V2.read(b'{"inputs":[{"data":%s,"data":[1,2]}]}' % many).rows >= 250
        assert DEEP.read(above).rows == 500

    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(b"[" * 963 + body([ROW] * 500) + b"]" * 963, id="nested deep"),
            pytest.param(b"[" * 5000 + body([ROW] * 500) + b"]" * 5000, id="nested deeper"),
            pytest.param(body([ROW] * 500).replace(b"1.4", b"01", 1), id="a leading zero"),
            pytest.param(body([*([ROW] * 499), ["a"]]).replace(b"a", b"a\n"), id="a raw newline"),
            pytest.param(body([ROW] * 500).replace(b"1.4", b"NaN", 1), id="NaN"),
            pytest.param(body([ROW] * 500).replace(b"1.4", b"9" * 5000, 1), id="a huge number"),
            pytest.param(body([ROW] * 500).decode().encode("utf-16"), id="UTF-16"),
            pytest.param(body([ROW] * 500).decode().encode("utf-32-be"), id="UTF-32"),
            pytest.param(b"\xef\xbb\xbf" + body([ROW] * 500), id="a byte order mark"),
            pytest.param(body([ROW] * 500).decode().encode("cp037"), id="EBCDIC"),
            pytest.param(body([ROW] * 500) + b"x", id="something behind it"),
            pytest.param(gzip.compress(body([ROW] * 500)), id="packed"),
            pytest.param(gzip.compress(body([ROW] * 500))[:-4], id="packed, cut off"),
            pytest.param(gzip.compress(body([ROW] * 500_000)), id="packed too well"),
            pytest.param(b"".join(b"%s\n" % body([ROW]) for _ in range(500)), id="lines of JSON"),
        ],
    )
    def test_no_way_around(self, raw: bytes) -> None:
        """What the kit reads otherwise than a handler may, or not at all, counts as rows too."""
        assert IRIS.read(raw).rows >= 500

    def test_what_cannot_be_read_was_not_surely_asked(self) -> None:
        """It is charged by its bytes if the handler answers without saying how many rows."""
        assert IRIS.read(b"[1, 2, 3")[:5] == (3, 0, None, False, False)

    @pytest.mark.parametrize("raw", [b"", b" \n"], ids=["empty", "blank"])
    def test_nothing_sent(self, raw: bytes) -> None:
        """An empty body holds no rows."""
        assert IRIS.read(raw)[:5] == (1, 0, None, False, False)

    def test_nothing_is_read(self) -> None:
        """Without `inputs` no body is read."""
        assert Layout(("a",)).read(b"[1, 2]")[:5] == (1, 0, None, False, False)

    @pytest.mark.parametrize(
        ("layout", "raw"),
        [
            pytest.param(IRIS, b'{"instances":[' + b"[]," * 700_000 + b"[]]}", id="brackets"),
            pytest.param(IRIS, b"[" * 1_000_000, id="depth"),
            pytest.param(
                IRIS,
                b'{"instances":' + b'{"a":' * 150 + b"[" + b"[1,1]," * 90_000 + b"[]]" + b"}" * 151,
                id="depth above many",
            ),
            pytest.param(IRIS, b'{"instances":1' + b',"instances":null' * 60_000 + b"}", id="keys"),
            pytest.param(
                V2, b'{"inputs":[' + b'{"data":[1]},' * 60_000 + b"1]}", id="many tensors"
            ),
        ],
    )
    def test_no_bombs(self, layout: Layout, raw: bytes) -> None:
        """However a megabyte is written, it is read in time that grows with its bytes."""
        started = time.thread_time()

        layout.read(raw)

        assert time.thread_time() - started < 5

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            pytest.param(body([[1, 2], [3, 4]]), [[1, 2], [3, 4]], id="rows"),
            pytest.param(body([1, 2, 3, 4]), [[1, 2], [3, 4]], id="flat rows"),
            pytest.param(body([1, 2]), [[1, 2]], id="one flat row"),
            pytest.param(body({"b": [2, 4], "a": [1, 3]}), [[1, 2], [3, 4]], id="columns"),
            pytest.param(b'{"instances":[[9]],"instances":[[1,2]]}', [[1, 2]], id="said twice"),
        ],
    )
    def test_table(self, raw: bytes, expected: Any) -> None:
        """What was read is there row by row, to be sampled."""
        rows = NAMED.read(raw).table

        assert rows is not None
        assert [NAMED.row(rows, index) for index in range(len(rows))] == expected


def shaped(shape: str, *features: str, inputs: str = "x") -> Layout:
    return Layout(features, inputs, "y", shape=shape)


ABCD = ("a", "b", "c", "d")
BOX = {"box": [0, 0, 9, 9], "tags": ["a", "b"], "more": {"k": [1, 2, 3]}}


class TestPlaces:
    @pytest.mark.parametrize(
        ("place", "said", "expected"),
        [
            pytest.param("", [[1, 2], [3, 4]], [[1, 2], [3, 4]], id="the root is a list"),
            pytest.param("$", {"b": 2, "a": 1}, [[1, 2]], id="the root is one row"),
            pytest.param("", {"b": [2, 4], "a": [1, 3]}, [[1, 2], [3, 4]], id="columns"),
            pytest.param(
                "inputs.0.data", {"inputs": [{"data": [[1, 2]]}, {"data": 7}]}, [[1, 2]], id="index"
            ),
            pytest.param("/inputs/1", {"inputs": [7, [[1, 2]]]}, [[1, 2]], id="index by pointer"),
            pytest.param("/my.rows", {"my.rows": [[1, 2]]}, [[1, 2]], id="a key with a dot"),
            pytest.param("/0/x", {"0": {"x": [[1, 2]]}}, [[1, 2]], id="an index that is a key"),
            pytest.param("inputs.2", {"inputs": [[[1, 2]]]}, None, id="no such item"),
            pytest.param("inputs.00", {"inputs": [[[1, 2]]]}, None, id="no index"),
        ],
    )
    def test_rows(self, place: str, said: Any, expected: Any) -> None:
        """Rows are found at the root, below indexes and below keys with dots."""
        layout = Layout(("a", "b"), place)
        reading = layout.read(json.dumps(said).encode())

        assert reading.found == (expected is not None)
        assert read(layout, said) == expected
        assert (
            expected is None
            or (reading.rows, reading.least) == (len(expected), 1)
            or (reading.least == len(expected))
        )

    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(b'{"inputs":[{"data":%s,"data":[[1,2]]}]}', id="below an index"),
            pytest.param(b'{"inputs":[{"data":%s}],"inputs":[{"data":[[1,2]]}]}', id="above it"),
            pytest.param(b'{"inputs":[{"data":[[1,2]]}],"inputs":[{"data":%s}]}', id="the last"),
        ],
    )
    def test_said_twice(self, raw: bytes) -> None:
        """Of a key that is said twice around an index, the larger counts."""
        many = json.dumps([[1, 2]] * 500).encode()

        assert Layout(("a", "b"), "inputs.0.data").read(raw % many).rows == 500

    def test_said_twice_at_the_root(self) -> None:
        """A column said twice is as long as the longer one."""
        many = json.dumps([1] * 500).encode()

        assert Layout(("a", "b"), "").read(b'{"a":%s,"a":[1],"b":[2]}' % many).rows == 500


class TestStatedShapes:
    @pytest.mark.parametrize(
        ("layout", "value", "rows"),
        [
            pytest.param(shaped("row"), ROW, 1, id="row: a flat list"),
            pytest.param(shaped("row", *ABCD), ROW, 1, id="row: a flat list of the features"),
            pytest.param(shaped("row"), BOX, 1, id="row: an object that holds lists"),
            pytest.param(shaped("row"), [[[0, 1, 2]] * 28] * 28, 1, id="row: an image"),
            pytest.param(shaped("row"), "a text, with commas", 1, id="row: a text"),
            pytest.param(shaped("row", "text"), "a text, with commas", 1, id="row: a named text"),
            pytest.param(shaped("row", *ABCD), {"a": 1, "z": [1, 2]}, 1, id="row: by names"),
            pytest.param(shaped("row", *map(str, range(16))), IMAGE, 1, id="row: a named image"),
            pytest.param(shaped("row"), [{"a": 1}] * 1000, 1000, id="row: no list of objects"),
            pytest.param(shaped("row"), [[{"a": 1}] * 1000], 1000, id="row: nor one deeper"),
            pytest.param(shaped("row", *ABCD), [ROW] * 9, 9, id="row: no list of rows"),
            pytest.param(shaped("row", *ABCD), ROW * 9, 9, id="row: no flat list of more"),
            pytest.param(shaped("row", *ABCD), {n: [1] * 9 for n in ABCD}, 9, id="row: no columns"),
            pytest.param(shaped("row", *ABCD), {"r1": ROW, "r2": ROW}, 4, id="row: none by names"),
            pytest.param(shaped("row", *ABCD), "1,2,3,4\n" * 9, 10, id="row: no lines of CSV"),
            pytest.param(shaped("rows"), [BOX] * 3, 3, id="rows: objects that hold lists"),
            pytest.param(shaped("rows", *ABCD), [BOX] * 3, 3, id="rows: the same, named"),
            pytest.param(shaped("rows"), [[[0, 1, 2]] * 28] * 3, 3, id="rows: nested lists"),
            pytest.param(shaped("rows", *ABCD), [ROW] * 3, 3, id="rows: lists"),
            pytest.param(shaped("rows", *ABCD), [ROW * 500], 500, id="rows: 500 in one"),
            pytest.param(shaped("rows", *ABCD), [[ROW] * 500], 500, id="rows: 500 one deeper"),
            pytest.param(shaped("rows", "text"), ["a, b", "c"], 2, id="rows: texts"),
            pytest.param(shaped("rows"), {"a": [1] * 9}, 9, id="rows: columns are as they are"),
            pytest.param(shaped("columns"), {"a": [[1] * 9, [2] * 9]}, 2, id="columns: of lists"),
            pytest.param(shaped("columns", *ABCD), {"a": [1, 2], "b": 3}, 2, id="columns: ragged"),
            pytest.param(shaped("columns"), {"a": {"7": 1}, "b": {"8": 1}}, 2, id="columns: named"),
            pytest.param(shaped("columns"), {"a": 1}, 1, id="columns: scalars"),
            pytest.param(shaped("columns", *ABCD), [ROW] * 3, 3, id="columns: a list is a list"),
        ],
    )
    def test_counted(self, layout: Layout, value: Any, rows: int) -> None:
        """A stated shape holds, as long as what stands there can have it."""
        assert layout.read(json.dumps({"x": value}).encode()).rows == rows

    @pytest.mark.parametrize(
        ("layout", "value", "expected"),
        [
            pytest.param(shaped("row", *ABCD), ROW, [ROW], id="a flat list"),
            pytest.param(
                shaped("row", "a", "b"), {"b": 2, "a": 1, "z": [9]}, [[1, 2]], id="object"
            ),
            pytest.param(shaped("row"), ROW, [ROW], id="a flat list, unnamed"),
            pytest.param(shaped("row"), "a text", [["a text"]], id="a text"),
            pytest.param(shaped("row"), IMAGE, [None], id="an image is no row of values"),
            pytest.param(shaped("row", *map(str, range(16))), IMAGE, [[0, 1] * 8], id="named"),
            pytest.param(shaped("rows", "text"), ["a", "b"], [["a"], ["b"]], id="texts"),
            pytest.param(
                shaped("columns", "a", "b"),
                {"b": [2, 4], "a": [1, 3]},
                [[1, 2], [3, 4]],
                id="table",
            ),
        ],
    )
    def test_sampled(self, layout: Layout, value: Any, expected: Any) -> None:
        """What is sampled is the record, in the order of the features."""
        assert read(layout, {"x": value}) == expected

    @pytest.mark.parametrize(
        ("hidden", "rows"),
        [
            pytest.param(b'{"x":%s,"x":{"a":1}}', 500, id="the place"),
            pytest.param(b'{"x":{"a":%s,"a":1}}', 500, id="a feature"),
        ],
    )
    @pytest.mark.parametrize("shape", ["row", "columns"])
    def test_said_twice(self, shape: str, hidden: bytes, rows: int) -> None:
        """A stated shape hides no rows behind a key that is said twice."""
        many = json.dumps([{"a": 1}] * rows).encode()

        assert shaped(shape, "a", "b").read(hidden % many).rows >= rows

    @pytest.mark.parametrize(
        "answer",
        [
            pytest.param(0.73, id="a number"),
            pytest.param([0.0, 1.0, 0.0], id="probabilities"),
            pytest.param([{"box": [1, 2]}, {"box": [3, 4]}], id="what was found in an image"),
        ],
    )
    def test_answers_to_one_record(self, answer: Any) -> None:
        """Whatever is said of one record is one prediction."""
        layout = shaped("row")
        reading = layout.read(b'{"x": {"a": 1}}')

        assert layout.answered(json.dumps({"y": answer}).encode(), reading).rows == 1


class TestWhatIsThere:
    @pytest.mark.parametrize(
        ("place", "said", "text", "hint"),
        [
            pytest.param(
                "instances",
                {"sepal_length": 5.1, "sepal_width": 3.5},
                "an object with sepal_length, sepal_width",
                "",
                id="one row as the root",
            ),
            pytest.param("instances", [[1, 2]], "a list", "", id="a list as the root"),
            pytest.param(
                "rows",
                {"id": 7, "data": [[1]]},
                "an object with id, data (a list)",
                "data",
                id="another key",
            ),
            pytest.param(
                "rows",
                {"my.data": [[1]], "n": 1},
                "an object with my.data (a list), n",
                "/my.data",
                id="a key with a dot",
            ),
            pytest.param(
                "data.rows",
                {"data": {"row": [1], "n": 1}},
                "an object with row (a list), n",
                "data.row",
                id="deeper",
            ),
            pytest.param(
                "x", {str(n): 1 for n in range(9)}, "an object with 0, 1, 2, 3, 4, …", "", id="many"
            ),
            pytest.param("x", {"a\nb": 1, "é" * 99: 1}, None, "", id="keys of strangers"),
            pytest.param("x", 7, "a number", None, id="a number"),
            pytest.param("x", {}, "an object without keys", None, id="no keys"),
        ],
    )
    def test_told(self, place: str, said: Any, text: str | None, hint: str | None) -> None:
        """What stands there instead is told by keys and kinds, with what to write."""
        there = Layout((), place).read(json.dumps(said).encode()).there

        assert there is not None
        assert there.hint == hint
        assert there.text.isprintable()
        assert text is None or there.text == text
        assert len(there.text) < 400


def asked(rows: int, least: int = 1) -> BodyReading:
    return BodyReading(rows, least, None, True, True)


class TestAnswers:
    @pytest.mark.parametrize(
        ("predictions", "rows", "expected"),
        [
            pytest.param([0, 1, 1], 3, 3, id="one a row"),
            pytest.param([0], 4, 1, id="fewer than were reserved"),
            pytest.param([0, 1, 1], 1, 3, id="more than were seen"),
            pytest.param([0.1, 0.2, 0.7], 1, 1, id="probabilities of one row"),
            pytest.param([0.1, 0.2, 0.7], 3, 3, id="probabilities of three rows"),
            pytest.param([0, 0, 1], 1, 3, id="labels that sum to one"),
            pytest.param([0.0, 0.0, 1.0], 1, 3, id="values that sum to one"),
            pytest.param([1.5, -0.2, -0.3], 1, 3, id="values, one negative"),
            pytest.param([[0.1, 0.9]] * 3, 3, 3, id="probabilities a row"),
            pytest.param([[0] * 500], 500, 500, id="all in one list"),
            pytest.param([{"labels": [0] * 500}], 500, 500, id="all in one object"),
            pytest.param([[0.1, 0.2, 0.7]], 4, 1, id="one image of four rows"),
            pytest.param([], 3, 0, id="none"),
            pytest.param({"label": [0] * 3, "score": [0.5] * 3}, 3, 3, id="columns"),
            pytest.param({"label": [0] * 9}, 1, 9, id="columns of more"),
            pytest.param({"label": [0]}, 3, None, id="columns of fewer"),
            pytest.param({"label": 1, "scores": [0.3, 0.7]}, 1, 1, id="one object"),
            pytest.param({"label": 1}, 1, 1, id="one object of scalars"),
            pytest.param({"label": 1}, 3, None, id="one object for many"),
            pytest.param("setosa", 1, 1, id="one text"),
            pytest.param(0.5, 3, None, id="one number for many"),
            pytest.param(None, 1, None, id="null"),
        ],
    )
    def test_counted(self, predictions: Any, rows: int, expected: int | None) -> None:
        """Predictions are counted where the answer says how many they are, never too few."""
        raw = json.dumps({"predictions": predictions}).encode()

        assert NAMED.answered(raw, asked(rows))[:3] == (expected, predictions, None)

    @pytest.mark.parametrize("raw", [b"", b"{", b"[1]", b'{"other": [1]}'], ids=repr)
    def test_not_there(self, raw: bytes) -> None:
        """An answer without them says nothing."""
        assert NAMED.answered(raw, asked(1))[:3] == (None, None, None)

    def test_not_looked_for(self) -> None:
        """Without `outputs` no answer is read."""
        assert not Layout(("a",), "x").reads_answers
        assert Layout(("a",), "x").answered(b"{}", asked(1))[:3] == (None, None, None)

    @pytest.mark.parametrize(
        ("outputs", "answer", "rows", "predictions"),
        [
            pytest.param("", 0.73, 1, 0.73, id="a number as the root"),
            pytest.param("", [0, 1, 1], 3, [0, 1, 1], id="a flat list as the root"),
            pytest.param(
                "", {"label": "a", "score": 0.9}, 1, {"label": "a", "score": 0.9}, id="one"
            ),
            pytest.param("result.0.label", {"result": [{"label": "a"}]}, 1, "a", id="an index"),
            pytest.param("rows.label", {"rows": [{"label": "a"}] * 3}, 3, ["a"] * 3, id="of each"),
            pytest.param("label", [{"label": "a"}] * 3, 3, ["a"] * 3, id="of each at the root"),
            pytest.param(
                ("label", "score"), {"label": "a", "score": 0.9}, 1, "a", id="several, of one row"
            ),
            pytest.param(
                ("label", "score"), {"label": [1] * 3, "score": [0.5] * 4}, 4, [1] * 3, id="several"
            ),
            pytest.param(("label", "score"), {"score": [0.5] * 3}, 3, None, id="one of several"),
        ],
    )
    def test_places(self, outputs: Any, answer: Any, rows: int, predictions: Any) -> None:
        """Predictions are found at the root, of each entry of a list, under several keys."""
        found = Layout((), "x", outputs).answered(json.dumps(answer).encode(), asked(1))

        assert found[:2] == (rows, predictions)

    def test_tensors(self) -> None:
        """Tensors of an answer are counted by their shapes."""
        outputs = [{"name": "y", "shape": [3, 2], "data": [0.5] * 6}]
        raw = json.dumps({"outputs": outputs}).encode()

        assert V2.answered(raw, asked(3))[:3] == (3, outputs, None)


@pytest.mark.parametrize(
    ("media_type", "expected"),
    [("application/json; charset=utf-8", True), ("application/x+JSON", True), ("text/json", False)],
    ids=["with parameters", "a suffix", "text"],
)
def test_json_by_its_type(media_type: str, expected: bool) -> None:
    """JSON is known by its media type."""
    assert is_json(media_type) == expected


class TestTensors:
    @pytest.mark.parametrize(
        ("layout", "tensors", "rows"),
        [
            pytest.param(V2, [{"shape": [1, 2000], "data": [0] * 2000}], 1000, id="a wide shape"),
            pytest.param(
                V2, [{"shape": [1, 9], "data": [0] * 9}] * 2, 9, id="columns with wide shapes"
            ),
            pytest.param(V2, [{"shape": [9, 2], "data": "A" * 96}], 9, id="data of text"),
            pytest.param(V2, [{"shape": [10**9], "data": "AA"}], 2, id="data of a short text"),
            pytest.param(V2, [{"shape": "x", "data": "AA"}], 1, id="data of text, no shape"),
            pytest.param(V2, [[1, 2]] * 9, 9, id="lists where tensors are"),
            pytest.param(V2, {"data": [1] * 9}, 9, id="an object where tensors are"),
            pytest.param(V2, [{"data": [1, 2]}] * 2000, 2000, id="too many to be columns"),
            pytest.param(
                Layout((), protocol="v2"), [{"shape": [2, 4], "data": ROW * 2}], 2, id="unnamed"
            ),
        ],
    )
    def test_counted(self, layout: Layout, tensors: Any, rows: int) -> None:
        """A shape is a client's word: the largest plausible reading counts."""
        assert layout.read(json.dumps({"inputs": tensors}).encode()).rows == rows

    def test_binary_data_counts(self) -> None:
        """What follows the JSON of binary tensors may be values of one byte."""
        raw = b'{"inputs":[{"name":"x","shape":[500,2],"parameters":{"size":1000}}]}' + bytes(1000)

        assert V2.read(raw).rows >= 500

    @pytest.mark.parametrize(
        "shape", [[1] + [9] * 100_000, [1, 10**4000, 10**4000], [10**4000, 2], [1] * 17], ids=len
    )
    def test_shapes_are_no_bombs(self, shape: list[int]) -> None:
        """However a shape is written, reading it is quick and no row is without a value."""
        rows = table(V2, {"inputs": [{"shape": shape, "data": [1, 2, 3]}]})

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
        assert V2.read(json.dumps({"inputs": inputs}).encode()).rows >= expected

    def test_a_table_as_pandas_writes_it(self) -> None:
        """Columns may be mappings from row names."""
        columns = {"a": {"0": 1, "1": 2}, "b": {"0": 3, "1": 4}}

        assert read(NAMED, {"instances": columns}) == [[1, 3], [2, 4]]

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
        assert V2.answered(json.dumps({"outputs": outputs}).encode(), asked(3)).rows == expected

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
        assert V2.read(json.dumps({"inputs": [tensor]}).encode()).rows == 1000


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
        "row",
        [
            pytest.param([1], id="too short"),
            pytest.param([1, 2, 3], id="too long"),
            pytest.param([object(), 1], id="an object of Python"),
            pytest.param([[1], 2], id="nested"),
            pytest.param([{1}, 2], id="a set"),
            pytest.param(b"ab", id="bytes"),
            pytest.param(np.zeros((2, 2)), id="matrix"),
        ],
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
    for said in (value, {key: value}, {key: [value]}, {key: [{"shape": [1, 2], "data": value}]}):
        reading = layout.read(json.dumps(said).encode())
        answered = layout.answered(json.dumps(said).encode(), reading)
        rows = reading.table

        assert 0 <= reading.least <= reading.rows
        assert answered.rows is None or answered.rows >= 0
        if rows is not None:
            assert len(rows) >= 0
            read_rows = [layout.row(rows, index) for index in range(min(len(rows), 5))]
            width = len(layout.features)
            assert all(row is None or not width or len(row) == width for row in read_rows)
