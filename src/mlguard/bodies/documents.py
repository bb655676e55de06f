"""What may a reader of JSON see in these bytes?"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from pydantic_core import from_json

from mlguard.pointers import index_of

MOST_UNPACKED = 8 * 1024 * 1024
"""Bytes to which a packed body is unpacked at most, and 32 times its own: reading costs time."""

_MOST_PACKED = 1032
"""Bytes that one byte of a packed body can hold (zlib's technical details)."""

_LARGE = 256 * 1024
_DENSE = 5
_RARELY = 16

_BETWEEN = b",;\r\n"
_NEXT = (b"][", b"}{", b"] [", b"} {")
"""What stands between two values, or two documents, in every encoding that has ASCII's bytes."""


def is_json(media_type: str) -> bool:
    """Say whether a body of this type is JSON (RFC 6839 section 3.1), without its parameters."""
    kind = media_type.partition(";")[0].strip().lower()
    main, _, sub = kind.partition("/")
    return main == "application" and (sub == "json" or sub.endswith("+json"))


def parse(raw: bytes) -> Any:
    """Read JSON; None where it is none, whatever is wrong with it."""
    try:
        return from_json(raw)
    except ValueError:  # other encodings than UTF-8, deeper than it likes, or none
        pass
    try:
        return json.loads(raw)
    except (ValueError, RecursionError):
        return None


class Repeated(dict[str, Any]):
    """An object that says a key twice: readers differ in which of the values they take.

    Attributes:
        pairs: All that it says.
    """

    __slots__ = ("pairs",)

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


CONTAINERS = frozenset((list, dict, Repeated))


def parse_all(raw: bytes) -> Any:
    """Read JSON with all that it says of a key; None where it cannot be read."""
    try:
        return json.loads(raw, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        return None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    last = dict(pairs)
    return last if len(last) == len(pairs) else Repeated(pairs)


def pairs(said: dict[str, Any]) -> Collection[tuple[str, Any]]:
    """List an object's keys and values, those that a later one hides as well."""
    return said.pairs if isinstance(said, Repeated) else said.items()


def at(value: Any, keys: Sequence[str]) -> Any:
    """Find what stands below these keys; None where nothing does."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else _item(value, key)
    return value


def _item(value: Any, key: str) -> Any:
    """Find the item of a list that a key names; None where there is none."""
    index = index_of(key) if isinstance(value, list) else None
    return value[index] if index is not None and index < len(value) else None


def column_at(value: Any, keys: Sequence[str]) -> Any:
    """Find what stands below these keys, of each entry where they lead into a list."""
    for place, key in enumerate(keys):
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and index_of(key) is None:
            column = [at(entry, keys[place:]) for entry in value]
            return None if all(found is None for found in column) else column
        else:
            value = _item(value, key)
    return value


def all_at(value: Any, keys: Sequence[str]) -> list[Any]:
    """Find all that stands below these keys, whichever value a reader takes."""
    found = [value]
    for key in keys:
        found = [v for said in found for v in _said(said, key)]
    return found


def deepest(value: Any, keys: Sequence[str]) -> tuple[Any, int]:
    """Follow these keys as far as something stands there: what does, and below how many."""
    for depth in range(len(keys), 0, -1):
        if (found := at(value, keys[:depth])) is not None:
            return found, depth
    return value, 0


def _said(said: Any, key: str) -> list[Any]:
    if isinstance(said, Repeated):
        return [value for name, value in said.pairs if name == key]
    if isinstance(said, dict):
        return [said[key]] if key in said else []
    index = index_of(key) if isinstance(said, list) else None
    return [said[index]] if index is not None and index < len(said) else []


class Spelling:
    """How a path of keys can be written, to see cheaply that it was written once."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._plain = [json.dumps(key, ensure_ascii=False).encode() for key in keys]
        self._is_plain = all(c.isprintable() and c not in '"\\/' for key in keys for c in key)
        units = {unit for key in keys for unit in _utf16(key)}
        escapes = "|".join(rf"\\u{unit:04x}" for unit in sorted(units))
        self._escaped = re.compile(escapes.encode(), re.IGNORECASE)

    def is_once(self, raw: bytes) -> bool:
        """Say whether no key of the path stands in the bytes (UTF-8) a second time."""
        if not self._plain:
            return True
        raw = raw[: raw.rfind(b'"') + 1]  # of a batch of numbers, hardly anything
        for key in self._plain:
            if raw.count(key) > 1:
                return False
        return b"\\" not in raw or (self._is_plain and not self._escaped.search(raw))


def _utf16(key: str) -> Iterator[int]:
    wide = key.encode("utf-16-be", "surrogatepass")
    return (wide[n] << 8 | wide[n + 1] for n in range(0, len(wide), 2))


def stands(raw: bytes, byte: bytes, times: int) -> bool:
    """Say whether a byte stands so many times in the bytes; quick where it rarely does."""
    if times > _RARELY:
        return raw.count(byte) == times
    return len(raw.split(byte, times + 1)) == times + 1


def is_dense(raw: bytes) -> bool:
    """Say whether hardly anything but brackets is written, which is dear to read."""
    if len(raw) < _LARGE:
        return False
    return _DENSE * (raw.count(b"[") + raw.count(b"{")) > len(raw)


def decoded(raw: bytes) -> tuple[Any, bytes]:
    """Read JSON as the standard library does: the document and its bytes in UTF-8.

    Raises:
        ValueError: It is none, its numbers are too long, or it is too dear to read.
        RecursionError: It is too deep for where this is called.
    """
    if is_dense(raw):
        raise ValueError("hardly anything but brackets")
    document = json.loads(raw)
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8":
        return document, raw
    text = raw.decode(encoding, "surrogatepass")
    return document, text.encode("utf-8", "surrogatepass")


def unpacked(raw: bytes) -> bytes:
    """Unpack gzip or zlib once, as handlers may; else the bytes as they are."""
    if not _is_packed(raw):
        return raw
    unpacking = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
    try:
        plain = unpacking.decompress(raw, min(MOST_UNPACKED, _LARGE + 32 * len(raw)))
    except zlib.error:
        return raw
    return plain if unpacking.eof and not unpacking.unused_data else raw


def _is_packed(raw: bytes) -> bool:
    """Recognise gzip (RFC 1952 section 2.3.1) and zlib (RFC 1950 section 2.2)."""
    is_zlib = raw[:1] != b"" and raw[0] & 15 == 8 and int.from_bytes(raw[:2]) % 31 == 0
    return is_zlib or raw[:2] == b"\x1f\x8b"


def most_values(raw: bytes) -> int:
    """Bound the values in bytes that no reader here understands."""
    if _is_packed(raw):
        return _MOST_PACKED * len(raw) // 2
    # A sign of JSON at its start: else it may be EBCDIC or no text at all.
    is_json = raw[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n")[:1] in (b"{", b"[")
    most = len(raw) // 2 + 1
    return min(separated(raw), most) if is_json or raw.isascii() else most


def separated(text: bytes) -> int:
    """Count what may be values in a text: one more than stands between them."""
    between = len(text) - len(text.translate(None, _BETWEEN))
    return between + sum(map(text.count, _NEXT)) + 1
