"""Which models may share a route?

Those of which a request names one, or which find their rows each in another place of its body.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlguard.pointers import SOURCES

if TYPE_CHECKING:
    from mlguard.settings.tables import Model

_PROTOCOLS = {"v1": "instances", "v2": "inputs"}


def alike(name: str) -> str:
    """Spell a name as whoever does not look closely would read it."""
    return name.strip().casefold()


def sharing_problem(models: Sequence[Model]) -> str | None:
    """Say what is wrong with how models share routes, None where nothing is."""
    by_route: dict[str, list[Model]] = {}
    for model in models:
        for route in model.all_routes:
            by_route.setdefault(route, []).append(model)
    found = (_problem(route, there) for route, there in by_route.items())
    return next(filter(None, found), None)


def _problem(route: str, there: Sequence[Model]) -> str | None:
    names = [model.name for model in there]
    if len(set(names)) < len(names):
        return f"{max(names, key=names.count)!r} names twice the route {route!r}"
    if problem := _other_source(route, there):
        return problem
    if len(there) == 1:
        return None
    if len({model.model_from for model in there}) > 1:
        return (
            f"{_and(names)} share the route {route!r}: give all of them the same `model_from`, "
            "which says where a request names one"
        )
    return _namesakes(route, there) if there[0].model_from else _same_place(route, there)


def _other_source(route: str, there: Sequence[Model]) -> str | None:
    """Find models that are told by JSON bodies, or share them, and read their rows elsewhere."""
    said = there[0].model_from or ""
    is_json = said.startswith("body:") or (len(there) > 1 and not said)
    sources = {model.inputs if model.inputs in SOURCES else "" for model in there}
    strange = next((m for m in there if m.inputs in SOURCES), None)
    if strange is None or (not is_json and len(sources) == 1):
        return None
    return (
        f"{strange.name!r} reads the {strange.inputs} of the route {route!r}, whose models are "
        'told apart by JSON bodies: use `model_from = "path:name"` or "query:model", and one kind '
        "of `inputs` for all of them"
    )


def _namesakes(route: str, there: Sequence[Model]) -> str | None:
    """Find a name by which two models of a route are asked."""
    known: dict[str, str] = {}
    for model in there:
        for name in (model.name, *model.aliases):
            if known.setdefault(alike(name), model.name) != model.name:
                return f"{name!r} asks two models at the route {route!r}"
    return None


def _same_place(route: str, there: Sequence[Model]) -> str | None:
    """Find two models whose rows would be the same ones."""
    known: dict[str | None, str] = {}
    for model in there:
        place = _PROTOCOLS[model.protocol] if model.protocol else model.inputs
        other = known.setdefault(place, model.name)
        if other != model.name:
            return (
                f"{_and([other, model.name])} share the route {route!r} and the rows at {place!r}: "
                'say where a request names one, with `model_from = "body:model"`, or where each '
                "has rows of its own, with another `inputs`"
            )
    return None


def _and(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))
