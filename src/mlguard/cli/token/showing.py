"""How is a token shown to a person, on a terminal that must obey nothing in it?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from mlguard.messages import claim
from mlguard.settings import NO_TYPE

_WIDEST = 60  # characters of a value
_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


class Row(NamedTuple):
    """What a token has, beside what would be accepted.

    Attributes:
        name: Of the header's member or the claim.
        has: What the token has.
        accepted: What would be accepted.
        is_wrong: Whether that is not it.
    """

    name: str
    has: str
    accepted: str
    is_wrong: bool = False


def table(rows: Iterable[Row]) -> list[str]:
    """Lay rows out in columns, with a mark before what is wrong."""
    rows = [Row("", "the token has", "accepted"), *rows]
    name, has = max(len(row.name) for row in rows), max(len(row.has) for row in rows)
    lines = (
        f"{'!' if row.is_wrong else ' '} {row.name:{name}}  {row.has:{has}}  {row.accepted}"
        for row in rows
    )
    return [line.rstrip() for line in lines]


def shown(claims: Mapping[str, Any], name: str) -> str:
    """Show a claim as it is judged: it may stand within others."""
    found = claim(claims, name)
    return "none" if found is None and name not in claims else _cut(_json(found))


def shown_moment(claims: Mapping[str, Any], name: str, now: float) -> str:
    """Show a claim that is a NumericDate, and how far away it is."""
    return _moment(claims[name], now) if name in claims else "none"


def words(values: Iterable[str]) -> str:
    """Show scopes."""
    return _cut(" ".join(map(_json, sorted(values))) or "none")


def either(values: Sequence[str]) -> str:
    """Show what would be accepted."""
    return " or ".join(value if value == NO_TYPE else _json(value) for value in values)


def _json(value: Any) -> str:
    """Write a value so that a terminal shows it and obeys nothing in it."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _moment(value: Any, now: float) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{_cut(_json(value))}, which is no number"
    try:
        moment = datetime.fromtimestamp(value, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        away = abs(value - now)
    except (ValueError, OverflowError, OSError):
        return f"{_cut(_json(value))}, which is no time"
    unit, size = next((u, s) for u, s in _UNITS if away >= s or s == 1)
    count = int(away / size)
    told = f"{count} {unit}{'' if count == 1 else 's'}"
    return f"{moment}, {f'in {told}' if value > now else f'{told} ago'}"
