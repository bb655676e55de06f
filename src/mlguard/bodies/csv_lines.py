"""How many rows does a CSV body hold?"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlguard.bodies.counts import rows_of

_DELIMITERS = ",;\t|"
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


class CsvRows:
    """Lines of CSV, each read when it is asked for.

    Args:
        lines: Without those that are blank, and without the header.
        header: The columns' names; empty where the first line has none.
        delimiter: What stands between two values.
    """

    def __init__(self, lines: Sequence[str], header: Sequence[str], delimiter: str) -> None:
        self._lines = lines
        self._header = header
        self._delimiter = delimiter

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Any:
        values = _split(self._lines[index], self._delimiter)
        if self._header and len(values) == len(self._header):
            return dict(zip(self._header, values, strict=True))
        return values


class CsvReading(NamedTuple):
    """What a CSV body holds.

    Attributes:
        most: Rows by the largest plausible reading.
        least: By that of a reader that knows quotes.
        rows: One by one.
    """

    most: int
    least: int
    rows: CsvRows


def read_csv(raw: bytes, features: Sequence[str]) -> CsvReading:
    """Count the rows of a CSV body (RFC 4180); a line with a feature's name is the header.

    Readers differ in what a quote is: a line counts as a row, whatever stands around it; and so do
    as many values as there are features, as some handlers reshape what they get.
    """
    text = _decoded(raw).replace("\r\n", "\n").replace("\r", "\n")
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return CsvReading(0, 0, CsvRows((), (), ","))
    delimiter = max(_DELIMITERS, key=lines[0].count)
    header = [name.strip() for name in _split(lines[0], delimiter)]
    has_header = not set(header).isdisjoint(features)
    body = lines[1:] if has_header else lines
    most = least = len(body)
    if len(features) > 1:
        below = text[text.index(lines[0]) + len(lines[0]) :] if has_header else text
        values = len(body) + max(map(below.count, _DELIMITERS))
        most = max(most, rows_of(values, len(features)))
    if '"' in text:
        body, least = _quoted(body, delimiter)
    return CsvReading(
        most, min(least, most), CsvRows(body, header if has_header else (), delimiter)
    )


def _quoted(lines: list[str], delimiter: str) -> tuple[list[str], int]:
    """Join the lines that a quote spans."""
    joined: list[str] = []
    is_open = False
    for line in lines:
        if is_open:
            joined[-1] += "\n" + line
        else:
            joined.append(line)
        is_open ^= line.count('"') % 2 == 1
    return joined, len(joined)


def _split(line: str, delimiter: str) -> list[str]:
    if '"' not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return line.split(delimiter)


def _decoded(raw: bytes) -> str:
    encoding = next((name for mark, name in _MARKS if raw.startswith(mark)), "utf-8")
    return raw.decode(encoding, "replace")
