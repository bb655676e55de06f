"""What stands there instead of what was looked for? Keys and kinds, never values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mlguard.bodies.documents import CONTAINERS, deepest
from mlguard.pointers import written

_MOST_KEYS = 5
_LONGEST_KEY = 40  # characters


class There(NamedTuple):
    """What was found where a setting leads to nothing.

    Attributes:
        kind: One of a few words.
        text: What it is, with its keys.
        path: Where that stands; "" for the whole document.
        hint: What to write in the place of what the settings say; None where nobody can tell.
    """

    kind: str
    text: str
    path: str = ""
    hint: str | None = None


EMPTY = There("empty", "empty")
NO_JSON = There("no JSON", "no JSON")


def described(document: Any, keys: Sequence[str]) -> There:
    """Describe a document in which nothing stands below these keys.

    Args:
        document: Parsed JSON, or a form's fields.
        keys: Where was looked.
    """
    found, depth = deepest(document, keys)
    above = tuple(keys[:depth])
    path, kind = written(above), _kind(found)
    if not isinstance(found, Mapping):
        return There(kind, kind, path, path if isinstance(found, list) else None)
    if not found:
        return There("no keys", "an object without keys", path)
    return There(kind, f"{kind} with {_keys(found)}", path, _hint(found, above))


def _keys(found: Mapping[str, Any]) -> str:
    """List the first keys, and what the values are that hold more."""
    shown = [_key(k, found[k]) for k in list(found)[:_MOST_KEYS]]
    return ", ".join(shown + ["…"] * (len(found) > _MOST_KEYS))


def _key(key: str, value: Any) -> str:
    """Write a key that a client wrote: short, in one line, whatever stands in it."""
    short = key[:_LONGEST_KEY]
    name = short if _is_plain(short) else json.dumps(short)
    return f"{name} ({_kind(value)})" if type(value) in CONTAINERS else name


def _hint(found: Mapping[str, Any], path: tuple[str, ...]) -> str | None:
    """Guess where the rows are: here where no key holds more, or in the only one that does."""
    holding = [k for k, v in found.items() if type(v) in CONTAINERS]
    if not holding or len(holding) == len(found) > 1:
        return written(path)
    if len(holding) == 1 and _is_plain(holding[0]):
        return written((*path, holding[0]))
    return None


def _is_plain(key: str) -> bool:
    return 0 < len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable()


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "a text"
    return "a list" if isinstance(value, list) else "an object"
