"""What is said of a mistake in the settings?"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from mlguard.settings.tables import Settings
from mlguard.settings.values import Rate, Table
from mlguard.urls import redacted_url

SECRET_URLS = (
    ("auth", "revocation_store"),
    ("auth", "api_keys", "store"),
    ("quotas", "store"),
    ("drift", "store"),
)
"""Keys whose value may hold a password, when it comes from the environment."""

_SECRET = {".".join(path) for path in SECRET_URLS}
_SHOULD = re.compile(r"^(Input|String) should")
_SAID = {
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "ip_v4_network": 'must be a network like "10.0.0.0/8" or "fd00::/8"',
    "byte_size_unit": 'must be a size like "8 MiB"',
    "byte_size": 'must be a size like "8 MiB"',
    "too_short": "must not be empty",
}


def sentences(error: ValidationError, data: Mapping[str, Any]) -> list[str]:
    """Say each mistake once: the key, the value and what it must be."""
    # The members of a union all complain of one value, and a list with a wrong entry seems short.
    errors = [e for e in error.errors() if not (e["type"] == "too_short" and e["input"])]
    said = {place(e["loc"], data): _sentence(e, data) for e in reversed(errors)}
    return [*reversed(said.values())]


def place(loc: tuple[int | str, ...], data: Any) -> str:
    """Spell a place as the file does.

    Entries of lists are named, members of a union are not marked, and the entry that the keys of
    one issuer are moved into is left out.
    """
    words, last = "", len(loc) - 1
    for number, part in enumerate(loc):
        if isinstance(data, list):
            if not isinstance(part, int) or part >= len(data):
                break
            data = data[part]
            name = data.get("name") if isinstance(data, dict) else None
            words += f"[{name or part}]"
        elif not isinstance(data, dict):
            break
        elif str(part).isidentifier() and (number == last or data.get(part, []) != []):
            words += f".{part}" if words else str(part)
            data = data.get(part)
    return words


def _sentence(error: ErrorDetails, data: Mapping[str, Any]) -> str:
    where = place(error["loc"], data)
    if error["type"] == "extra_forbidden":
        return _unknown(error["loc"], where)
    if error["type"] == "missing":
        return f"{where}: is missing"
    said = _SAID.get(error["type"]) or _SHOULD.sub("must", error["msg"])
    if error["type"] == "contradiction":
        return f"{where}: {said}" if where else said
    keys = [part for part in error["loc"] if isinstance(part, str)]
    if any(key.endswith("_env") for key in keys):
        return f"{where}: must be the name of an environment variable"
    # Whatever is there may be a password.
    if where in _SECRET or _has_tables(error["input"]):
        return f"{where}: {said}"
    value = repr(_shown(error["input"]))
    return f"{where} = {value if len(value) <= 80 else value[:77] + '...'}: {said}"


def _has_tables(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_has_tables, value))
    return isinstance(value, dict) and bool(value)


def _shown(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_shown(entry) for entry in value]
    return redacted_url(value) if isinstance(value, str) else value


def _unknown(loc: tuple[int | str, ...], where: str) -> str:
    table: type[Table] = Settings
    for part in loc[:-1]:
        field = table.model_fields.get(part) if isinstance(part, str) else None
        table = (table_of(field.annotation) if field else None) or table
    key, known = str(loc[-1]), table.known_keys()
    if key in ("secret", "key", "password"):
        return f"{where}: secrets never stand in the settings; use `secret_env` or `secret_file`"
    if key in known:
        return f"{where}: there are `issuers`: move it into their entries"
    return f"{where}: unknown key; {nearest(key, known)}"


def nearest(word: str, words: Iterable[str]) -> str:
    """Say which of the words was probably meant, as the end of a sentence."""
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid: {', '.join(known)}" if known else "there is none"


def table_of(annotation: Any) -> type[Table] | None:
    """Find the table that a key holds, through `X | None`, `tuple[X, ...]` and `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, Table) and annotation is not Rate:
        return annotation
    if typing.get_origin(annotation) in (dict, tuple, types.UnionType, typing.Union):
        return next(filter(None, map(table_of, typing.get_args(annotation))), None)
    return None
