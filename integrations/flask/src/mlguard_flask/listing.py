"""Which routes does an app have, and what does each demand?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Rule

from mlguard.guard import demanded
from mlguard.guard.limits import limited, missed, written
from mlguard.guard.routes import Route
from mlguard.runtime.front import Front
from mlguard_flask.translate import WSGI


def routes_of(app: Flask, inner: WSGI, around: Iterable[Any]) -> Iterator[Route]:
    """List the routes of an app as the framework spells them, mounted apps included.

    Args:
        app: The app.
        inner: What the guard stands around: Flask's own app under middlewares.
        around: What stands around the guard, which sees of it only what has a guard itself.
    """
    for rule in app.url_map.iter_rules():
        yield _listed(rule, app.view_functions.get(rule.endpoint))
    for dispatcher, prefix in mounts(inner):
        yield from _mounted(dispatcher.mounts[prefix], prefix, is_guarded=True)
    for prefix, mounted in mounted_by(around):
        yield from _mounted(mounted, prefix, is_guarded=False)


def _listed(rule: Rule, view: Any) -> Route:
    methods = set(rule.methods or ())
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")  # which reaches no view
    return Route(
        tuple(sorted(methods)),
        str(rule.rule),
        demanded(view),
        written(getattr(view, "view_class", None), methods, limited(view)),
        missed=missed(view),
    )


def _mounted(mounted: Any, prefix: str, *, is_guarded: bool) -> Iterator[Route]:
    front = front_of(mounted)
    if front is None:
        yield Route((), prefix, is_guarded=is_guarded)
    else:
        yield from (r._replace(template=prefix + r.template) for r in front.routes())


def front_of(mounted: Any) -> Front[Any] | None:
    """Find the guard of a Flask app that is mounted, under its middleware; None where none is.

    What dispatches beside the app is not passed: it would run before anybody decides.
    """
    for layer in layers(mounted):
        if hasattr(layer, "mounts"):
            return None
        extensions = getattr(getattr(layer, "__self__", layer), "extensions", None)
        front = extensions.get("mlguard") if isinstance(extensions, Mapping) else None
        if isinstance(front, Front):
            return front
    return None


def layers(app: Any) -> Iterator[Any]:
    """List what stands around Flask, outermost first: middlewares hold the next one as `app`."""
    while app is not None:
        yield app
        app = getattr(app, "app", None)


def mounts(app: WSGI) -> Iterator[tuple[DispatcherMiddleware, str]]:
    """List the apps that are mounted beside Flask: by what, and at which prefix."""
    for layer in layers(app):
        if isinstance(layer, DispatcherMiddleware):
            yield from ((layer, prefix) for prefix in list(layer.mounts))


def mounted_by(around: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    """List what some layers mount: at which prefix, and which app."""
    for layer in around:
        yield from getattr(layer, "mounts", {}).items()
