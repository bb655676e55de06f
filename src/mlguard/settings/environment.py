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
    held = data.get(key, {})
    if typing.get_origin(annotation) in (dict, tuple):
        return _put_named(held, key, inner, rest, raw)
    if not isinstance(held, dict):
        return None  # the file's own mistake, which is told with the others
    problem = _put(held, inner, rest, raw)
    data.update({} if problem else {key: held})
    return problem


def _put_named(held: Any, key: str, inner: type[Table], path: list[str], raw: str) -> str | None:
    """Set a key of one of several tables: an entry of a list, or a table with a name of its own."""
    if isinstance(held, list) and all(isinstance(entry, dict) for entry in held):
        named = [(str(entry.get("name", "")), entry) for entry in held]
    elif isinstance(held, dict) and all(isinstance(entry, dict) for entry in held.values()):
        named = list(held.items())
    else:
        return None
    name, *rest = path
    found = [entry for spelling, entry in named if _spelt(spelling) == name]
    if len(found) > 1:
        return f"two entries of {key} are spelt {name!r} here; rename one"
    if not found:
        known = [_spelt(spelling) for spelling, _ in named]
        return f"no entry of {key} is named {name!r}; {nearest(name, known)}"
    return _put(found[0], inner, rest, raw) if rest else "names no key of that entry"


def _spelt(name: str) -> str:
    """Spell an entry's name as a variable can."""
    return name.lower().replace("-", "_").replace(".", "_")


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
