"""What is said of a mistake in the settings?"""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from mlguard.settings.tables import Rate, Settings, Table

_USERINFO = re.compile(r"(['\"](?:\w+://)?).*@", re.DOTALL)
_REQUIRED = ("issuer", "audience", "algorithms")
_SHOULD = re.compile(r"^(Input|String) should")
_SAID = {
    "tuple_type": "must be a list",
    "model_type": "must be a table",
    "ip_v4_network": 'must be a network like "10.0.0.0/8" or "fd00::/8"',
    "byte_size_unit": 'must be a size like "8 MiB"',
    "byte_size": 'must be a size like "8 MiB"',
    "too_short": "must not be empty",
}


def _sentence(error: ErrorDetails, data: Mapping[str, Any]) -> str:
    where = _where(error["loc"], data)
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
    if where == "auth.store" or _has_tables(error["input"]):  # whatever is there, maybe a password
        return f"{where}: {said}"
    shown = _USERINFO.sub(r"\1…@", repr(error["input"]))
    return f"{where} = {shown if len(shown) <= 80 else shown[:77] + '...'}: {said}"


def _has_tables(value: Any) -> bool:
    entries = value if isinstance(value, list) else [value]
    return any(isinstance(entry, dict) and entry for entry in entries)


def _where(loc: tuple[int | str, ...], data: Any) -> str:
    """Spell a place as the file does: list entries by their name, no marks of the union members."""
    words = ""
    for part in loc:
        if isinstance(part, int):
            if not isinstance(data, list) or part >= len(data):
                break
            data = data[part]
            name = data.get("name") if isinstance(data, dict) else None
            words += f"[{name or part}]"
        elif isinstance(data, dict) and str(part).isidentifier():
            words += f".{part}" if words else str(part)
            data = data.get(part)
        else:
            break
    return words


def _unknown(loc: tuple[int | str, ...], where: str) -> str:
    table: type[BaseModel] = Settings
    for part in loc[:-1]:
        field = table.model_fields.get(part) if isinstance(part, str) else None
        table = (table_of(field.annotation) if field else None) or table
    key = str(loc[-1])
    if key in ("secret", "key", "password"):
        return f"{where}: secrets never stand in the settings; use `secret_env` or `secret_file`"
    return f"{where}: unknown key; {nearest(key, table.model_fields)}"


def sentences(error: ValidationError, data: Mapping[str, Any]) -> list[str]:
    """Say each mistake once: the key, the value and what it must be."""
    # The members of a union all complain of one value, and a list with a wrong entry seems short.
    errors = [
        e
        for e in error.errors()
        if e["type"] != "lacking" and not (e["type"] == "too_short" and e["input"])
    ]
    said = {_where(e["loc"], data): _sentence(e, data) for e in reversed(errors)}
    return [*_lacking(data.get("auth")), *reversed(said.values())]


def _lacking(auth: Any) -> Iterator[str]:
    """Name each key that an issuer must have, among mistakes of other keys too."""
    tables = auth.get("issuers") or [auth] if isinstance(auth, dict) else None
    for number, issuer in enumerate(tables if isinstance(tables, list) else ()):
        if isinstance(issuer, dict):
            loc = ("auth",) if issuer is auth else ("auth", "issuers", number)
            where = _where(loc, {"auth": auth})
            yield from (f"{where}.{key}: is missing" for key in _REQUIRED if key not in issuer)


def nearest(word: str, words: Iterable[str]) -> str:
    """Say which of the words was probably meant, as the end of a sentence."""
    known = sorted(words)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"valid: {', '.join(known)}" if known else "there is none"


def table_of(annotation: Any) -> type[BaseModel] | None:
    """Find the table that a key holds, through `X | None` and `tuple[X, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Table) and annotation is not Rate:
        return annotation
    if typing.get_origin(annotation) in (tuple, types.UnionType, typing.Union):
        return next(filter(None, map(table_of, typing.get_args(annotation))), None)
    return None
