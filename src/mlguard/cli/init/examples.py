"""Which request does the operator mean: one that was given, or one that is made up?"""

from __future__ import annotations

import base64
import json
import mimetypes
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode

from mlguard.cli.init.handlers import PARAMETER, Endpoint
from mlguard.cli.init.schemas import made_up
from mlguard.cli.sending import Request
from mlguard.errors import MLGuardError
from mlguard.pointers import keys_of
from mlguard.settings import Model

_JSON, _FORM, _CSV = "application/json", "application/x-www-form-urlencoded", "text/csv"
_BOUNDARY = "mlguard-example"
_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJg"
    "gg=="
)


class Example(NamedTuple):
    """A request to a model, but for its path.

    Attributes:
        origin: Where it comes from.
        kind: How it is sent: "json", "form", "files", "query" or "csv"; "" otherwise.
        value: What it says: a JSON document, or the fields of a form.
        media: Of the body, "" where there is none.
        body: The bytes.
    """

    origin: str
    kind: str
    value: Any
    media: str = ""
    body: bytes = b""

    def request(self, handler: Endpoint, name: str = "") -> Request:
        """Address it to a handler; what stands in the path is the model's name, or 1."""
        path = handler.path or PARAMETER.sub(
            lambda found: name if name and handler.name_parameter in found.groups() else "1",
            handler.route.template,
        )
        query = f"?{urlencode(self.value)}" if self.kind == "query" and self.value else ""
        headers = {"Content-Type": self.media} if self.media else {}
        return Request(handler.method, path + query, headers, self.body)


def example_of(handler: Endpoint, given: str | None, width: int = 0) -> Example | None:
    """Read the example that was given, or make one up; None where nothing says how.

    Args:
        handler: What it is for.
        given: A file, "-" for standard input, or JSON; None where none was given.
        width: Values in a row, 0 where unknown.

    Raises:
        MLGuardError: It cannot be read.
    """
    if given is not None:
        return _read(handler, given)
    origin = f"made up, from {handler.origin}"
    if handler.kind == "files":
        fields = made_up(_without_files(handler), width) if handler.takes else {}
        return _files(handler, origin, "example.png", _PIXEL, fields or {})
    value = made_up(handler.takes, width) if handler.takes else None
    return None if value is None else _sent(handler.kind or "json", value, origin)


def fitting(model: Model, features: Sequence[str]) -> Example | None:
    """Make up what the settings of a model say of its requests; None where they say too little."""
    if not features:
        return None
    record = dict.fromkeys(features, 1.0)
    origin = "made up, from the model's features"
    if model.inputs in ("form", "query", "csv"):
        return _sent(model.inputs, [record] if model.inputs == "csv" else record, origin)
    if model.protocol == "v2" or model.inputs == "files":
        return None
    value: Any = record if model.shape == "row" else [[1.0] * len(features)]
    if model.shape == "columns":
        value = {name: [1.0] for name in features}
    place = "instances" if model.protocol else model.inputs or ""
    for key in reversed(keys_of(place)):
        value = {key: value}
    return _sent("json", value, origin)


def _read(handler: Endpoint, given: str) -> Example:
    raw, name = _given(given)
    try:
        value = json.loads(raw)
    except ValueError:
        return _plain(handler, raw, name)
    kind = handler.kind if handler.kind in ("form", "query") and isinstance(value, dict) else "json"
    return _sent(kind, value, name)


def _given(given: str) -> tuple[bytes, str]:
    """Fetch what was given, and say what it is."""
    if given.lstrip()[:1] in ("{", "["):
        return given.encode(), "the example"
    if given == "-":
        return sys.stdin.buffer.read(), "standard input"
    try:
        return Path(given).read_bytes(), given
    except OSError as error:
        raise MLGuardError(
            f"--example {given}: cannot be read: {error.strerror}; it is a file, - for standard "
            "input, or JSON"
        ) from error


def _plain(handler: Endpoint, raw: bytes, name: str) -> Example:
    """Take what is no JSON as what its name says, or as what the handler takes."""
    media = mimetypes.guess_type(name)[0] or ""
    if handler.kind == "csv" or (media == _CSV and handler.kind != "files"):
        return Example(name, "csv", None, _CSV, raw)
    if handler.kind in ("form", "query"):
        return _sent(handler.kind, dict(parse_qsl(raw.decode("utf-8", "replace").strip())), name)
    if handler.kind == "files" or media.startswith("image/"):
        return _files(handler, name, Path(name).name, raw, {})
    if media in ("", _JSON):
        raise MLGuardError(f"--example {name}: is no JSON, and its name does not say what it is")
    return Example(name, "", None, media, raw)


def _sent(kind: str, value: Any, origin: str) -> Example:
    if kind == "form":
        return Example(origin, kind, value, _FORM, urlencode(value, doseq=True).encode())
    if kind == "query":
        return Example(origin, kind, value)
    if kind == "csv":
        rows = value if isinstance(value, list) else [value]
        lines = [",".join(map(str, row.values() if isinstance(row, dict) else row)) for row in rows]
        return Example(origin, kind, None, _CSV, "\n".join(lines).encode())
    return Example(origin, "json", value, _JSON, json.dumps(value).encode())


def _files(
    handler: Endpoint, origin: str, name: str, raw: bytes, fields: Mapping[str, Any]
) -> Example:
    """Write a multipart body (RFC 7578): the file, and the fields beside it."""
    media = mimetypes.guess_type(name)[0] or "application/octet-stream"
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    head = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{handler.part}"; '
    head += f'filename="{name}"\r\nContent-Type: {media}\r\n\r\n'
    body = "".join(parts).encode() + head.encode() + raw + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return Example(origin, "files", None, f"multipart/form-data; boundary={_BOUNDARY}", body)


def _without_files(handler: Endpoint) -> dict[str, Any]:
    takes = dict(handler.takes or {})
    properties = {k: v for k, v in takes.get("properties", {}).items() if k != handler.part}
    needed = [name for name in takes.get("required", ()) if name != handler.part]
    return {**takes, "properties": properties, "required": needed}
