"""What would the settings of this app be, and what of them is guessed?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mlguard.app.front import GuardedApp
from mlguard.cli.init.examples import Example, example_of
from mlguard.cli.init.handlers import Endpoint, handlers_of, health_routes, models_of, named_by
from mlguard.cli.init.places import Place, answers_in, rows_in, written
from mlguard.cli.init.schemas import Schema, made_up
from mlguard.cli.sending import Response, Sender
from mlguard.errors import MLGuardError

_GENERIC = frozenset({"app", "main", "service", "server", "api", "wsgi", "asgi", "run", "src"})
_VERBS = re.compile(
    r"^(get|post|do|run|make|api|v\d+|route|models?|"
    r"predict(ions?)?|infer(ence)?|invocations?|invoke|handle|view|endpoint|async)$",
    re.IGNORECASE,
)
_NAMELESS = re.compile(r"[^A-Za-z0-9._-]+")
_SETTINGS = re.compile(r"[{<].*|^$")


class Proposal(NamedTuple):
    """One setting.

    Attributes:
        value: Its value.
        guessed: What it is guessed from, "" where it is known.
    """

    value: Any
    guessed: str = ""


@dataclass
class ModelDraft:
    """What the settings of one model would be.

    Attributes:
        name: The model's name.
        keys: Its other settings, in order.
        unknown: What nobody could tell, a sentence each.
        handler: Where it is asked.
        example: A request to it, None where nobody knows one.
    """

    name: Proposal
    handler: Endpoint
    keys: dict[str, Proposal] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    example: Example | None = None

    def settings(self) -> dict[str, Any]:
        """Return them as a settings file would have them."""
        return {"name": self.name.value, **{key: line.value for key, line in self.keys.items()}}


@dataclass
class Draft:
    """What the settings of an app would be.

    Attributes:
        target: The app.
        service: The service's name.
        models: Its models.
        public: Routes that need no token.
        metrics_path: Where metrics are read.
        has_pages: Whether it shows its OpenAPI document.
        key_header: The header with a key that the app asks for itself; "" for none.
    """

    target: str
    service: Proposal
    models: list[ModelDraft]
    public: list[str]
    metrics_path: Proposal
    has_pages: bool = False
    key_header: str = ""

    @property
    def guessed(self) -> list[str]:
        """What is guessed: the key, its value and from what."""
        lines = [("service.name", self.service), ("metrics.path", self.metrics_path)]
        for model in self.models:
            place = f"models[{model.name.value}]"
            lines.append((f"{place}.name", model.name))
            lines += [(f"{place}.{key}", line) for key, line in model.keys.items()]
        return [f"{k} = {json.dumps(v.value)}: {v.guessed}" for k, v in lines if v.guessed]

    @property
    def unknown(self) -> list[str]:
        """What nobody could tell."""
        return [f"models[{m.name.value}]: {said}" for m in self.models for said in m.unknown]


def draft(
    guard: GuardedApp[Any],
    target: str,
    *,
    given: str | None = None,
    route: str | None = None,
    send: Sender | None = None,
) -> Draft:
    """Look at an app, and say what its settings would be.

    Args:
        guard: Of the app.
        target: How the operator names the app.
        given: An example, as `example_of` reads it.
        route: Whose example it is, where the app has several models.
        send: Sends requests through the app, to see what it answers; None does not ask.

    Raises:
        MLGuardError: No route asks a model, or the example could be of several.
    """
    handlers = handlers_of(guard)
    groups = _chosen(handlers, route)
    if given is not None and len(groups) > 1:
        named = ", ".join(group[0].route.shown for group in groups)
        raise MLGuardError(f"say of which route the example is, with --route: {named}")
    service = _service(target)
    names: set[str] = set()
    models = []
    for group in groups:
        model = _model(group, service, names, handlers, given)
        _look(model, given, send)
        models.append(model)
    has_pages = any(r.template == "/openapi.json" for r in guard.routes())
    return Draft(
        target,
        service,
        models,
        health_routes(handlers),
        _metrics(guard),
        has_pages,
        _key_header(guard),
    )


def _key_header(guard: GuardedApp[Any]) -> str:
    """Find the header with a key of which the app's OpenAPI documents tell."""
    for _, document in guard.documents():
        for scheme in document.get("components", {}).get("securitySchemes", {}).values():
            if scheme.get("type") == "apiKey" and scheme.get("in") == "header":
                return str(scheme.get("name", ""))
    return ""


def _chosen(handlers: Sequence[Endpoint], route: str | None) -> list[list[Endpoint]]:
    if route is not None:
        return [[named_by(handlers, route)]]
    found = models_of(handlers)
    if not found:
        known = ", ".join(dict.fromkeys(h.route.shown for h in handlers)) or "none"
        raise MLGuardError(f"no route looks like a model's: name one with --route, of {known}")
    return found


def _service(target: str) -> Proposal:
    parts = target.partition(":")[0].split(".")
    for part in reversed(parts):
        if part not in _GENERIC:
            return Proposal(_named(part), "the app's module")
    return Proposal(_named(Path.cwd().name), "the folder's name")


def _named(text: str) -> str:
    return _NAMELESS.sub("-", text).strip("-._")[:64] or "ml-service"


def _model(
    group: Sequence[Endpoint],
    service: Proposal,
    names: set[str],
    handlers: Sequence[Endpoint],
    given: str | None,
) -> ModelDraft:
    handler = group[0]
    if handler.models:
        return ModelDraft(Proposal(handler.models[0]), handler)
    segments = [s for s in handler.route.template.split("/") if not _SETTINGS.match(s)]
    told = [s for s in segments if not _VERBS.match(s)]
    words = [w for w in handler.name.split("_") if w and not _VERBS.match(w)]
    name, why = ("-".join(told), "its route") if told else ("-".join(words), "its handler's name")
    if not name:
        name, why = service.value, "the service's name"
    name = _named(name)
    while name in names:
        name += "-2"
    names.add(name)
    model = ModelDraft(Proposal(name, why), handler)
    spelt = [_spelt(h, handlers) for h in group]
    why = "" if given is not None else "it looks like a model's"
    key, value = ("route", spelt[0]) if len(spelt) == 1 else ("routes", spelt)
    model.keys[key] = Proposal(value, why)
    if handler.name_parameter:
        _name_by_path(model)
    return model


def _name_by_path(model: ModelDraft) -> None:
    """Have the path name the model: the one of the path that is meant, or whichever comes."""
    handler = model.handler
    filled = handler.filled(handler.path) or {}
    named = filled.get(handler.name_parameter)
    model.name = Proposal(_named(named), "the path") if named else Proposal("*")
    model.keys["model_from"] = Proposal(f"path:{handler.name_parameter}", "its route")
    if named is None:
        model.unknown.append(
            "which models its path names: give each an entry like this one, with its name, or say "
            "--route with a path"
        )


def _spelt(handler: Endpoint, handlers: Sequence[Endpoint]) -> str:
    """Spell a route as the settings do: with its host where others have its template."""
    template = handler.route.template
    hosts = {h.route.host for h in handlers if h.route.template == template}
    return handler.route.name if len(hosts) > 1 else template


def _look(model: ModelDraft, given: str | None, send: Sender | None) -> None:
    """Find out where its rows and predictions stand."""
    handler = model.handler
    model.example = example = example_of(handler, given)
    if handler.models:
        return
    origin = "" if given is not None else handler.origin
    if handler.kind in ("form", "query", "files", "csv") and not _is_json(example):
        model.keys["inputs"] = Proposal(handler.kind, origin)
        fields = [*(handler.takes or {}).get("properties", {})]
        if handler.kind in ("form", "query") and fields:
            model.keys["features"] = Proposal(fields, origin)
    else:
        _place(model, None if example is None else rows_in(example.value), given, origin)
    _answers(model, send)


def _is_json(example: Example | None) -> bool:
    return example is not None and example.kind == "json"


def _place(model: ModelDraft, place: Place | None, given: str | None, origin: str) -> None:
    if place is None:
        keys = [*(model.handler.takes or {}).get("properties", {})]
        model.keys["inputs"] = Proposal(written(keys[:1]), origin)
        model.unknown.append(
            "what its rows look like; an example of a request tells: --example FILE"
        )
        return
    if place.protocol:
        model.keys["protocol"] = Proposal(place.protocol, origin)
        return
    model.keys["inputs"] = Proposal(place.inputs, origin)
    if place.shape != "rows" or place.doubt:
        model.keys["shape"] = Proposal(place.shape, origin)
    if place.features:
        model.keys["features"] = Proposal([*place.features], origin)
    elif place.width and given is not None:
        model.unknown.append(
            f"the names of the {place.width} values in a row: set `features`, or a `reference`"
        )
    elif place.width:
        model.unknown.append("the names of the values in a row: set `features`, or a `reference`")
    if place.doubt:
        model.unknown.append(place.doubt)


def _answers(model: ModelDraft, send: Sender | None) -> None:
    """Find the predictions, in what it answers to the example, or in what is said of it."""
    if "protocol" in model.keys:
        return
    value, origin = _shown(model.handler.answers), model.handler.origin
    if send is not None and model.example is not None:
        answer = send(model.example.request(model.handler, model.name.value))
        if answer.status >= 400:
            model.unknown.append(
                f"what it answers: it refused the example with {answer.status}; give one that it "
                "takes, with --example FILE"
            )
            if value is None:
                return
        else:
            value, origin = _parsed(answer), ""
    rows = model.example.value if model.example else None
    found = answers_in(value, len(rows) if isinstance(rows, list) else 0)
    if found is None:
        hint = "set `outputs`" if send else "set `outputs`, or let --send find out"
        has = f", which has {', '.join(value)}" if isinstance(value, Mapping) else ""
        model.unknown.append(f"where its predictions are in the answer{has}: {hint}")
    else:
        model.keys["outputs"] = Proposal(written(found), origin)


def _parsed(answer: Response) -> Any:
    try:
        return json.loads(answer.body)
    except ValueError:
        return None


def _shown(schema: Schema | None) -> Any:
    """Make an answer of its schema, whose members need not be known."""
    if schema is None:
        return None
    properties = schema.get("properties")
    if isinstance(properties, Mapping) and properties:
        return {name: made_up(inner) for name, inner in properties.items()}
    return made_up(schema)


def _metrics(guard: GuardedApp[Any]) -> Proposal:
    """Choose where metrics are read: not where the app answers already."""
    path = "/metrics"
    is_taken = any(r.template == path for r in guard.routes())
    if is_taken or any(layer.answers(path) for layer in guard.around()):
        return Proposal("/mlguard/metrics", "/metrics is the app's own")
    return Proposal(path)
