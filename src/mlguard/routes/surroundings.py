"""What stands around the guard, and what does it answer by itself?

Frameworks and their extensions put layers around an app after the guard came. A layer holds the
next one in an attribute, whose name differs, or a function does in its closure; from the outermost
they are walked inwards until the guard is found.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mlguard.routes.code import codes_of

_NEXT = (
    "app",
    "wsgi_app",
    "other_asgi_app",
    "wrapped_app",
    "application",
    "_app",
    "__wrapped__",
    "func",
    "__self__",
)
"""Where layers hold the next one; what else they hold is looked at after these."""

_MOST = 64  # objects looked at
_PASSING = (
    "a2wsgi.",
    "asgiref.",
    "fastapi.",
    "flask.",
    "opentelemetry.",
    "sentry_sdk.",
    "starlette.",
    "uvicorn.",
    "werkzeug.middleware.lint",
    "werkzeug.middleware.profiler",
    "werkzeug.middleware.proxy_fix",
)
"""Modules whose layers hand on whatever is asked, or refuse it."""

_EXPORTERS = (
    "aioprometheus",
    "prometheus_client",
    "prometheus_fastapi_instrumentator",
    "prometheus_flask_exporter",
    "starlette_exporter",
    "starlette_prometheus",
)
_METRICS = ("metrics_endpoint", "metrics_path", "metrics_url")
"""Where a middleware notes that it answers Prometheus itself."""

Found = Callable[[Any], bool]


class Around(NamedTuple):
    """A layer that answers by itself.

    Attributes:
        name: Which it is: the module and name of its class or function.
        prefix: Below which path it answers; None where that is not known.
        is_inside: Whether the guard stands around it, and not it around the guard.
        is_likely: Whether its code only names the path, so that nobody knows whether it answers.
    """

    name: str
    prefix: str | None
    is_inside: bool = False
    is_likely: bool = False

    def answers(self, path: str) -> bool:
        """Tell whether it is known to answer a path."""
        if self.is_likely:
            return False
        return self.prefix is not None and f"{path}/".startswith(self.prefix.rstrip("/") + "/")

    def __str__(self) -> str:
        """Say what it answers, and what to do."""
        what = "answers by itself" if self.prefix is None else f"answers below {self.prefix}"
        return (
            f"{self.name} stands around the guard, and what it {what} is not guarded: "
            "put it there before MLGuard(app, ...), or mount it in the app"
        )


def layers_to(outermost: Any, found: Found) -> list[Any]:
    """List the layers from the outermost to the one looked for; none where it is not found."""
    return _walk(outermost, found, set())


def _walk(layer: Any, found: Found, seen: set[int]) -> list[Any]:
    if found(layer):
        return [layer]
    if id(layer) in seen or len(seen) > _MOST:
        return []
    seen.add(id(layer))
    for inner in _inner(layer):
        if rest := _walk(inner, found, seen):
            return [layer, *rest]
    return []


def _inner(layer: Any) -> Iterator[Any]:
    """List what a layer may hand over to: by its usual names, then whatever else can be called."""
    held = (_held(layer, name) for name in _NEXT)
    yield from (inner for inner in held if inner is not None)
    for other in (*_attributes(layer).values(), *_closed_over(layer)):
        if callable(other) and not isinstance(other, type):
            yield other


def _held(layer: Any, name: str) -> Any:
    """Read an attribute, None where there is none: a proxy may raise whatever it likes."""
    with suppress(Exception):
        return getattr(layer, name, None)
    return None


def _attributes(layer: Any) -> Mapping[str, Any]:
    found = _held(layer, "__dict__")
    return dict(found) if isinstance(found, Mapping) else {}


def _closed_over(function: Any) -> Iterator[Any]:
    for cell in _held(function, "__closure__") or ():
        with suppress(ValueError):  # it is not filled yet
            yield cell.cell_contents
    if isinstance(function, functools.partial):
        yield from (*function.args, *function.keywords.values())


def guard_in(app: Any) -> Any:
    """Find the guard that an app, or what the guard put around it, knows; None without one."""
    extensions = _held(app, "extensions")
    if isinstance(extensions, Mapping) and "mlguard" in extensions:
        return extensions["mlguard"]
    return _held(_held(app, "state"), "mlguard")


def has_guard(app: Any) -> bool:
    """Tell whether an app, or what the guard put around it, knows its guard."""
    return guard_in(app) is not None


def around_of(outermost: Any, found: Found) -> Iterator[Around]:
    """List what answers by itself around the layer looked for, or hides it."""
    path = layers_to(outermost, found)
    yield from answering(path[:-1] if path else [outermost])


def answering(layers: Iterable[Any]) -> Iterator[Around]:
    """List what some layers answer by themselves."""
    for layer in layers:
        name, known = layer_name(layer), _prefixes(layer)
        if known is not None:
            yield from (Around(name, prefix) for prefix in known)
        elif not name.startswith(_PASSING) and not hasattr(layer, "__self__"):  # a bound method's
            yield Around(name, None)


def exporting(layers: Iterable[Any]) -> Iterator[Around]:
    """List where layers inside the guard answer Prometheus by themselves."""
    for layer in layers:
        for path in _metrics_paths(_attributes(layer)):
            yield Around(layer_name(layer), path, is_inside=True)


def will_export(kind: Callable[..., Any], options: Mapping[str, Any]) -> Iterator[Around]:
    """List where a layer inside the guard will answer Prometheus by itself."""
    defaults: dict[str, Any] = {}
    with suppress(TypeError, ValueError):  # it shows no signature
        defaults = {p.name: p.default for p in inspect.signature(kind).parameters.values()}
    for path in _metrics_paths(defaults | dict(options)):
        yield Around(layer_name(kind), path, is_inside=True)


def naming(layers: Iterable[Any], path: str) -> Iterator[Around]:
    """List layers inside the guard whose code names a path: they may answer it themselves."""
    for layer in layers:
        function = layer.dispatch_func if _is_dispatching(layer) else layer
        if not layer_name(layer).startswith(_PASSING) and any(
            path in code.texts for code in codes_of(function)
        ):
            yield Around(layer_name(layer), path, is_inside=True, is_likely=True)


def _is_dispatching(layer: Any) -> bool:
    return _held(layer, "dispatch_func") is not None


def exporter(handler: Any) -> str | None:
    """Tell which package made a handler that answers Prometheus; None where none is known."""
    package = str(_held(handler, "__module__")).partition(".")[0]
    return package if package in _EXPORTERS else None


def layer_name(layer: Any) -> str:
    """Say which layer it is."""
    # Starlette's BaseHTTPMiddleware does what that function says.
    function = layer.dispatch_func if type(layer).__name__ == "BaseHTTPMiddleware" else layer
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}".replace(".<locals>", "")


def _prefixes(layer: Any) -> list[str] | None:
    """List the paths below which a layer answers, None where it does not show them."""
    mounts = _held(layer, "mounts")  # of werkzeug's DispatcherMiddleware
    if isinstance(mounts, Mapping):
        return [p for p, app in mounts.items() if not layers_to(app, has_guard)]
    path = _held(layer, "engineio_path")  # of Socket.IO's WSGIApp and ASGIApp
    if isinstance(path, str):
        return [f"/{path.strip('/')}", *(_held(layer, "static_files") or ())]
    exports = _held(layer, "exports")  # of werkzeug's SharedDataMiddleware
    if isinstance(exports, list):
        return [str(entry[0]) for entry in exports]
    return [*_metrics_paths(_attributes(layer))] or None


def _metrics_paths(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if name.lstrip("_") in _METRICS and isinstance(value, str) and value.startswith("/"):
            yield value
