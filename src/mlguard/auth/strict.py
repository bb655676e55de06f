"""Is this text spelt the one way it may be? base64url and JSON."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any, NoReturn

_ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_TO_BASE64 = bytes.maketrans(b"-_", b"+/")
# A length of 4n + 2 leaves four unused bits in the last character, one of 4n + 3 leaves two.
_LAST = {0: _ALPHABET, 2: b"AQgw", 3: b"AEIMQUYcgkosw048"}
_PADDING = {0: b"", 2: b"==", 3: b"="}
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_BRACKETS = b"[]{}"
_NO_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


def base64url(text: bytes) -> bytes:
    """Decode base64url without padding, junk or stray bits (RFC 7515 section 2).

    Raises:
        ValueError: It is spelt in another way; the text is not repeated.
    """
    tail = len(text) % 4
    if text.translate(None, _ALPHABET) or tail == 1:
        raise ValueError("is not base64url")
    if tail and text[-1] not in _LAST[tail]:
        raise ValueError("has stray bits")
    return binascii.a2b_base64(text.translate(_TO_BASE64) + _PADDING[tail])


def to_base64url(raw: bytes) -> str:
    """Write base64url the one way that `base64url` reads."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def json_object(raw: bytes, deepest: int) -> dict[str, Any]:
    """Read a JSON object (RFC 8259) in UTF-8 in which no member stands twice.

    Args:
        raw: The text.
        deepest: How many objects and arrays may stand within each other, this one included.

    Raises:
        ValueError: It is no such object; the text is not repeated.
    """
    if not _nests_at_most(deepest, raw):
        raise ValueError("is nested too deep")
    try:
        value = _DECODER.decode(raw.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ValueError("is not JSON with unique members") from None
    if not isinstance(value, dict):
        raise ValueError("is not an object")  # noqa: TRY004
    return value


def _nests_at_most(deepest: int, raw: bytes) -> bool:
    """Measure before parsing: Python's parser recurses."""
    if raw.count(b"[") + raw.count(b"{") <= deepest:
        return True
    depth = 0
    for bracket in _STRING.sub(b"", raw).translate(None, _NO_BRACKETS):
        depth += 1 if bracket in b"[{" else -1
        if depth > deepest:
            return False
    return True


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
