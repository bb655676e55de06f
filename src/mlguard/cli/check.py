"""Would the service start? `mlguard check`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlguard.errors import InvalidSettings
from mlguard.runtime.front import Front
from mlguard.runtime.service import Service
from mlguard.settings import Auth, Model, Settings
from mlguard.urls import shown


def add(commands: Any) -> None:
    """Add the command to a parser."""
    check = commands.add_parser("check", help="find every mistake before the service starts")
    check.add_argument(
        "target", help="a settings file, or a guarded app: module:app, module:create_app()"
    )
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    if Path(options.target).suffix == ".toml" or ":" not in options.target:
        settings = Service(options.target).settings  # which starts nothing
    else:
        guard = _guard_of(options.target)
        guard.check()
        settings = guard.service.settings
    print(f"{options.target}: ok")
    for line in _summary(settings):
        print(f"  {line}")


def _guard_of(target: str) -> Front[Any]:
    """Import an app and find its guard: in `app.extensions` or `app.state`."""
    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        app = getattr(importlib.import_module(module_name), attribute.removesuffix("()"))
        app = app() if attribute.endswith("()") else app
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSettings(f"cannot be imported: {error}", source=target) from error
    extensions = getattr(app, "extensions", None)
    guard = (
        extensions.get("mlguard")
        if isinstance(extensions, Mapping)
        else getattr(getattr(app, "state", None), "mlguard", None)
    )
    if not isinstance(guard, Front):
        hint = f"; if it makes the app, say {target}()" if inspect.isfunction(app) else ""
        raise InvalidSettings(f"is not guarded: call MLGuard(app, ...){hint}", source=target)
    return guard


def _summary(settings: Settings) -> list[str]:
    quotas, drift, tracing = settings.quotas, settings.drift, settings.tracing
    parts = {
        "quotas": quotas
        and ", ".join(
            [f"{r.text} requests" for r in quotas.requests]
            + [f"{r.text} rows" for r in quotas.rows]
        ),
        "drift": drift and f"windows of {drift.window} rows",
        "tracing": tracing and f"{tracing.sample:.0%} to {tracing.endpoint}",
        "metrics": settings.metrics.path,
    }
    lines = [f"{part:8} {said or 'off'}" for part, said in parts.items()]
    return [*_auth(settings.auth), *lines, *map(_model, settings.models)]


def _auth(auth: Auth | None) -> Iterator[str]:
    if auth is None:
        yield "auth     off"
        return
    for issuer in auth.issuers:
        yield f"auth     {issuer.issuer}: {', '.join(issuer.algorithms)} by {issuer.origin}"
    yield f"scopes   {' '.join(auth.scopes) or 'none'}"
    if auth.revocation_store:
        yield f"store    {shown(auth.revocation_store)}, for revocations"


def _model(model: Model) -> str:
    scopes = f", scopes {' '.join(model.scopes)}" if model.scopes else ""
    return f"model    {model.name} {model.version} {model.route or 'in a handler'}{scopes}"
