"""Which texts does a document say at a place, whichever of them a reader takes?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from pydantic_core import from_json

from mlguard.bodies.documents import Spelling, all_at, at, is_dense, parse_all, unpacked

_NO_TEXT = "\x00"  # in place of what no name can be
_spelling = lru_cache(256)(Spelling)


def texts_at(raw: bytes, keys: Sequence[str]) -> list[str] | None:
    """List the texts below these keys; None where the bytes are no JSON that can be read.

    A number is the text that it is written as; null is as if nothing were said.
    """
    if not raw or raw.isspace():
        return []
    if is_dense(raw):
        return None
    try:
        document = from_json(raw)
    except ValueError:
        document = None
    if document is not None and _spelling(tuple(keys)).is_once(raw):
        found = [at(document, keys)]
    else:
        document = parse_all(unpacked(raw))
        if document is None:
            return None
        found = all_at(document, keys)
    return [_text(value) for value in found if value is not None]


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number else _NO_TEXT
