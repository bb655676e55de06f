"""Which routes does an app have, and what does each demand?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from types import MethodType
from typing import Any

from flask import Flask
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.routing import Rule

from mlguard.app.front import guarded_app_of
from mlguard.app.wsgi import WSGI
from mlguard.guard.limits import limited, missed, written
from mlguard.routes.route import Route
from mlguard.routes.scopes import demanded
from mlguard.routes.surroundings import Around, around_of, exporting, layers_to, naming


def routes_of(app: Flask, inner: WSGI, around: Iterable[Any]) -> Iterator[Route]:
    """List the routes of an app as the framework spells them, mounted apps included.

    Args:
        app: The app.
        inner: What the guard stands around: Flask's own app under middlewares.
        around: What stands around the guard, which sees of it only what has a guard itself.
    """
    for rule in app.url_map.iter_rules():
        yield _listed(rule, app.view_functions.get(rule.endpoint), host_of(rule))
    for dispatcher, prefix in mounts(inner):
        yield from _mounted(dispatcher.mounts[prefix], prefix, is_guarded=True)
    for prefix, mounted in mounted_by(around):
        yield from _mounted(mounted, prefix, is_guarded=False)


def host_of(rule: Rule) -> str:
    """Tell the host or the subdomain that a rule asks for, "" where it asks for none."""
    return (rule.host if rule.map.host_matching else rule.subdomain) or ""


def _listed(rule: Rule, view: Any, host: str) -> Route:
    methods = set(rule.methods or ())
    if getattr(rule, "provide_automatic_options", False):
        methods.discard("OPTIONS")  # which reaches no view
    return Route(
        tuple(sorted(methods)),
        str(rule.rule),
        demanded(view),
        written(getattr(view, "view_class", None), methods, limited(view)),
        missed=missed(view),
        host=host,
        handler=view,
    )


def _mounted(mounted: Any, prefix: str, *, is_guarded: bool) -> Iterator[Route]:
    front = guarded_app_of(mounted)
    if front is None:
        *_, innermost = layers(mounted)
        yield Route((), prefix or "/", is_guarded=is_guarded, handler=innermost)
    else:
        yield from (r.below(prefix) for r in front.routes())


def around(app: Flask, ours: Any, path: str) -> Iterator[Around]:
    """List what answers by itself around the guard, or measures for itself inside it.

    Args:
        app: The app.
        ours: The guard's outermost layer.
        path: Where metrics are read.
    """
    yield from around_of(app.wsgi_app, lambda layer: layer is ours)
    inside = layers_to(ours, lambda layer: _is_served(layer, app))[1:-1]
    yield from exporting(inside)
    functions = [f for each in app.before_request_funcs.values() for f in each]
    yield from naming([*inside, *functions], path)


def _is_served(layer: Any, app: Flask) -> bool:
    """Tell the app's own method, inside of all its middleware."""
    return isinstance(layer, MethodType) and layer.__self__ is app


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
