"""What can an operator do from a shell? `mlguard check · token · reference`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlguard import __version__
from mlguard.errors import InvalidSettings, MissingExtra, MLGuardError
from mlguard.runtime.front import Front
from mlguard.runtime.service import Service
from mlguard.settings import Settings, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 where all is well, 1 where standard error says what is not."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except MLGuardError as error:
        print(f"mlguard: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlguard", description="Guard an ML inference service.")
    parser.add_argument("--version", action="version", version=f"mlguard {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_check(commands)
    _add_token(commands)
    _add_reference(commands)
    return parser


def _add_check(commands: Any) -> None:
    check = commands.add_parser("check", help="find every mistake before the service starts")
    check.add_argument(
        "target", help="a settings file, or a guarded app: module:app, module:create_app()"
    )
    check.set_defaults(run=_check)


def _add_token(commands: Any) -> None:
    token = commands.add_parser("token", help="tokens for trying things out")
    actions = token.add_subparsers(required=True, metavar="ACTION")
    mint = actions.add_parser("mint", help="sign a token with the secret that the settings name")
    mint.add_argument("--settings", default="mlguard.toml", help="default: %(default)s")
    mint.add_argument("--subject", default="alice", help="default: %(default)s")
    mint.add_argument("--tenant", help="the value of the tenant claim")
    mint.add_argument("--scope", help="words; default: all that the settings demand")
    mint.add_argument("--minutes", type=_minutes, default=60, help="default: %(default)s")
    mint.set_defaults(run=_mint)


def _add_reference(commands: Any) -> None:
    reference = commands.add_parser("reference", help="what training looked like")
    actions = reference.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make a reference file of a table of training inputs")
    build.add_argument("data", type=Path, help="a .csv or .parquet file, one column a feature")
    build.add_argument("-o", "--output", type=Path, default=Path("reference.parquet"))
    build.add_argument(
        "--columns", nargs="+", help="the features, in the model's order; default: all"
    )
    build.add_argument("--categorical", nargs="+", default=(), metavar="COLUMN")
    build.set_defaults(run=_build)


def _minutes(text: str) -> float:
    minutes = float(text)
    if not -1e9 < minutes < 1e9:
        raise ValueError
    return minutes


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
    parts = {
        "auth": settings.auth and f"tokens of {settings.auth.issuer}",
        "quotas": settings.quotas
        and ", ".join(
            [f"{r.text} requests" for r in settings.quotas.requests]
            + [f"{r.text} rows" for r in settings.quotas.rows]
        ),
        "drift": settings.drift and f"windows of {settings.drift.window} rows",
        "tracing": settings.tracing
        and f"{settings.tracing.sample:.0%} to {settings.tracing.endpoint}",
        "metrics": settings.metrics.path,
    }
    lines = [f"{part:8} {said or 'off'}" for part, said in parts.items()]
    return lines + [
        f"model    {m.name} {m.version} {m.route or 'in a handler'}" for m in settings.models
    ]


def _mint(options: argparse.Namespace) -> None:
    from jose import jwt

    from mlguard.auth.claims import usual

    settings = load(options.settings)
    auth = settings.auth
    if auth is None or not settings.secret:
        problem = (
            "mint needs [auth] with `secret_env` or `secret_file`: only the issuer has private keys"
        )
        raise InvalidSettings(problem, source=settings.source)
    claims = usual(
        auth,
        options.subject,
        scope=" ".join(auth.scopes) if options.scope is None else options.scope,
        tenant=options.tenant or "tenant",
        now=int(time.time()),
        seconds=int(options.minutes * 60),
    )
    print(jwt.encode(claims, settings.secret, auth.algorithms[0]))


def _build(options: argparse.Namespace) -> None:
    from mlguard.reference import Reference

    reference = Reference.build(
        _table(options.data, options.columns), categorical=options.categorical
    )
    try:
        reference.save(options.output)
    except OSError as error:
        raise InvalidSettings(f"cannot be written: {error}", source=str(options.output)) from error
    print(f"{options.output}: {reference.rows} rows of {', '.join(reference.features)}")


def _table(path: Path, columns: list[str] | None) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("needs pandas: run `pip install 'mlguard-core[drift]'`") from error
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        return table if columns is None else table[columns]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSettings(f"cannot be read: {error}", source=str(path)) from error
