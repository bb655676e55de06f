"""Would the service start, and what stands before each of its routes? `mlguard check`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.guard.coverage import Covered, coverage
from mlguard.runtime.front import Front
from mlguard.runtime.service import Service
from mlguard.settings import DEFAULT, Auth, Limits, Model, Quotas, Settings
from mlguard.urls import shown

_ADAPTERS = "mlguard.adapters"  # the group of entry points, each of which names an MLGuard


def add(commands: Any) -> None:
    """Add the command to a parser."""
    check = commands.add_parser(
        "check",
        help="find every mistake before the service starts, and what no quota covers",
        description="Tell every mistake of the settings, what they bring about and, for an app, "
        "what covers each of its routes.",
    )
    check.add_argument(
        "target", help="a settings file, or a guarded app: module:app, module:create_app()"
    )
    check.add_argument(
        "--strict", action="store_true", help="fail where nothing covers a route of the app"
    )
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    if Path(options.target).suffix == ".toml" or ":" not in options.target:
        if options.strict:
            raise MLGuardError("--strict is about the routes of an app: give module:app")
        _tell(options.target, Service(options.target).settings)  # which starts nothing
        return
    guard = _guard_of(options.target)
    guard.check()
    settings = guard.service.settings
    covered = coverage(settings, guard.routes())
    _tell(options.target, settings)
    for line in _routes(covered):
        print(line)
    if options.strict and (count := sum(found.gap is not None for found in covered)):
        routes = "1 route" if count == 1 else f"{count} routes"
        raise MLGuardError(f"{options.target}: nothing covers {routes}")


def _tell(target: str, settings: Settings) -> None:
    print(f"{target}: ok")
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
        raise InvalidSettings(f"is not guarded: {_advice(app, target)}", source=target)
    return guard


def _advice(app: object, target: str) -> str:
    """Say how an app would be guarded, by the adapters that are installed."""
    adapters = list(_adapters())
    for module, guarded in adapters:
        if isinstance(app, guarded):
            return f"say `from {module} import MLGuard`, and call MLGuard(app, ...)"
    if inspect.isroutine(app):
        return f"it is a function; if that makes the app, say {target}()"
    if not adapters:
        return "install mlguard-fastapi or mlguard-flask, and call MLGuard(app, ...)"
    known = " or ".join(guarded.__name__ for _, guarded in adapters)
    return f"it is no app of {known}, and no other is known here"


def _adapters() -> Iterator[tuple[str, type]]:
    """List the adapters that are installed: their modules, and of what class their apps are."""
    for entry in sorted(entry_points(group=_ADAPTERS)):
        try:
            front = entry.load()
        except (ImportError, AttributeError):  # its framework is not installed
            continue
        for base in getattr(front, "__orig_bases__", ()):
            for guarded in typing.get_args(base):
                yield entry.module, guarded


def _routes(covered: Sequence[Covered]) -> Iterator[str]:
    """Lay the routes out, those that nothing covers once more at the end."""
    head = ("", "route", "who may ask", "model", "quotas")
    rows = [head, *(row for found in covered for row in _rows(found))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    yield ""
    for row in rows:
        cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
    gaps = [found for found in covered if found.gap]
    if gaps:
        yield "\nNothing covers these, which may be meant:"
    for found in gaps:
        yield f"  {found.asked} {found.route.template} {found.gap}"


def _rows(found: Covered) -> Iterator[tuple[str, ...]]:
    """Write a route down, each of its quotas in a row."""
    first, *others = found.sentences or ["none"]
    yield found.asked, found.route.template, found.access, found.model or "", first
    for other in others:
        yield "", "", "", "", other


def _summary(settings: Settings) -> Iterator[str]:
    drift, tracing = settings.drift, settings.tracing
    yield from _auth(settings.auth)
    yield from _quotas(settings.quotas)
    yield f"drift    {f'windows of {drift.window} rows' if drift else 'off'}"
    yield f"tracing  {f'{tracing.sample:.0%} to {tracing.endpoint}' if tracing else 'off'}"
    yield f"metrics  {settings.metrics.path}"
    yield from map(_model, settings.models)


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


def _quotas(quotas: Quotas | None) -> Iterator[str]:
    """Sum the quotas up: everybody's first, then what differs, then how they are counted."""
    if quotas is None:
        yield "quotas   off"
        return
    told = [(place, said) for place, table in quotas.tables() if (said := _limits(table))]
    told += [("each worker", said) for said in [_of_a_worker(quotas)] if said]
    told += [("not counted", said) for said in [_exempt(quotas)] if said]
    for number, (place, said) in enumerate(told):
        yield f"{'' if number else 'quotas':9}{f'{place}: ' if place else ''}{said}"
    yield f"counts   {_store(quotas)}"


def _limits(table: Limits) -> str:
    units = {"requests": table.requests, "rows": table.rows, **table.units}
    said = [text for unit, rates in units.items() for text in _windows(unit, rates)]
    said += [f"{table.concurrency} requests in flight"] if table.concurrency else []
    said += [f"{table.lifetime} rows ever"] if table.lifetime else []
    return ", ".join(said)


def _windows(unit: str, rates: Iterable[Any] | None) -> list[str]:
    if rates is None:
        return []
    return [f"{rate.text} {unit}" for rate in rates] or [f"any number of {unit}"]


def _of_a_worker(quotas: Quotas) -> str:
    unmatched = quotas.unmatched_per_client
    said = [f"{quotas.max_in_flight} requests in flight"] if quotas.max_in_flight else []
    said += [f"{unmatched.text} requests of a client that match no route"] if unmatched else []
    return ", ".join(said)


def _exempt(quotas: Quotas) -> str:
    exempt = quotas.exempt
    who = {
        "routes": exempt.routes,
        "subjects": exempt.subjects,
        "scopes": exempt.scopes,
        "networks": [*map(str, exempt.networks)],
    }
    return ", ".join(f"{what} {' '.join(names)}" for what, names in who.items() if names)


def _store(quotas: Quotas) -> str:
    if quotas.store == "memory://":
        return "in memory://, where each worker counts alone"
    others = [(what, how) for what, how in quotas.on_store_failure.items() if what != DEFAULT]
    policies = [quotas.failure(DEFAULT), *(f"{what} {how}" for what, how in others)]
    share = f", where local is {quotas.local_share:g} of each limit in each worker"
    is_local = any(policy.endswith("local") for policy in policies)
    said = f"in {shown(quotas.store)}; without it {', '.join(policies)}"
    return said + (share if is_local else "")
