"""What does each route of an app take and answer, and which of them ask a model?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mlguard.app.front import GuardedApp
from mlguard.cli.init.code import Taken, taken
from mlguard.cli.init.schemas import Schema, expanded
from mlguard.errors import MLGuardError
from mlguard.routes.oversights import MODEL_LIKE
from mlguard.routes.route import Route

BY_DOCUMENT = "the app's OpenAPI document"
BY_CODE = "the handler's code"

_MEDIA = {
    "application/json": "json",
    "application/x-www-form-urlencoded": "form",
    "multipart/form-data": "form",
    "text/csv": "csv",
}
_LIKELY = re.compile(
    "detect|segment|translat|forecast|recommend|regress|rank|ocr|generat|complet", re.IGNORECASE
)  # where somebody asks for what may be guessed
_OTHER = re.compile(
    "login|logout|token|auth|user|register|feedback|label|health|reload|retrain|train|admin|static"
    "|metrics|callback|webhook",
    re.IGNORECASE,
)
_HEALTH = re.compile(r"/(health|healthz|livez|readyz|ping|live|ready|alive|status|heartbeat)/?$")
PARAMETER = re.compile(r"{(\w+)(?::\w+)?}|<(?:\w+(?:\([^)]*\))?:)?(\w+)>")
"""What a path says itself, as FastAPI and Flask spell it."""

_CONVERTER = re.compile(r"{(\w+):\w+}")


class Endpoint(NamedTuple):
    """What one route takes and answers, by one of its methods.

    Attributes:
        route: The route.
        method: The method.
        kind: "json", "form", "files", "query" or "csv"; "" where nobody says.
        takes: A schema of what it takes, None where nobody says.
        answers: A schema of what it answers, None where nobody says.
        origin: Who says so.
        part: Of what is uploaded, the name of the part.
        models: The models that it asks itself, by `guard.inference(...)`.
        path: Which path is meant, "" where any is.
    """

    route: Route
    method: str
    kind: str = ""
    takes: Schema | None = None
    answers: Schema | None = None
    origin: str = ""
    part: str = "file"
    models: tuple[str, ...] = ()
    path: str = ""

    def filled(self, path: str) -> dict[str, str] | None:
        """Tell what stands in a path for each parameter; None where this does not serve it."""
        names, pattern, end = [], "", 0
        for found in PARAMETER.finditer(self.route.template):
            names.append(found[1] or found[2])
            pattern += re.escape(self.route.template[end : found.start()]) + "([^/]+)"
            end = found.end()
        same = re.fullmatch(pattern + re.escape(self.route.template[end:]), path)
        return dict(zip(names, same.groups(), strict=True)) if same else None

    def serves(self, path: str) -> bool:
        """Tell whether a path is one of its."""
        return self.filled(path) is not None

    @property
    def name_parameter(self) -> str:
        """What names the model in the path, "" where nothing does."""
        names = [a or b for a, b in PARAMETER.findall(self.route.template)]
        return next((name for name in names if "model" in name or name == "name"), "")

    @property
    def name(self) -> str:
        """What its function is called."""
        return str(getattr(self.route.function, "__name__", ""))

    @property
    def asks_a_model(self) -> bool:
        """Whether it looks like a model's route: by its names, or by the numbers that it takes."""
        path = self.route.template
        if not self.route.is_guarded or _OTHER.search(path) or _OTHER.search(self.name):
            return False
        if self.models:
            return True
        is_named = any(p.search(n) for p in (MODEL_LIKE, _LIKELY) for n in (path, self.name))
        if self.method == "GET":
            return is_named and self.kind == "query"
        return is_named or (self.kind == "json" and numbers_in(self.takes) > 1)


def handlers_of(guard: GuardedApp[Any]) -> list[Endpoint]:
    """List what an app's routes take, but those of the kit and of the framework."""
    described = dict(_described(guard))
    found = []
    for route in guard.routes():
        module = str(getattr(route.function, "__module__", ""))
        if route.is_websocket or module.startswith(("mlguard", "fastapi.", "flask.")):
            continue
        for method in ("POST", "PUT", "GET"):
            if method in route.methods:
                template = _CONVERTER.sub(r"{\1}", route.template)
                found.append(_handler(route, method, described.get((method, template))))
    return found


def named_by(handlers: Iterable[Endpoint], route: str) -> Endpoint:
    """Find the handler of a route, named as the framework spells it or by a path that it serves.

    Raises:
        MLGuardError: There is none.
    """
    handlers = list(handlers)
    found = [h for h in handlers if route in (h.route.template, h.route.name)]
    found = found or [h._replace(path=route) for h in handlers if h.serves(route)]
    if not found:
        known = ", ".join(dict.fromkeys(h.route.shown for h in handlers)) or "none"
        raise MLGuardError(f"--route {route}: the app has no such route; it has {known}")
    return max(found, key=lambda h: (h.method != "GET", bool(h.kind)))


def models_of(handlers: Iterable[Endpoint]) -> list[list[Endpoint]]:
    """Group the handlers that ask a model: those of one function are one model's."""
    groups: dict[int, list[Endpoint]] = {}
    routes: set[str] = set()
    for handler in handlers:
        if handler.asks_a_model and handler.route.name not in routes:
            routes.add(handler.route.name)
            groups.setdefault(id(handler.route.function), []).append(handler)
    return list(groups.values())


def health_routes(handlers: Iterable[Endpoint]) -> list[str]:
    """List the routes at which somebody only asks whether the service lives."""
    plain = (h.route for h in handlers if h.method == "GET" and not h.asks_a_model)
    return [route.shown for route in plain if _HEALTH.search(route.template)]


def numbers_in(schema: Schema | None) -> int:
    """Count the numbers that a schema asks for; a list of them is many."""
    if not isinstance(schema, Mapping):
        return 0
    if schema.get("type") in ("number", "integer"):
        return 1
    inner = [*(schema.get("properties") or {}).values(), *(schema.get("anyOf") or ())]
    items = [schema.get("items"), *(schema.get("prefixItems") or ())]
    return sum(map(numbers_in, inner)) + 2 * sum(map(numbers_in, items))


Operation = tuple[Mapping[str, Any], Mapping[str, Any]]
"""What a document says of a method of a path, and the document."""


def _described(guard: GuardedApp[Any]) -> Iterator[tuple[tuple[str, str], Operation]]:
    documents: list[tuple[str, Mapping[str, Any]]] = []
    with suppress(Exception):  # an app whose document cannot be written serves all the same
        documents = list(guard.documents())
    for prefix, document in documents:
        for path, operations in document.get("paths", {}).items():
            for method, operation in operations.items():
                yield (method.upper(), prefix + path), (operation, document)


def _handler(route: Route, method: str, operation: Operation | None) -> Endpoint:
    """Ask the document, and where that says little, the code."""
    said = Endpoint(route, method)
    if operation is not None:
        said = _by_document(said, *operation)
    code = taken(route.handler, method)
    if said.takes is None or not _says_something(said.takes):
        said = _by_code(said, code)
    return said._replace(models=code.models)


def _by_document(
    said: Endpoint, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> Endpoint:
    answers = _of_answer(operation, document)
    content = operation.get("requestBody", {}).get("content", {})
    for media, kind in _MEDIA.items():
        if media in content:
            schema = expanded(content[media].get("schema", {}), document)
            if examples := _examples(content[media]):
                schema = {**schema, "examples": examples}
            part = next((n for n, s in (schema.get("properties") or {}).items() if _is_file(s)), "")
            return said._replace(
                kind="files" if part else kind,
                takes=schema,
                answers=answers,
                origin=BY_DOCUMENT,
                part=part or said.part,
            )
    asked = [p for p in operation.get("parameters", ()) if p.get("in") == "query"]
    if asked:
        properties = {p["name"]: expanded(p.get("schema", {}), document) for p in asked}
        schema = {
            "type": "object",
            "properties": properties,
            "required": [p["name"] for p in asked if p.get("required")],
        }
        return said._replace(kind="query", takes=schema, answers=answers, origin=BY_DOCUMENT)
    return said._replace(answers=answers)


def _examples(media: Mapping[str, Any]) -> Any:
    return media.get("examples") or ([media["example"]] if media.get("example") else None)


def _is_file(schema: Schema) -> bool:
    inner = schema.get("items") if schema.get("type") == "array" else schema
    inner = inner or {}
    return inner.get("format") == "binary" or "contentMediaType" in inner


def _of_answer(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Schema | None:
    for status, answer in operation.get("responses", {}).items():
        if status.startswith("2"):
            schema = answer.get("content", {}).get("application/json", {}).get("schema")
            found = expanded(schema or {}, document)
            return found if _says_something(found) else None
    return None


def _says_something(schema: Schema) -> bool:
    """Tell a schema from one that lets anything pass."""
    if schema.get("type") == "object" and not schema.get("properties"):
        return bool(schema.get("examples") or schema.get("example"))
    return bool({*schema} - {"title", "description", "additionalProperties"})


def _by_code(said: Endpoint, code: Taken) -> Endpoint:
    properties: dict[str, Any] = {key: {} for key in code.keys}
    takes = {"type": "object", "properties": properties, "required": [*properties]}
    answers = {"type": "object", "properties": {key: {} for key in code.answers}}
    answers["required"] = [*code.answers]
    return said._replace(
        kind=said.kind or code.kind,
        takes=takes if properties else said.takes,
        answers=said.answers or (answers if code.answers else None),
        origin=BY_CODE if code.kind else said.origin,
        part=code.keys[0] if code.kind == "files" and code.keys else said.part,
    )
