"""What does each setting mean? Writes settings.md from the code: `python -m docs.build`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ByteSize

from mlguard.settings import (
    Auth,
    Drift,
    FeedbackSettings,
    Issuer,
    KeyTable,
    MetricsSettings,
    Model,
    Quotas,
    ServiceSettings,
    TracingSettings,
)
from mlguard.settings.quotas import Exempt
from mlguard.settings.values import Rate, Table

PAGE = Path(__file__).with_name("settings.md")

HEAD = """\
# Settings

<!-- Made of the docstrings in src/mlguard/settings by `python -m docs.build`. -->

`MLGuard(app, "mlguard.toml")` takes a path, a mapping or a `Settings` object. A part whose table is
missing is off, but for metrics, and for drift where a model has a `reference`. Every mistake stops
the start with one message, which `mlguard check mlguard.toml` and `mlguard check module:app` tell
before it. Paths are relative to the settings file.

**Any key can come from the environment**: `MLGUARD_AUTH__ISSUER=…`, lists as TOML or
comma-separated, entries of a list by their name: `MLGUARD_MODELS__IRIS__VERSION=4`. Secrets only
come from a variable or a file that the settings name, and the password of a Redis only from
`MLGUARD_AUTH__REVOCATION_STORE`, `MLGUARD_QUOTAS__STORE` or `MLGUARD_DRIFT__STORE`.
"""

MODEL = """\
[[models]]
name = "iris"
route = "/predict"
inputs = "instances"
"""
ISSUER = """\
[auth]
issuer = "https://login.example.com/"
audience = "iris-api"
algorithms = ["RS256"]
"""


class Section(NamedTuple):
    """A table of the settings file, as the page shows it.

    Attributes:
        title: How the file spells it.
        tables: Whose keys stand in it.
        example: A settings file that has it.
        without: Keys that are not told here.
    """

    title: str
    tables: tuple[type[Table], ...]
    example: str
    without: tuple[str, ...] = ()


SECTIONS = (
    Section("[service]", (ServiceSettings,), '[service]\nname = "iris-api"\nmax_body = "2 MiB"\n'),
    Section("[[models]]", (Model,), f'{MODEL}outputs = "predictions"\n'),
    Section("[auth]", (Auth,), f'{ISSUER}scopes = ["predict"]\npublic = ["/health"]\n'),
    Section(
        "[[auth.issuers]]",
        (Issuer,),
        '[[auth.issuers]]\nname = "people"\nissuer = "https://login.example.com/"\n'
        'audience = "iris-api"\nalgorithms = ["RS256"]\n\n'
        '[[auth.issuers]]\nname = "machines"\nissuer = "https://ci.example.com/"\n'
        'audience = "iris-api"\nalgorithms = ["HS256"]\nsecret_env = "IRIS_SECRET"\n',
    ),
    Section(
        "[auth.api_keys]",
        (KeyTable,),
        '[auth.api_keys]\nfile = "api_keys.json"\n\n[quotas]\nrows = ["10000/hour"]\n',
    ),
    Section(
        "[quotas]",
        (Quotas,),
        f'{MODEL}\n[quotas]\nstore = "host://"\nrequests = ["600/minute"]\n'
        'rows = ["10000/hour", "50000/day"]\n\n[quotas.models.iris]\nrows = ["1000/hour"]\n',
    ),
    Section(
        "[quotas.exempt]",
        (Exempt,),
        '[quotas]\nrequests = ["600/minute"]\n\n[quotas.exempt]\nroutes = ["/health"]\n',
    ),
    Section(
        "[drift]",
        (Drift,),
        f'{MODEL}reference = "reference.parquet"\n\n[drift]\nreport = "drift.html"\n',
    ),
    Section(
        "[feedback]",
        (FeedbackSettings,),
        f'{MODEL}outputs = "predictions"\ntask = "classification"\n\n{ISSUER}\n'
        '[feedback]\nroute = "/feedback"\n',
    ),
    Section("[tracing]", (TracingSettings,), '[tracing]\nendpoint = "console"\n'),
    Section("[metrics]", (MetricsSettings,), '[metrics]\npath = "/internal/metrics"\n'),
)


def page() -> str:
    """Write the whole page."""
    return "\n".join([HEAD, *map(_section, SECTIONS)])


def _section(section: Section) -> str:
    rows = [line for table in section.tables for line in _rows(table)]
    parts = [
        f"## {section.title}",
        *(_about(table) for table in section.tables),
        f"```toml\n{section.example}```",
        "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows]),
    ]
    return "\n\n".join(parts) + "\n"


def _about(table: type[Table]) -> str:
    """Return what a table's docstring says before its attributes, as Markdown."""
    text = (getdoc(table) or "").partition("\nAttributes:")[0]
    return re.sub(r"(?<!`)\b((?:memory|host|redis)://)(?!`)", r"`\1`", text.strip())


def _rows(table: type[Table]) -> Iterator[str]:
    told = meanings(table)
    for name, key in table.model_json_schema()["properties"].items():
        required = table.model_fields[name].is_required()
        default = "required" if required else _default(table.model_fields[name].get_default())
        cells = [f"`{name}`", _value(key), default, told[name]]
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def meanings(table: type[Table]) -> dict[str, str]:
    """Return what the docstrings of a table and of those it extends say of each key."""
    found: dict[str, str] = {}
    for kind in reversed([kind for kind in table.__mro__ if issubclass(kind, Table)]):
        _, _, attributes = (getdoc(kind) or "").partition("\nAttributes:\n")
        text = re.sub(r"\n {5,}", " ", attributes)
        found |= dict(re.findall(r"^ {4}(\w+): (.*)$", text, re.MULTILINE))
    return found


def _value(key: Mapping[str, Any]) -> str:
    """Say in words what a key takes."""
    kinds = [kind for kind in key.get("anyOf", [key]) if kind.get("type") != "null"]
    if len(kinds) > 1:
        is_size = any("\\w" in kind.get("pattern", "") for kind in kinds)
        return 'a size like `"8 MiB"`' if is_size else " or ".join(dict.fromkeys(map(_one, kinds)))
    return _one(kinds[0])


def _one(kind: Mapping[str, Any]) -> str:
    if "$ref" in kind:
        name = kind["$ref"].rpartition("/")[2]
        return 'a rate like `"600/minute"`' if name == Rate.__name__ else "a table"
    if "enum" in kind and len(kind["enum"]) <= 4:
        return " or ".join(f"`{json.dumps(word)}`" for word in kind["enum"])
    if "const" in kind:
        return f"`{json.dumps(kind['const'])}`"
    if kind["type"] == "array":
        return f"a list: {_value(kind['items'])}"
    if kind["type"] in ("integer", "number"):
        return _number(kind)
    formats = {"path": "a path", "ipv4network": "a network", "ipv6network": "a network"}
    words = {"string": "text", "boolean": "`true` or `false`", "object": "a table"}
    return formats.get(kind.get("format", ""), words[kind["type"]])


def _number(kind: Mapping[str, Any]) -> str:
    what = "a whole number" if kind["type"] == "integer" else "a number"
    lower = kind.get("minimum", kind.get("exclusiveMinimum"))
    upper = kind.get("maximum", kind.get("exclusiveMaximum"))
    low = f" above {lower}" if "exclusiveMinimum" in kind else f" from {lower}"
    high = f" below {upper}" if "exclusiveMaximum" in kind else f" to {upper}"
    is_bounded = upper is not None and upper < 2**53
    return what + (low if lower is not None else "") + (high if is_bounded else "")


def _default(value: Any) -> str:
    """Write a default as the file would."""
    if (isinstance(value, Table) and not isinstance(value, Rate)) or value in (None, {}, ()):
        return "none"
    if isinstance(value, Path):
        value = str(value)
    elif isinstance(value, Rate):
        value = value.text
    elif isinstance(value, ByteSize):
        value = value.human_readable().replace(".0", " ")
    elif isinstance(value, dict):
        (value,) = value.values()
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
