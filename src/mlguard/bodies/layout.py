"""Where does one model's traffic hold rows and predictions, and how many?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeAlias

from pydantic_core import from_json

from mlguard.bodies.counts import Count, anywhere_in, count, count_list, is_distribution
from mlguard.bodies.described import EMPTY, NO_JSON, There, described
from mlguard.bodies.documents import (
    CONTAINERS,
    Spelling,
    all_at,
    at,
    column_at,
    decoded,
    is_dense,
    most_values,
    parse,
    parse_all,
    unpacked,
)
from mlguard.bodies.given import Given, given, predicted
from mlguard.bodies.rows import Columns, Matrix, Rows, list_table, pick, plain_row, read_row, table
from mlguard.bodies.shapes import Stated, state_rows, stated
from mlguard.bodies.survey import Survey, survey
from mlguard.bodies.tensors import are_plain, are_tensors, read_tensors, tensor_table
from mlguard.pointers import keys_of

_PROTOCOLS = {"v1": ("instances", "predictions"), "v2": ("inputs", "outputs")}


class BodyReading(NamedTuple):
    """What a request's body asks for.

    Attributes:
        rows: By the largest plausible reading of the bytes: what is reserved.
        least: By the smallest: what was surely asked. 0 where nothing could be read.
        table: The rows one by one, for sampling; None where there are none to be seen.
        found: Whether something stands at `inputs`.
        readable: Whether the body is JSON.
        there: What is there instead, where nothing stands at `inputs`.
    """

    rows: int
    least: int
    table: Rows | None
    found: bool
    readable: bool
    there: There | None = None


_JSON_IN_JSON = ("[", "{", '"')


class PassingBody(Protocol):
    """Counts a body while its handler reads it: one row is reserved for it."""

    def feed(self, chunk: bytes) -> None:
        """Look at some bytes that the handler reads."""
        ...

    def reading(self) -> BodyReading:
        """Tell what has passed."""
        ...


Answer: TypeAlias = tuple[Any, Any]
"""What was predicted of one row, and its scores, as they came."""

NOTHING = BodyReading(1, 0, None, False, False, EMPTY)


class Answered(NamedTuple):
    """What an answer holds.

    Attributes:
        rows: How many rows were predicted; None where the answer does not say.
        outputs: What stands at `outputs`; None where nothing does.
        scores: What stands at `scores`; None where nothing is to be read there.
        there: What is there instead, where nothing stands at `outputs`.
    """

    rows: int | None
    outputs: Any
    scores: Any = None
    there: There | None = None


class Layout:
    """Where one model's bodies hold rows and predictions.

    Args:
        features: Names of a row's fields, in order; empty where unknown.
        inputs: A place, None where no body is read.
        outputs: A place, or several of which the first is the predictions; None where no answer is
            read.
        protocol: "v1" or "v2" instead of both.
        scores: A place, or with "v2" the name of a tensor; None where none are read.
        shape: "auto", or what stands at `inputs`: "rows", one "row" or "columns".

    Attributes:
        source: Where the rows are that are no JSON: "form", "query", "files" or "csv"; else "".
        reads_body: Whether a request's body is read before its handler runs.
        passing: What counts a body while its handler reads it; None here.
    """

    source = ""
    reads_body = True
    passing: PassingBody | None = None

    def __init__(
        self,
        features: Sequence[str] = (),
        inputs: str | None = None,
        outputs: str | Sequence[str] | None = None,
        protocol: str | None = None,
        scores: str | None = None,
        shape: str = "auto",
    ) -> None:
        inputs, outputs = _PROTOCOLS[protocol] if protocol else (inputs, outputs)
        self._protocol = protocol
        self._said = {"inputs": inputs, "outputs": outputs}
        self.features = tuple(features)
        self._width = len(self.features)
        self._shape = None if shape == "auto" else shape
        self._inputs = None if inputs is None else keys_of(inputs)
        places = (outputs,) if isinstance(outputs, str) else outputs or ()
        first, *others = map(keys_of, places) if places else (None,)
        self._outputs, self._others = first, others
        self._tensors = protocol == "v2"
        self._scores = None if scores is None or self._tensors else keys_of(scores)
        self._tensor = scores
        self._spelling = Spelling(self._inputs or ())

    def said(self, side: str) -> str:
        """Write "inputs" or "outputs" as the settings do."""
        said = self._said[side]
        places = [said] if isinstance(said, str) else list(said or ())
        if self._protocol:
            return f'protocol = "{self._protocol}" ({side} = "{said}")'
        return f"{side} = {json.dumps(places[0] if len(places) == 1 else places)}"

    @property
    def reads_answers(self) -> bool:
        """Whether predictions are looked for in answers."""
        return self._outputs is not None

    def read(self, raw: bytes) -> BodyReading:
        """Count the rows of a request's body as the handler may that makes most of it.

        Readers of JSON differ in what they take, and in what they make of a key said twice; so do
        handlers in what they make of a list. Of all of them, the one that sees most rows counts.
        """
        keys = self._inputs
        if keys is None or not raw or raw.isspace():
            return NOTHING
        try:
            if is_dense(raw):
                return self._unreadable(raw)
            document = from_json(raw)
        except ValueError:  # other encodings than UTF-8, deeper than it likes, or none
            raw = unpacked(raw)
            try:
                document, raw = decoded(raw)
            except (ValueError, RecursionError):
                return self._unreadable(raw)
        is_once = self._spelling.is_once(raw)
        simple = self._read_simple(raw, at(document, keys), len(keys)) if is_once else None
        return simple or self._look_into(raw, document, is_once)

    def _read_simple(self, raw: bytes, value: Any, above: int) -> BodyReading | None:
        """Read what most clients send, where the bytes tell that there is no more to it."""
        if type(value) is not list or not value:
            return None
        if self._tensors:
            if not are_plain(value, raw, above):
                return None
            counted, table = read_tensors(value, self._width, None)
            return BodyReading(counted.rows, counted.least, table, True, True)
        if self._shape == "rows":
            return BodyReading(*state_rows(value, self._width), found=True, readable=True)
        if self._shape:
            return None
        simple = count_list(value, self._width, raw, above)
        if simple is None:
            return None
        return BodyReading(simple.rows, simple.least, list_table(value, self._width), True, True)

    def _unreadable(self, raw: bytes) -> BodyReading:
        # What follows the JSON of binary tensors is anything.
        most = max(most_values(raw), len(raw) if self._tensors else 0)
        return BodyReading(most, 0, None, False, False, NO_JSON)

    def _look_into(self, raw: bytes, document: Any, is_once: bool) -> BodyReading:
        keys = self._inputs or ()
        value = at(document, keys)
        seen = survey(value or document, self.features)
        if is_once and seen.tells_all(raw, len(keys) if value else 0):
            return self._reading(document, [(value, seen)], seen)
        document = parse_all(raw)
        if document is None:
            return self._unreadable(raw)
        said = [*all_at(document, keys), at(document, keys)]
        whole = seen if all(said) else survey(document, self.features)
        return self._reading(
            document, [(v, survey(v, self.features) if v else whole) for v in said], whole
        )

    def _reading(self, document: Any, said: list[tuple[Any, Survey]], whole: Survey) -> BodyReading:
        """Sum up what stands at `inputs`, or all that does where it is said more than once."""
        counts = [self._count(value, seen) for value, seen in said if value]
        if len(counts) < len(said):  # a handler that finds nothing may look elsewhere
            scalar = any(v is not None and type(v) not in CONTAINERS for v, _ in said)
            rows = max(anywhere_in(document, whole, self._width), scalar)
            counts.append(Count(rows, min(rows, 1)))
        rows, least = max(c.rows for c in counts), min(c.least for c in counts)
        if any(value is not None for value, _ in said):
            return BodyReading(rows, least, self._table(*said[-1]), found=True, readable=True)
        there = self._described(document, self._inputs or ())
        return BodyReading(rows, least, None, found=False, readable=True, there=there)

    def _described(self, document: Any, keys: Sequence[str]) -> There:
        there = described(document, keys)
        return there._replace(hint=None) if self._protocol else there

    def _stated(self, value: Any, seen: Survey) -> Stated | None:
        return stated(value, self._shape, self.features, seen) if self._shape else None

    def _count(self, value: Any, seen: Survey) -> Count:
        if self._tensors:
            return read_tensors(value, self._width, seen)[0]
        found = self._stated(value, seen)
        if found:
            return Count(found.rows, found.least)
        if not self._inputs and isinstance(value, str) and value.lstrip()[:1] in _JSON_IN_JSON:
            return Count(anywhere_in(value, seen, self._width), 1)
        return count(value, self._width, seen)

    def _table(self, value: Any, seen: Survey) -> Rows | None:
        if self._tensors:
            return tensor_table(value, self._width)
        found = self._stated(value, seen) if value else None
        return found.table if found else table(value, self.features)

    def answered(self, raw: bytes, asked: BodyReading) -> Answered:
        """Count the predictions in an answer to what was asked."""
        if self._outputs is None:
            return Answered(None, None)
        document = parse(raw)
        scores = None
        if self._tensors:
            outputs = at(document, self._outputs)
            found = tensor_table(outputs)
            rows = None if found is None else len(found)
        else:
            outputs = column_at(document, self._outputs)
            rows = self._predicted(outputs, asked)
            if self._scores is not None:
                scores = column_at(document, self._scores)
        for keys in self._others:
            more = self._predicted(column_at(document, keys), asked)
            rows = more if rows is None else max(rows, more or 0)
        if outputs is not None:
            return Answered(rows, outputs, scores)
        there = NO_JSON if document is None else self._described(document, self._outputs)
        return Answered(rows, outputs, scores, there)

    def _predicted(self, outputs: Any, asked: BodyReading) -> int | None:
        if self._shape == "row" and asked.rows == 1 and outputs is not None:
            return 1  # whatever is said of one record
        return _predicted(outputs, asked.rows)

    def each(self, predictions: Any, scores: Any, rows: int) -> list[Answer] | None:
        """Pair what was predicted of each row with its scores; None where there is no such thing.

        Args:
            predictions: As a handler gave them, or as they stand at `outputs`.
            scores: The same, None where there are none.
            rows: How many rows were asked.
        """
        predictions, scores = self._apart(predictions, scores)
        if predictions is None and scores is None:
            return None
        said = [None] * rows if predictions is None else _listed(predictions, rows)
        sure = [None] * rows if scores is None else _listed(scores, rows)
        return list(zip(said, sure, strict=True)) if len(said) == len(sure) == rows else None

    def one(self, predictions: Any, scores: Any, rows: int, index: int) -> Answer | None:
        """Do what `each` does for one row, without a look at the others where they are lists."""
        said, sure = self._apart(predictions, scores)
        if not (_is_plain(said, rows) and _is_plain(sure, rows)):
            found = self.each(predictions, scores, rows)
            return found[index] if found else None
        if said is None and sure is None:
            return None
        return None if said is None else said[index], None if sure is None else sure[index]

    def _apart(self, predictions: Any, scores: Any) -> tuple[Any, Any]:
        """Tell predictions from scores where both stand at one place."""
        if self._scores is not None and self._scores == self._outputs:
            return None, predictions if scores is None else scores
        if scores is not None or not self._tensors or not are_tensors(predictions):
            return predictions, scores
        told = [t for t in predictions if self._tensor and t.get("name") == self._tensor]
        others = [t for t in predictions if t not in told]
        return tensor_table(others[:1]), tensor_table(told)

    def given(self, rows: Any, number: int | None = None) -> Given:
        """See rows in what a handler gives, and takes for `number` where it says so.

        Raises:
            TypeError: Nothing that rows are seen in.
            ValueError: A number below zero.
        """
        return given(rows, self.features, number=number)

    def told(self, predictions: Any, asked: int) -> int | None:
        """Count the predictions that a handler tells of so many rows; None where unknown."""
        if self._shape == "row" and asked == 1 and predictions is not None:
            return 1
        return predicted(predictions, asked)

    def pick(self, rows: Any, index: int) -> Any:
        """Take one row as it came."""
        return pick(rows, index, self.features)

    def values(self, row: Any) -> tuple[list[Any] | None, str]:
        """Read a row as plain values in the features' order; None, and why, where it has none."""
        return read_row(row, self.features)

    def row(self, rows: Any, index: int) -> list[Any] | None:
        """Read one of several rows; None where its shape is wrong."""
        return plain_row(rows, index, self.features)


def _is_plain(values: Any, rows: int) -> bool:
    return values is None or (type(values) is list and len(values) == rows > 1)


def _listed(values: Any, rows: int) -> list[Any]:
    """List what was said of each row; of one row, it may stand alone."""
    if hasattr(values, "to_numpy"):  # of pandas
        values = values.to_numpy()
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, Columns | Matrix):
        return [values[n] for n in range(len(values))]
    if rows == 1 and not (isinstance(values, list | tuple) and len(values) == 1):
        return [values]
    return list(values) if isinstance(values, list | tuple) else []


def _predicted(outputs: Any, asked: int) -> int | None:
    """Count predictions; None where they might be fewer than were made."""
    if isinstance(outputs, list):
        return _predicted_list(outputs, asked)
    if isinstance(outputs, dict):
        lists = [_predicted_list(v, asked) for v in outputs.values() if isinstance(v, list)]
        if lists:
            most = max(lists)
            return most if most >= asked else None
    return 1 if asked == 1 and outputs is not None else None


def _predicted_list(outputs: list[Any], asked: int) -> int:
    number = len(outputs)
    if asked == 1 and is_distribution(outputs):
        return 1
    if number < asked and asked in _lengths_within(outputs):  # grouped by what they say
        return asked
    return number


def _lengths_within(outputs: list[Any]) -> set[int]:
    inner = chain(outputs, *(o.values() for o in outputs if isinstance(o, dict)))
    return {len(v) for v in inner if type(v) in CONTAINERS}
