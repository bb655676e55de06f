"""Where are the rows in what is no JSON: a form, a query, uploaded files, CSV?"""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard.bodies import BodyReading, SourceLayout
from mlguard.bodies.parts import LONGEST_VALUE, MOST_FIELDS, PassingParts
from mlguard.bodies.texts import category, number
from mlguard.drift.values import to_number

NAMES = ("a", "b")
READERS = {"a": number, "b": number}
URLENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data; boundary=XYZ"


def layout(source: str, shape: str = "auto", *, features: tuple[str, ...] = NAMES) -> SourceLayout:
    return SourceLayout(source, features, shape=shape, readers=READERS)


def rows_of(layout: SourceLayout, reading: BodyReading) -> list[Any]:
    """Return all rows, as the drift check would get them."""
    rows = reading.table
    return [] if rows is None else [layout.values(rows[n])[0] for n in range(len(rows))]


def multipart(*parts: str, end: str = "--XYZ--\r\n") -> bytes:
    """Write parts, each a disposition's parameters and a value after a colon."""
    text = ""
    for part in parts:
        said, _, value = part.partition(":")
        text += f"--XYZ\r\nContent-Disposition: form-data; {said}\r\n\r\n{value}\r\n"
    return (text + end).encode()


def passed(raw: bytes, source: str = "files", size: int = 7, said: str = MULTIPART) -> BodyReading:
    """Let a body pass bit by bit."""
    passing = layout(source).request(said, "").passing
    assert passing is not None
    for start in range(0, len(raw), size):
        passing.feed(raw[start : start + size])
    return passing.reading()


class TestForms:
    @pytest.mark.parametrize(
        ("text", "most", "expected"),
        [
            pytest.param("a=1&b=2", 1, [[1.0, 2.0]], id="one row"),
            pytest.param("a=1&b=2&a=3&b=4", 2, [[1.0, 2.0], [3.0, 4.0]], id="columns"),
            pytest.param("b=2&token=x&a=1", 1, [[1.0, 2.0]], id="other fields"),
            pytest.param("a=1&a=3&b=2", 2, [[1.0, None], [3.0, None]], id="ragged"),
            pytest.param("a=&b=+2.5+", 1, [[None, 2.5]], id="a blank"),
            pytest.param("a=%31&b=2%2e5", 1, [[1.0, 2.5]], id="escaped"),
            pytest.param("a=1;a=2;a=3", 3, [["1;a=2;a=3", None]], id="another separator"),
            pytest.param("x=1", 1, [None], id="no feature"),
        ],
    )
    def test_read(self, text: str, most: int, expected: Any) -> None:
        """A name that repeats is a row each time; texts are read as numbers."""
        form = layout("form")
        for reading in (form.read_as(text.encode(), URLENCODED), form.read_pairs(text)):
            assert (reading.rows, rows_of(form, reading)) == (most, expected)

    def test_one_row(self) -> None:
        """Where one row is stated, choices that repeat are one row's, unless they are features."""
        chosen = "tags=x&tags=y&a=1&b=2"

        assert layout("form", "row").read_pairs(chosen).rows == 1
        assert layout("form", "row").read_pairs("a=1&a=2&b=1&b=2").rows == 2

    def test_a_json_body(self) -> None:
        """A handler that takes JSON as well gets no more rows than are counted."""
        raw = json.dumps([[1, 2]] * 500).encode()
        reading = layout("form").read_as(raw, "application/json")

        assert (reading.rows, reading.found) == (500, False)

    @pytest.mark.parametrize("text", ["a&" * 500_000, "a=1;" * 300_000], ids=["&", ";"])
    def test_no_bombs(self, text: str) -> None:
        """A form of more fields than anybody takes is counted, and not read."""
        started = time.thread_time()
        reading = layout("form").read_as(text.encode(), URLENCODED)

        assert time.thread_time() - started < 1
        assert reading.rows > 100_000
        assert not reading.readable


class TestCsv:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            pytest.param("a,b\n1,2\n3,4\n", [[1.0, 2.0], [3.0, 4.0]], id="header"),
            pytest.param("1,2\n3,4", [[1.0, 2.0], [3.0, 4.0]], id="no header"),
            pytest.param("b;a\r\n2;1\r\n", [[1.0, 2.0]], id="semicolons"),
            pytest.param("a\tb\r1\t2\r", [[1.0, 2.0]], id="tabs and old line ends"),
            pytest.param("\ufeffa,b\n1,2\n\n", [[1.0, 2.0]], id="a mark and a blank line"),
            pytest.param('"a","b"\n"1","2"', [[1.0, 2.0]], id="quotes"),
            pytest.param("id,a,b\n7,1,2", [[1.0, 2.0]], id="another column"),
            pytest.param("a,b\n1,2,3", [None], id="too many values"),
            pytest.param("a,b\n,x", [[None, "x"]], id="no number"),
            pytest.param("a,b\n", [], id="a header alone"),
        ],
    )
    def test_read(self, text: str, expected: Any) -> None:
        """Lines are rows, by the names of the header or in order."""
        csv = layout("csv")
        reading = csv.read_as(text.encode(), "text/csv")

        assert rows_of(csv, reading) == expected
        assert reading.rows >= len(expected)
        assert reading.least == len(expected)

    @pytest.mark.parametrize(
        ("text", "most", "least"),
        [
            pytest.param('x,y\n"1\n2\n3",4\n', 4, 2, id="lines within quotes"),
            pytest.param("1,2,3,4,5,6\n", 3, 1, id="values to be reshaped"),
            pytest.param("1;2\n3;4", 2, 2, id="another delimiter"),
        ],
    )
    def test_by_the_largest_reading(self, text: str, most: int, least: int) -> None:
        """What other readers of CSV would see as more rows counts as more."""
        reading = layout("csv").read_as(text.encode(), "text/csv")

        assert (reading.rows, reading.least) == (most, least)

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
    def test_encodings(self, encoding: str) -> None:
        """What begins with a mark is read by it."""
        csv = layout("csv")

        assert rows_of(csv, csv.read_as("a,b\n1,2".encode(encoding), "text/csv")) == [[1.0, 2.0]]

    def test_stated_rows(self) -> None:
        """Where rows are stated, a line is a row."""
        assert layout("csv", "rows").read_as(b"1,2,3,4,5,6\n", "text/csv").rows == 1


class TestParts:
    @pytest.mark.parametrize("size", [1, 7, 10_000])
    @pytest.mark.parametrize(
        ("parts", "rows"),
        [
            pytest.param(['name="f"; filename="a.png":x'] * 3, 3, id="files"),
            pytest.param(['name="f"; filename="a.png":x', 'name="n":1'], 1, id="and a field"),
            pytest.param(['name="f"; filename=""'] * 2, 1, id="none chosen"),
            pytest.param(['name="f"; filename="":x'] * 2, 2, id="without names"),
            pytest.param(["name=f; FileName*=UTF-8''a:x"] * 2, 2, id="extended names"),
            pytest.param(['name="n":1'], 1, id="no file"),
        ],
    )
    def test_files(self, parts: list[str], rows: int, size: int) -> None:
        """Each file is a row, in whatever pieces it comes."""
        assert passed(multipart(*parts), size=size).rows == rows

    @pytest.mark.parametrize(
        "raw",
        [
            pytest.param(multipart(*['name="f"; filename="a":x'] * 9, end=""), id="no end"),
            pytest.param(
                multipart('name="f"; filename="a":' + "\n--XYZ\nContent-Disposition: x\n\n" * 9),
                id="parts in a part",
            ),
            pytest.param(multipart("x") * 9, id="after the end"),
            pytest.param(
                multipart(*['name="f"; filename="a":x'] * 9).replace(b"\r\n", b"\n"), id="line ends"
            ),
            pytest.param(b"junk" + multipart(*['name="f"; filename="a":x'] * 9), id="a preamble"),
        ],
    )
    def test_other_readers(self, raw: bytes) -> None:
        """Wherever the boundary stands, some reader may see a part: it counts."""
        assert passed(raw).rows >= 9

    @pytest.mark.parametrize(
        "said",
        [
            "multipart/form-data",
            "multipart/form-data; boundary=X; boundary=XYZ",
            "multipart/form-data; boundary*=UTF-8''XYZ",
            f"multipart/form-data; boundary={'X' * 9999}",
            'multipart/form-data; boundary=""',
        ],
        ids=["none", "two", "extended", "too long", "empty"],
    )
    def test_other_boundaries(self, said: str) -> None:
        """Where readers may differ in what the boundary is, all that may be one counts."""
        raw = multipart(*['name="f"; filename="a":x'] * 9)
        known = raw if "X" * 9999 not in said else raw.replace(b"XYZ", b"X" * 9999)

        assert passed(known, said=said).rows >= 9

    def test_fields(self) -> None:
        """A form's fields are read as those of any form."""
        form = layout("form")
        raw = multipart('name="a":1', 'name="b":2', 'name="f"; filename="x":' + "y" * 99)
        reading = passed(raw, "form")

        assert (reading.rows, rows_of(form, reading)) == (1, [[1.0, 2.0]])

    def test_nothing_of_a_body_is_kept(self) -> None:
        """However large and many its parts are, little of them is remembered."""
        parts = PassingParts(MULTIPART)
        for raw in [multipart(f'name="f":{"x" * 5000}', end="")] * (MOST_FIELDS + 5):
            parts.feed(raw)
        parts.feed(b"--XYZ--\r\n")

        assert len(parts.fields["f"]) == MOST_FIELDS
        assert len(parts.fields["f"][0] or "") == LONGEST_VALUE
        assert parts.beyond == 5

    def test_in_time(self) -> None:
        """A megabyte of one byte parts, or of one part, passes quickly."""
        for raw in (multipart("name=f:x" * 1) * 15_000, multipart("name=f:" + "\r\n-" * 333_000)):
            started = time.thread_time()
            passed(raw, size=65_536)

            assert time.thread_time() - started < 5

    @examples(max_examples=200, deadline=None)
    @given(raw=st.binary(max_size=200), size=st.integers(1, 50))
    def test_any_bytes(self, raw: bytes, size: int) -> None:
        """Whatever is sent, counting never raises."""
        for body in (raw, multipart('name="a":1', end="") + raw):
            for source in ("files", "form"):
                assert passed(body, source, size).rows >= 0


class TestTexts:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("5.1", 5.1),
            (" -3e2 ", -300.0),
            ("7", 7.0),
            ("", None),
            ("  ", None),
            ("true", True),
            ("False", False),
            ("on", True),
            ("wide", "wide"),
            ("1,5", "1,5"),
            ("1_000", "1_000"),
            (7, 7),
            (None, None),
        ],
        ids=repr,
    )
    def test_numbers(self, text: object, expected: object) -> None:
        """A text is the number that it spells; blank is missing, and the rest is strange."""
        assert number(text) == expected

    def test_not_a_number(self) -> None:
        """NaN is missing, and so is what spells no number."""
        assert all(value != value for value in (to_number(number("nan")), to_number("wide")))

    @pytest.mark.parametrize(
        ("known", "text", "expected"),
        [
            (["red", "blue"], "red", "red"),
            (["red", "blue"], " red ", "red"),
            (["red", "blue"], "green", "green"),
            (["red", "blue"], "", None),
            (["1", "0"], "true", True),
            (["true", "false"], "true", "true"),
            (["7", "8"], "7.0", 7.0),
            (["007"], "007", "007"),
            (["", "x"], "", ""),
        ],
        ids=repr,
    )
    def test_categories(self, known: list[str], text: str, expected: object) -> None:
        """A text is the category that training had: a text, a number or a truth."""
        assert category(known)(text) == expected


def test_values_by_the_reference() -> None:
    """Features that the reference does not know stay texts."""
    mixed = SourceLayout("form", ("a", "z"), readers={"a": number})

    assert rows_of(mixed, mixed.read_pairs(urlencode({"a": "1", "z": "2"}))) == [[1.0, "2"]]
