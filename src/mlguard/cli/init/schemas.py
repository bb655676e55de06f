"""What would a value of this JSON Schema look like?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = Mapping[str, Any]

_DEEPEST = 12  # levels of a schema that may be about itself
_ROWS = 2  # made up, where a list of rows is wanted
_VALUES = 4  # of a list of which nobody says how long it is
_TEXTS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "somebody@example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "uri": "https://example.com/",
    "byte": "AA==",
}


def expanded(schema: Any, document: Mapping[str, Any], depth: int = _DEEPEST) -> Any:
    """Put what a schema refers to in its place, as deep as anybody reads."""
    if isinstance(schema, list):
        return [expanded(entry, document, depth) for entry in schema]
    if not isinstance(schema, Mapping):
        return schema
    if depth == 0:
        return {}
    if isinstance(name := schema.get("$ref"), str):
        found: Any = document
        for key in name.removeprefix("#/").split("/"):
            found = found.get(key, {}) if isinstance(found, Mapping) else {}
        return expanded(found, document, depth - 1)
    return {key: expanded(value, document, depth - 1) for key, value in schema.items()}


def made_up(schema: Schema, width: int = 0) -> Any:
    """Make a value that fits a schema: what it names as an example or default, else something.

    Args:
        schema: One without references.
        width: Values in a row; 0 where unknown.

    Returns:
        None where the schema does not say enough.
    """
    for key in ("examples", "enum"):
        if schema.get(key):
            return next(iter(_values(schema[key])), None)
    for key in ("example", "const", "default"):
        if schema.get(key) is not None:
            return schema[key]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return _merged(schema[key], width) if key == "allOf" else _first(schema[key], width)
    match _type(schema):
        case "object":
            return _object(schema, width)
        case "array":
            return _array(schema, width)
        case "number":
            return float(_between(schema, 1))
        case "integer":
            return int(_between(schema, 1))
        case "string":
            return _text(schema)
        case "boolean":
            return True
    return None


def _values(examples: Any) -> list[Any]:
    """List examples, which OpenAPI may name each."""
    if isinstance(examples, Mapping):
        named = examples.values()
        return [e.get("value") if isinstance(e, Mapping) else e for e in named]
    return list(examples)


def _type(schema: Schema) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), None)
    return str(kind or ("object" if "properties" in schema else ""))


def _first(schemas: list[Schema], width: int) -> Any:
    made = (made_up(schema, width) for schema in schemas if schema.get("type") != "null")
    return next((value for value in made if value is not None), None)


def _merged(schemas: list[Schema], width: int) -> Any:
    made = [made_up(schema, width) for schema in schemas]
    objects = [value for value in made if isinstance(value, dict)]
    if len(objects) > 1:
        return {key: value for found in objects for key, value in found.items()}
    return next((value for value in made if value is not None), None)


def _object(schema: Schema, width: int) -> Any:
    """Make an object of what it must have, and of what else it may have that has a value."""
    properties, needed = schema.get("properties") or {}, schema.get("required") or ()
    made = {
        name: made_up(inner, width)
        for name, inner in properties.items()
        if name in needed or not _is_optional(inner)
    }
    # Of a member that nobody describes, a number is likelier than anything else where it is one
    # of several, and nothing is known where it is the only one.
    if [*made.values()] in ([], [None]):
        return None
    return {name: 1.0 if value is None else value for name, value in made.items()}


def _is_optional(schema: Schema) -> bool:
    kinds = [each.get("type") for each in schema.get("anyOf") or ()]
    return "null" in kinds or ("default" in schema and schema["default"] is None)


def _array(schema: Schema, width: int) -> Any:
    if schema.get("prefixItems"):
        return [made_up(item, width) for item in schema["prefixItems"]]
    item = made_up(schema.get("items") or {}, width)
    if item is None:
        return None
    least, most = schema.get("minItems", 0), schema.get("maxItems", 1 << 16)
    is_plain = not isinstance(item, list | dict | str)
    wanted = (width or _VALUES) if is_plain else _ROWS
    return [item] * max(least, min(most, wanted))


def _between(schema: Schema, wanted: float) -> float:
    low, high = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if over is not None:
        low = over + (1 if under is None or under - over > 1 else (under - over) / 2)
    if under is not None:
        high = under - (1 if low is None or under - low > 1 else (under - low) / 2)
    value = wanted if low is None else max(wanted, low)
    return float(value if high is None else min(value, high))


def _text(schema: Schema) -> str:
    text = _TEXTS.get(str(schema.get("format")), "text")
    return text.ljust(schema.get("minLength", 0), "x")[: schema.get("maxLength")]
