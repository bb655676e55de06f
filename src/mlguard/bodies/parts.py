"""What passes in a multipart body, while its handler reads it?

Nothing of a file is kept, and of a field its beginning: however large a body is, a few bytes of it
are remembered. Readers differ in what separates two parts: the boundary counts wherever it stands.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

MOST_FIELDS = 10_000
"""Values of fields that are kept; more are counted."""

LONGEST_VALUE = 1024
"""Bytes of a field's value that are kept: no category is longer."""

_MOST_NAME = 256
_BOUNDARY = re.compile(rb"boundary", re.IGNORECASE)
_FILE = re.compile(rb";\s*filename", re.IGNORECASE)


class PassingParts:
    """Counts the parts of one body.

    Args:
        content_type: The request's, with the boundary.

    Attributes:
        files: Files that have passed.
        fields: The values of fields that have passed, by their names; a file's is None.
        beyond: Parts that some reader may have seen and that are neither.
    """

    def __init__(self, content_type: str) -> None:
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        self._errors = FormParserError
        said = content_type.encode("latin-1", "replace")
        _, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        # One that is said twice is another for other readers: any line that begins so may be one.
        is_clear = boundary and len(_BOUNDARY.findall(said)) == 1
        self._marks = (b"--" + boundary,) if is_clear else (b"\n--", b"\r--")
        self._parser: Any = None
        if is_clear:
            with suppress(FormParserError):  # longer than boundaries may be
                self._parser = MultipartParser(boundary, self._callbacks())
        self.files = 0
        self.fields: dict[str, list[str | None]] = {}
        self._seen = self._begun = self._ended = self._kept = self._lost = 0
        self._is_closed = False  # by the last boundary, which begins no part
        self._tail = b"\n"
        self._new_part()

    def feed(self, chunk: bytes) -> None:
        """Look at some bytes that the handler reads."""
        if not chunk:
            return
        text = self._tail + chunk
        self._seen += sum(map(text.count, self._marks))
        overlap = len(self._marks[0]) - 1
        self._tail = text[-overlap:]
        if self._parser is None:
            return
        try:
            self._parser.write(chunk)
        except self._errors:
            self._parser = None

    @property
    def beyond(self) -> int:
        """How many parts there may be beyond those that were understood."""
        unended = self._begun - self._ended
        return self._lost + unended + max(0, self._seen - self._begun - self._is_closed)

    @property
    def has_begun(self) -> bool:
        """Whether anything of it was read."""
        return bool(self._seen)

    # ---- what the parser tells

    def _callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_part_end": self._end,
            "on_end": self._close,
        }

    def _close(self) -> None:
        self._is_closed = True

    def _new_part(self) -> None:
        self._name = self._said = b""
        self._disposition = b""
        self._start = b""
        self._size = 0

    def _begin(self) -> None:
        self._begun += 1
        self._new_part()

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._said += data[start:end]

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._said
        self._name = self._said = b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if len(self._start) < LONGEST_VALUE:
            self._start += data[start : min(end, start + LONGEST_VALUE)]

    def _end(self) -> None:
        from python_multipart.multipart import parse_options_header

        self._ended += 1
        _, options = parse_options_header(self._disposition.decode("latin-1"))
        is_file = _FILE.search(self._disposition) is not None
        if is_file and not self._size and not options.get(b"filename"):
            return  # what browsers send where no file was chosen
        self.files += is_file
        if self._kept >= MOST_FIELDS:
            self._lost += not is_file
            return
        self._kept += 1
        name = options.get(b"name", b"")[:_MOST_NAME].decode("utf-8", "replace")
        value = None if is_file else self._start[:LONGEST_VALUE].decode("utf-8", "replace")
        self.fields.setdefault(name, []).append(value)
