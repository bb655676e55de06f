"""Where are the rows in what is no JSON: a form, a query, uploaded files, CSV?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qsl

from pydantic_core import from_json

from mlguard.bodies.counts import anywhere_in, count
from mlguard.bodies.csv_lines import read_csv
from mlguard.bodies.described import There, described
from mlguard.bodies.documents import is_json, most_values, unpacked
from mlguard.bodies.layout import NOTHING, BodyReading, Layout
from mlguard.bodies.parts import PassingParts
from mlguard.bodies.rows import table
from mlguard.bodies.shapes import stated
from mlguard.bodies.survey import survey
from mlguard.bodies.texts import Reader

MOST_PAIRS = 10_000
"""Fields of a form or a query that are told apart: handlers take no more."""

_URLENCODED = "application/x-www-form-urlencoded"
_ONE = BodyReading(1, 1, None, found=True, readable=True)


class FormBody:
    """A multipart body on its way to its handler.

    Args:
        layout: Of its model.
        content_type: The request's.
    """

    def __init__(self, layout: SourceLayout, content_type: str) -> None:
        self._layout = layout
        self._parts = PassingParts(content_type)

    def feed(self, chunk: bytes) -> None:
        """Look at some bytes that the handler reads."""
        self._parts.feed(chunk)

    def reading(self) -> BodyReading:
        """Tell what has passed."""
        return self._layout.read_parts(self._parts)


class SourceRequest:
    """One request of such a model.

    Args:
        layout: Of its model.
        content_type: The body's type.
        query: The raw query.

    Attributes:
        reads_body: Whether the body is read before its handler runs.
        passing: What counts a body while its handler reads it; None where it is read before.
    """

    def __init__(self, layout: SourceLayout, content_type: str, query: str) -> None:
        kind = _kind(content_type)
        is_form = layout.source in ("form", "files") and kind == "multipart"
        self._layout = layout
        self._content_type = content_type
        self._query = query
        self._is_file = layout.source == "files" and kind == "other"  # the body itself
        self.passing = FormBody(layout, content_type) if is_form else None
        self.reads_body = not is_form and not self._is_file and layout.source != "query"

    def read(self, raw: bytes) -> BodyReading:
        """Count its rows, as far as they are known before its handler runs."""
        if self._is_file:
            return _ONE
        if self.passing is not None:
            return self.passing.reading()
        if self._layout.source == "query":
            return self._layout.read_pairs(self._query)
        return self._layout.read_as(raw, self._content_type)


class SourceLayout(Layout):
    """Where one model's requests hold rows as fields, parameters, files or lines.

    Args:
        source: "form", "query", "files" or "csv".
        features: Names of a row's fields, in order; empty where unknown.
        outputs: As `Layout` takes it.
        scores: As `Layout` takes it.
        shape: As `Layout` takes it.
        readers: What reads a feature's value, by its name; others stay texts.
    """

    def __init__(
        self,
        source: str,
        features: Sequence[str] = (),
        outputs: str | Sequence[str] | None = None,
        scores: str | None = None,
        shape: str = "auto",
        readers: Mapping[str, Reader] | None = None,
    ) -> None:
        super().__init__(features, "", outputs, None, scores, shape)
        self.source = source
        self._said["inputs"] = source
        self._readers = [(readers or {}).get(name) for name in self.features]

    @staticmethod
    def lacks(source: str) -> bool:
        """Say whether a package is missing that a source needs."""
        return source in ("form", "files") and find_spec("python_multipart") is None

    # ---- requests

    def request(self, content_type: str, query: str) -> SourceRequest:
        """Tell how one request is read."""
        return SourceRequest(self, content_type, query)

    def read_as(self, raw: bytes, content_type: str) -> BodyReading:
        """Count the rows of a body of some type."""
        if not raw or raw.isspace():
            return NOTHING
        if self.source == "csv":
            return self._read_csv(raw)
        if self.source == "form" and _kind(content_type) == "urlencoded":
            return self.read_pairs(raw.decode("utf-8", "replace"))
        return self._elsewhere(raw, content_type)

    def read_parts(self, parts: PassingParts) -> BodyReading:
        """Count the rows of a multipart body that has passed."""
        if not parts.has_begun:
            return NOTHING
        fields = {name: _single(values) for name, values in parts.fields.items()}
        if self.source == "form":
            found = self._read_fields(fields)
            return found._replace(rows=found.rows + parts.beyond)
        rows = parts.files + parts.beyond
        if parts.files:
            return BodyReading(rows, parts.files, None, found=True, readable=True)
        there = described(fields, ())._replace(kind="no file", hint=None)
        return BodyReading(max(1, rows), 0, None, found=False, readable=True, there=there)

    def read_pairs(self, text: str) -> BodyReading:
        """Read fields that are joined by "&"; some readers take ";" as well."""
        if not text:
            return NOTHING
        pairs = text.count("&") + 1
        if pairs + text.count(";") > MOST_PAIRS:
            most = pairs + text.count(";")
            return BodyReading(most, 0, None, found=False, readable=False)
        found = self._read_fields(_fields(text))
        if ";" not in text:
            return found
        other = self._read_fields(_fields(text.replace(";", "&")))
        return found._replace(rows=max(found.rows, other.rows))

    def _read_csv(self, raw: bytes) -> BodyReading:
        plain = unpacked(raw)
        if b"\0" in plain[:1] or plain[:2] == b"\x1f\x8b":
            return BodyReading(most_values(plain), 0, None, found=False, readable=False)
        found = read_csv(plain, self.features)
        rows = len(found.rows) if self._shape else found.most
        return BodyReading(rows, found.least, found.rows, found=True, readable=True)

    def _read_fields(self, fields: dict[str, Any]) -> BodyReading:
        """Count fields as columns: a name that repeats is a row each time."""
        if not fields:
            return NOTHING
        seen = survey(fields, self.features)
        found = stated(fields, self._shape or "columns", self.features, seen)
        if found is not None:
            return BodyReading(*found, found=True, readable=True)
        counted = count(fields, self._width, seen)
        rows = table(fields, self.features)
        return BodyReading(counted.rows, counted.least, rows, found=True, readable=True)

    def _elsewhere(self, raw: bytes, content_type: str) -> BodyReading:
        """Bound what a handler may read that finds no form in a body."""
        is_document = is_json(content_type)
        text = f"of the type {content_type.partition(';')[0][:40]!r}" if content_type else "untyped"
        there = There("another type", "JSON" if is_document else text)
        try:
            document = from_json(raw)
        except ValueError:
            most = most_values(unpacked(raw))
            return BodyReading(most, 0, None, found=False, readable=False, there=there)
        rows = anywhere_in(document, survey(document, self.features), self._width)
        least = min(rows, 1)
        return BodyReading(rows, least, None, found=False, readable=True, there=there)

    # ---- rows

    def values(self, row: Any) -> tuple[list[Any] | None, str]:
        """Read a row of texts as what the reference says that they stand for."""
        values, wrong = super().values(row)
        if values is None or not self._readers:
            return values, wrong
        pairs = zip(self._readers, values, strict=True)
        return [value if read is None else read(value) for read, value in pairs], wrong


def _kind(content_type: str) -> str:
    """Tell what a body is by its type: what frameworks read as a form, or something else."""
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type.startswith("multipart/"):
        return "multipart"
    if media_type == _URLENCODED:
        return "urlencoded"
    return "document" if not media_type or is_json(media_type) else "other"


def _fields(text: str) -> dict[str, Any]:
    found: dict[str, list[str]] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, errors="replace"):
        found.setdefault(name, []).append(value)
    return {name: _single(values) for name, values in found.items()}


def _single(values: Sequence[Any]) -> Any:
    return values[0] if len(values) == 1 else list(values)
