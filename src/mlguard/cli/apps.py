"""Which app does the operator mean, and who guards it?"""

from __future__ import annotations

import importlib
import inspect
import sys
import typing
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

from mlguard.app.front import GuardedApp, Source, settings_instead
from mlguard.cli.terminal import lasting, others_speak
from mlguard.errors import InvalidSettings
from mlguard.routes.surroundings import Around, answering, guard_in, has_guard, layers_to

GROUP = "mlguard.adapters"
"""The group of entry points, each of which names an MLGuard."""


class Adapter(NamedTuple):
    """What guards the apps of a framework.

    Attributes:
        module: Where an app's owner imports it from.
        front: The MLGuard.
        app: The class of its apps.
    """

    module: str
    front: type[GuardedApp[Any]]
    app: type


def imported(target: str) -> Any:
    """Import an app, or have a function make it; what it prints is no finding.

    Raises:
        InvalidSettings: It cannot be imported.
    """
    module_name, _, attribute = target.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        with lasting(f"importing {module_name}"), others_speak():
            app = getattr(importlib.import_module(module_name), attribute.removesuffix("()"))
            return app() if attribute.endswith("()") else app
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSettings(f"cannot be imported: {error}", source=target) from error


def guard_of(target: str) -> tuple[GuardedApp[Any], list[Around]]:
    """Import an app and find its guard, and what was put around the app.

    Raises:
        InvalidSettings: It cannot be imported, or has none.
    """
    app = imported(target)
    found = guard_around(app)
    if found is None:
        raise InvalidSettings(f"is not guarded: {_advice(app, target)}", source=target)
    return found


def app_and_guard(target: str, instead: Source | None) -> tuple[Any, GuardedApp[Any] | None]:
    """Import an app, and find its guard, None without one.

    Args:
        target: The app.
        instead: Settings in place of those that it names; where they do not do, its own do.

    Raises:
        InvalidSettings: It cannot be imported.
    """
    try:
        with settings_instead(instead):
            app = imported(target)
    except InvalidSettings:
        if instead is None:
            raise
        app = imported(target)
    found = guard_around(app)
    return app, found[0] if found else None


def guard_around(app: object) -> tuple[GuardedApp[Any], list[Around]] | None:
    """Find an app's guard, which `app.extensions` or `app.state` has, and what is around it."""
    layers = layers_to(app, has_guard)
    guard = guard_in(layers[-1]) if layers else None
    return (guard, list(answering(layers[:-1]))) if isinstance(guard, GuardedApp) else None


def adapter_of(app: object, target: str) -> Adapter:
    """Find what would guard an app.

    Raises:
        InvalidSettings: Nothing that is installed.
    """
    for adapter in adapters():
        if isinstance(app, adapter.app):
            return adapter
    raise InvalidSettings(f"cannot be guarded: {_advice(app, target)}", source=target)


def _advice(app: object, target: str) -> str:
    """Say how an app would be guarded, by the adapters that are installed."""
    known = list(adapters())
    for adapter in known:
        if isinstance(app, adapter.app):
            return f"say `from {adapter.module} import MLGuard`, and call MLGuard(app, ...)"
    if inspect.isroutine(app):
        return f"it is a function; if that makes the app, say {target}()"
    if not known:
        return "install mlguard-fastapi or mlguard-flask, and call MLGuard(app, ...)"
    names = " or ".join(adapter.app.__name__ for adapter in known)
    return f"it is no app of {names}, and no other is known here"


def adapters() -> Iterator[Adapter]:
    """List the adapters that are installed."""
    for entry in sorted(entry_points(group=GROUP)):
        try:
            front = entry.load()
        except (ImportError, AttributeError):  # its framework is not installed
            continue
        for base in getattr(front, "__orig_bases__", ()):
            for guarded in typing.get_args(base):
                yield Adapter(entry.module, front, guarded)
