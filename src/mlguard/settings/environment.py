"""How does the environment override the settings?"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mlguard.settings.mistakes import nearest, table_of
from mlguard.settings.tables import Settings
from mlguard.settings.values import Table

PREFIX = "MLGUARD_"
_BOOLEANS = ("True", "False", "TRUE", "FALSE")


def override(data: dict[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    """Write `MLGUARD_TABLE__KEY` variables into the data; yield what is wrong with their names.

    An entry of a list is named: `MLGUARD_MODELS__IRIS__VERSION`.
    """
    for variable, raw in sorted(environ.items()):
        if variable.startswith(PREFIX) and "__" in variable:
            path = [p.lower() for p in variable.removeprefix(PREFIX).split("__")]
            problem = _put(data, Settings, path, raw)
            if problem:
                yield f"{variable}: {problem}"


def _put(data: dict[str, Any], table: type[Table], path: list[str], raw: str) -> str | None:
    """Set one overridden key; say what is wrong with its name, if anything is."""
    key, *rest = path
    known = table.known_keys()
    if key not in known:
        return f"unknown key {key!r}; {nearest(key, known)}"
    annotation = known[key].annotation
    inner = table_of(annotation)
    if inner is None or not rest:
        if rest or inner is not None:
            return f"{'.'.join(path)!r} is not one key of a table"
        if typing.get_origin(annotation) is tuple and not raw.strip(" ,"):
            return "is empty; for an empty list write []"
        data[key] = _convert(raw, annotation)
        return None
    if typing.get_origin(annotation) is dict:
        return _put_named(data, key, inner, rest, raw)
    if typing.get_origin(annotation) is not tuple:
        entry = data.get(key, {})
        if not isinstance(entry, dict):
            return None  # the file's own mistake, which is told with the others
        problem = _put(entry, inner, rest, raw)
        data.update({} if problem else {key: entry})
        return problem
    entries = data.get(key, [])
    if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
        return None
    name, *rest = rest
    named = {_spelt(e): e for e in entries}
    if [_spelt(e) for e in entries].count(name) > 1:
        return f"two entries of {key} are spelt {name!r} here; rename one"
    if name not in named:
        return f"no entry of {key} is named {name!r}; {nearest(name, named)}"
    return _put(named[name], inner, rest, raw) if rest else "names no key of that entry"


def _put_named(
    data: dict[str, Any], key: str, inner: type[Table], path: list[str], raw: str
) -> str | None:
    """Set a key of a table that has a name of its own, like a plan."""
    tables = data.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        return None
    name, *rest = path
    named = [known for known in tables if _spelt({"name": known}) == name]
    if len(named) != 1:
        spelt = [_spelt({"name": known}) for known in tables]
        return f"no one of {key} is named {name!r}; {nearest(name, spelt)}"
    return _put(tables[named[0]], inner, rest, raw) if rest else "names no key of that table"


def _spelt(entry: Mapping[str, Any]) -> str:
    """Spell an entry's name as a variable can."""
    return str(entry.get("name", "")).lower().replace("-", "_").replace(".", "_")


def _convert(raw: str, annotation: Any) -> Any:
    """Read an environment value as the type of its key: as TOML, as it stands, as a comma list."""
    candidates: list[Any] = [raw, [part.strip() for part in raw.split(",") if part.strip()]]
    with suppress(tomllib.TOMLDecodeError):
        candidates.insert(0, tomllib.loads(f"v = {raw.lower() if raw in _BOOLEANS else raw}")["v"])
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return candidate
    return raw
