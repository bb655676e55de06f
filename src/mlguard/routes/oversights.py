"""What was probably forgotten? Models that nothing asks, and routes that seem to ask one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from mlguard.routes.code import codes_near, codes_of
from mlguard.routes.placement import Places
from mlguard.routes.route import Route
from mlguard.settings import REST, Settings

_WORDS = (
    "predict", "infer", "classif", "score", "scoring", "embed", "generate", "invocation",
    "completion", "transcri", "recogni", "summari",
)  # fmt: skip
MODEL_LIKE = re.compile("|".join(_WORDS), re.IGNORECASE)
"""What the names of routes and handlers that ask a model contain."""


def unasked_models(settings: Settings, routes: Iterable[Route]) -> Iterator[str]:
    """Tell the models that have no route, and that no code near a handler names."""
    without = [m.name for m in settings.models if not m.all_routes and m.name != REST]
    if not without:
        return
    texts: set[str] = set()
    seen: set[int] = set()
    for route in routes:
        handler = _written(route)
        module = id(getattr(handler, "__globals__", handler))
        codes = codes_of(handler) if module in seen else codes_near(handler)
        seen.add(module)
        texts.update(*(code.texts for code in codes))
    for name in without:
        if name not in texts:
            yield (
                f"models[{name}]: no route has it, and no handler seems to name it: give it a "
                f"`route`, or call guard.inference({name!r}, rows) where it runs"
            )


def unguarded_models(settings: Settings, routes: Iterable[Route]) -> Iterator[str]:
    """Tell the routes that seem to ask a model, of which the settings know none there."""
    places = Places(settings)
    for route in routes:
        if not route.is_guarded or "POST" not in route.methods:
            continue
        if places.of(route.host, route.template).models or _asks_itself(route):
            continue
        word = MODEL_LIKE.search(route.template) or MODEL_LIKE.search(_name(route))
        if word:
            yield (
                f"POST {route.shown} looks like a model ({word[0]!r}), but none stands there, so "
                "nobody reads its rows: name it in `models[].routes`, or call guard.inference in "
                "its handler"
            )


def _written(route: Route) -> Any:
    """Find what an author wrote: the function below its decorators, or the class of a view."""
    return getattr(route.handler, "view_class", None) or route.function


def _name(route: Route) -> str:
    return str(getattr(_written(route), "__name__", ""))


def _asks_itself(route: Route) -> bool:
    """Tell whether a handler guards a model itself, as far as its own code shows."""
    return any("inference" in code.asks for code in codes_of(_written(route)))
