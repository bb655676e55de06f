"""Does any handler predict more rows than the kit reserves?

Bodies of every kind go through the readers that handlers use and through what handlers make of
them. Whatever predicts without raising must have been reserved.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
import ujson
from hypothesis import HealthCheck, example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json

from mlguard.bodies import Layout

FEATURES = ("a", "b", "c", "d")
WIDTHS = [0, 1, 2, 4]
BOUNDED = examples(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
)
Handler = Callable[[Any, int], int]


def first_wins(raw: bytes) -> Any:
    """Read JSON as the readers do that keep the first value of a key."""
    return json.loads(raw, object_pairs_hook=lambda pairs: dict(reversed(pairs)))


def as_text(raw: bytes) -> Any:
    return json.loads(raw.decode("utf-8", "replace"))


def unzipped(raw: bytes) -> Any:
    return json.loads(zlib.decompress(raw, wbits=zlib.MAX_WBITS | 32))


def json_in_json(raw: bytes) -> Any:
    return json.loads(json.loads(raw))


READERS: dict[str, Callable[[bytes], Any]] = {
    "json": json.loads,
    "orjson": orjson.loads,
    "ujson": ujson.loads,
    "pydantic": from_json,
    "text": as_text,
    "first wins": first_wins,
    "unzipped": unzipped,
    "json in json": json_in_json,
}


class ListsBody(BaseModel):
    instances: list[list[float]]


class FlatBody(BaseModel):
    instances: list[float | str]


def whole_bodies(raw: bytes, width: int) -> Iterator[int]:
    """Predict as FastAPI handlers with a body model do."""
    yield len(ListsBody.model_validate_json(raw).instances)
    if width <= 1:
        yield len(FlatBody.model_validate_json(raw).instances)


LISTS = TypeAdapter(list[list[float]])
OBJECTS = TypeAdapter(list[dict[str, Any]])
COLUMNS = TypeAdapter(dict[str, list[Any]])


def one_by_one(rows: Any, width: int) -> int:
    """Predict each list or object of a list."""
    if not isinstance(rows, list):
        raise TypeError
    if width > 1 and not all(isinstance(row, list | dict) for row in rows):
        raise TypeError
    return len(rows)


def reshaped(rows: Any, width: int) -> int:
    return len(np.asarray(rows, dtype=float).reshape(-1, width or len(rows[0])))


def as_array(rows: Any, width: int) -> int:
    array = np.asarray(rows, dtype=float)
    return len(array if array.ndim > 1 else array.reshape(-1, width or 1))


def nested_reshaped(rows: Any, width: int) -> int:
    """Spread what each object holds over rows."""
    return sum(len(np.asarray(row["data"], dtype=float).reshape(-1, width)) for row in rows)


def frame(rows: Any, width: int) -> int:
    if isinstance(rows, list):
        names = FEATURES[:width] if width and not isinstance(rows[0], dict) else None
        return len(pd.DataFrame(rows, columns=names))
    return len(pd.DataFrame(rows))


def split_frame(rows: Any, width: int) -> int:
    return len(pd.DataFrame(rows["data"], columns=rows["columns"]))


def rows_by_name(rows: Any, width: int) -> int:
    if width != 1 and not any(isinstance(row, list | dict) for row in rows.values()):
        raise TypeError  # one row
    if set(rows) <= set(FEATURES[:width]):
        raise TypeError  # columns
    table = pd.DataFrame.from_dict(rows, orient="index")
    return len(table) if len(table.columns) else 0


def columns(rows: Any, width: int) -> int:
    return max(map(len, COLUMNS.validate_python(rows).values()))


def csv_lines(rows: Any, width: int) -> int:
    if width != 4:  # elsewhere than at `inputs` a text is one value: docs/rows.md
        raise TypeError
    lines = [line.split(",") for line in (rows.split("\n") if isinstance(rows, str) else rows)]
    return len(np.asarray(lines, dtype=float).reshape(-1, width))


HANDLERS: list[Handler] = [
    one_by_one,
    lambda rows, width: len(LISTS.validate_python(rows)),
    lambda rows, width: len(OBJECTS.validate_python(rows)),
    as_array,
    frame,
    split_frame,
    columns,
    rows_by_name,
    csv_lines,
]
WITH_WIDTH: list[Handler] = [reshaped, nested_reshaped]


def tensors(rows: Any, width: int) -> Iterator[int]:
    """Predict as handlers of the Open Inference Protocol do."""
    first = np.asarray(rows[0]["data"], dtype=float)
    yield len(first.reshape(rows[0]["shape"]))
    if width:
        yield len(first.reshape(-1, width))
    yield len(pd.DataFrame({t["name"]: np.asarray(t["data"]).reshape(t["shape"]) for t in rows}))
    if width > 1:
        yield len(pd.DataFrame({t["name"]: t["data"] for t in rows}))


def predictions(raw: bytes, keys: tuple[str, ...], width: int, protocol: str | None) -> set[int]:
    """Collect how many rows each of the handlers predicts, those that do."""
    predicted: set[int] = set()
    if keys == ("instances",) and not protocol:
        predicted.update(tried(lambda: list(whole_bodies(raw, width))))
    for rows in distinct(read_at(raw, keys)):
        predicted.update(tried(lambda rows=rows: all_of(rows, width, protocol)))
    return predicted


def read_at(raw: bytes, keys: tuple[str, ...]) -> Iterator[Any]:
    for reader in READERS.values():
        yield from tried(lambda reader=reader: [looked_up(reader(raw), keys)])


def distinct(values: Iterator[Any]) -> list[Any]:
    """Leave out what another reader sees as well."""
    return list({repr(value): value for value in values}.values())


def looked_up(body: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        body = body[int(key) if isinstance(body, list) else key]
    return body


def all_of(rows: Any, width: int, protocol: str | None) -> list[int]:
    if protocol == "v2":
        return list(tensors(rows, width))
    handlers = HANDLERS + WITH_WIDTH if width else HANDLERS
    return [n for h in handlers for n in tried(lambda h=h: [h(rows, width)])]


def tried(handler: Callable[[], list[Any]]) -> list[Any]:
    """Return what a handler makes of a request; nothing where it fails, whatever it raises."""
    try:
        return handler()
    except Exception:  # noqa: BLE001
        return []


SCALARS = st.sampled_from(
    ["0", "1", "2.5", "-3e2", "null", "true", '"x"', '"1,2,3,4"', '"a]b"', '"\\u00e9"', '"\\""']
)
ODD = st.sampled_from(
    ["01", "NaN", "-Infinity", "1e999", "9" * 20, '"a\nb"', '"\\ud800"', "1.", '"é"', "+1", ".5"]
)
NUMBERS = st.sampled_from(["0", "1", "2.5", "-3e2", "7"])
KEYS = st.sampled_from(
    ["instances", "inst\\u0061nces", "inputs", "data", "rows", "a", "b", "shape", "name", "0", "1"]
)
SPACE = st.sampled_from(["", "", "", " ", "\n", "\r\n\t"])


def written_list(items: list[str], space: str) -> str:
    return f"[{space}{f',{space}'.join(items)}]"


def written_object(pairs: list[tuple[str, str]], space: str) -> str:
    return "{" + ",".join(f'{space}"{key}":{space}{value}' for key, value in pairs) + "}"


def lists(items: st.SearchStrategy[str], most: int) -> st.SearchStrategy[str]:
    return st.builds(written_list, st.lists(items, max_size=most), SPACE)


def objects(items: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.builds(written_object, st.lists(st.tuples(KEYS, items), max_size=5), SPACE)


@st.composite
def batches(draw: st.DrawFn) -> str:
    """Draw what looks like rows: lists of a width, wide rows, objects, columns, tensors."""
    width, number = draw(st.sampled_from([1, 2, 3, 4, 8, 40])), draw(st.integers(0, 12))
    row = written_list([draw(NUMBERS)] * width, "")
    one = written_object([(name, draw(NUMBERS)) for name in FEATURES[:width]], "")
    flat = written_list(["1"] * (number * width), "")
    column = written_list([draw(SCALARS)] * number, draw(SPACE))
    shape = draw(st.sampled_from([f"[{number},{width}]", f"[1,{number * width}]", "[-1,2]", "[]"]))
    tensor = written_object([("name", '"a"'), ("shape", shape), ("data", flat)], "")
    other = written_object([("name", '"b"'), ("shape", f"[{number}]"), ("data", column)], "")
    names = draw(st.lists(KEYS, max_size=4))
    series = written_object([(str(draw(st.integers(0, 9))), "1") for _ in range(number)], "")
    return draw(
        st.sampled_from(
            [
                written_list([row] * number, ""),
                written_list([row] * number + [one, "null"], ""),
                written_list([one] * number, ""),
                written_list([written_object([("data", flat)], "")] * 2, ""),
                flat,
                written_list([flat], ""),
                written_list([written_list([row] * number, "")] * 2, ""),
                written_object([(name, column) for name in names], ""),
                written_object([("a", column), ("b", "1"), ("b", flat)], ""),
                written_object([("a", series), ("b", series)], ""),
                written_object(
                    [("columns", '["a"]'), ("data", written_list([row] * number, ""))], ""
                ),
                written_object([(str(n), row) for n in range(number)], ""),
                written_list([tensor], ""),
                written_list([tensor, other], ""),
                json.dumps("\n".join([",".join("1" * width)] * number)),
            ]
        )
    )


TREES = st.recursive(SCALARS | ODD, lambda inner: lists(inner, 6) | objects(inner), max_leaves=12)
VALUES = batches() | batches() | TREES
PATHS = [("instances",), ("data", "rows")]


@st.composite
def documents(draw: st.DrawFn, path: tuple[str, ...]) -> str:
    """Draw a body with something at the path, perhaps twice, perhaps nothing."""
    text = draw(VALUES)
    for depth, key in enumerate(reversed(path)):
        pairs = [(key, text)]
        for _ in range(draw(st.integers(0, 2))):
            pairs.insert(draw(st.integers(0, 1)), (draw(KEYS | st.just(key)), draw(VALUES)))
        if not draw(st.integers(0, 12)) and not depth:
            pairs.pop()
        text = (
            written_list([v for _, v in pairs], "")
            if key == "0"
            else written_object(pairs, draw(SPACE))
        )
    return text


def gzipped(text: str) -> bytes:
    return gzip.compress(text.encode("utf-8", "surrogatepass"))


ENCODINGS: list[Callable[[str], bytes]] = [
    lambda text: text.encode("utf-8", "surrogatepass"),
    lambda text: text.encode("utf-8-sig", "surrogatepass"),
    lambda text: text.encode("utf-16", "surrogatepass"),
    lambda text: text.encode("utf-16-be", "surrogatepass"),
    lambda text: text.encode("utf-32", "surrogatepass"),
    lambda text: text.encode("latin-1", "replace"),
    lambda text: json.dumps(text).encode(),
    gzipped,
]


@st.composite
def raws(draw: st.DrawFn, path: tuple[str, ...]) -> bytes:
    """Draw the bytes of a body, as clients and those who mean harm send them."""
    text = draw(documents(path))
    plain = draw(st.booleans())
    raw = ENCODINGS[0 if plain else draw(st.integers(0, len(ENCODINGS) - 1))](text)
    if draw(st.integers(0, 3)) or not raw:
        return raw
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(0, len(raw) - 1)))
        put = draw(st.sampled_from([b"", b",", b"]", b"[", b"0", b"\n", b"\xff", b'"', b"1,1"]))
        raw = raw[:at] + put + raw[at + draw(st.integers(0, 1)) :]
    return raw


def holds(raw: bytes, keys: tuple[str, ...], width: int, protocol: str | None = None) -> None:
    layout = Layout(FEATURES[:width], None if protocol else ".".join(keys), protocol=protocol)
    reading = layout.read(raw)
    most = max(predictions(raw, keys, width, protocol), default=0)

    assert reading.rows >= most, (reading, most)
    assert 0 <= reading.least <= reading.rows or not reading.rows


@pytest.mark.parametrize("width", WIDTHS, ids="{} features".format)
@BOUNDED
@given(raw=raws(("instances",)))
@example(raw=b'{"instances":[[1,2]],"instances":[[1,2],[1,2]],"instances":7}')
def test_no_handler_gets_more(width: int, raw: bytes) -> None:
    """Whatever is sent, no handler predicts more rows than are reserved."""
    holds(raw, ("instances",), width)


@pytest.mark.parametrize("width", [0, 4], ids="{} features".format)
@BOUNDED
@given(raw=raws(("data", "rows")))
def test_deeper(width: int, raw: bytes) -> None:
    """It is so below a path of keys, each of which may be said twice."""
    holds(raw, ("data", "rows"), width)


@pytest.mark.parametrize("width", WIDTHS, ids="{} features".format)
@BOUNDED
@given(raw=raws(()))
def test_the_whole_document(width: int, raw: bytes) -> None:
    """It is so where the document itself is the rows."""
    holds(raw, (), width)


@pytest.mark.parametrize("width", [0, 2], ids="{} features".format)
@BOUNDED
@given(raw=raws(("inputs", "0", "data")))
def test_below_an_index(width: int, raw: bytes) -> None:
    """It is so below an index, whatever else the list holds."""
    holds(raw, ("inputs", "0", "data"), width)


@pytest.mark.parametrize("width", [0, 1, 2], ids="{} features".format)
@BOUNDED
@given(raw=raws(("inputs",)))
def test_tensors(width: int, raw: bytes) -> None:
    """It is so for tensors, whatever their shapes claim."""
    holds(raw, ("inputs",), width, "v2")


@pytest.mark.parametrize("other", ["rows", "inputs", "data", None], ids=str)
@BOUNDED
@given(raw=raws(("inputs",)) | raws(("data", "rows")))
def test_a_handler_that_looks_elsewhere(other: str | None, raw: bytes) -> None:
    """Where nothing stands at `inputs`, a handler may read anything of the body."""
    reading = Layout(FEATURES[:2], "nothing.here").read(raw)
    keys = () if other is None else (other,)

    assert reading.rows >= max(predictions(raw, keys, 2, None), default=0)
