"""Would the service start, and what stands before each of its routes? `mlguard check`."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mlguard.app.front import GuardedApp
from mlguard.app.service import Service
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.routes.coverage import Coverage, Covered
from mlguard.routes.surroundings import Around, answering, guard_in, has_guard, layers_to
from mlguard.settings import DEFAULT, Auth, Drift, Limits, Model, Quotas, Settings
from mlguard.tracing import Tracing
from mlguard.urls import redacted_url

_LEAST = 24  # columns for the quotas of a route; with fewer, each stands below its route
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
        "--strict",
        action="store_true",
        help="fail where nothing covers a route of the app, or something goes around the guard",
    )
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    if Path(options.target).suffix == ".toml" or ":" not in options.target:
        if options.strict:
            raise MLGuardError("--strict is about the routes of an app: give module:app")
        _print(_told(options.target, Service(options.target)))  # which starts nothing
        return
    guard, outside = _guard_of(options.target)
    guard.check()
    coverage = Coverage(guard.service.settings, guard.routes(), [*outside, *guard.around()])
    covered, ways = coverage.covered(), coverage.ways_around()
    lines = [*_told(options.target, guard.service), *_routes(covered)]
    lines += _indented("\nThese ways lead around the guard:", ways)
    lines += _indented("", coverage.other_pages())
    _print(lines)
    gaps = sum(found.gap is not None for found in covered)
    failures = [f"nothing covers {_count(gaps, 'route')}"] if gaps else []
    failures += [f"{_count(len(ways), 'way')} around the guard"] if ways else []
    if options.strict and failures:
        raise MLGuardError(f"{options.target}: {', and '.join(failures)}")


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _print(lines: Iterable[str]) -> None:
    """Write lines out; who reads no further, as `head` does, is told no more.

    Raises:
        MLGuardError: They cannot be written.
    """
    try:
        print("\n".join(lines), flush=True)
    except BrokenPipeError:
        _silence()
    except OSError as error:
        _silence()
        raise MLGuardError(f"what was found cannot be written: {error.strerror}") from None


def _silence() -> None:
    """Let what is still to be written go nowhere: the interpreter tries again as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _width() -> int:
    """Tell how long a line may be: a terminal's lines end there, a file's nowhere."""
    is_wide = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return sys.maxsize if is_wide else shutil.get_terminal_size().columns


def _wrapped(line: str, indent: int) -> Iterator[str]:
    """Break a line; what follows stands so many columns in."""
    yield from textwrap.wrap(
        line,
        max(_width(), 2 * indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _told(target: str, service: Service) -> Iterator[str]:
    yield f"{target}: ok"
    for line in _summary(service.settings, service.tracing):
        yield from _wrapped(f"  {line}", 11)


def _guard_of(target: str) -> tuple[GuardedApp[Any], list[Around]]:
    """Import an app and find its guard, and what was put around the app.

    The guard is in `app.extensions` or `app.state`.
    """
    module_name, _, attribute = target.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        app = getattr(importlib.import_module(module_name), attribute.removesuffix("()"))
        app = app() if attribute.endswith("()") else app
    except (ImportError, AttributeError, ValueError) as error:
        raise InvalidSettings(f"cannot be imported: {error}", source=target) from error
    layers = layers_to(app, has_guard)
    guard = guard_in(layers[-1]) if layers else None
    if not isinstance(guard, GuardedApp):
        raise InvalidSettings(f"is not guarded: {_advice(app, target)}", source=target)
    return guard, list(answering(layers[:-1]))


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
    head = ("", "route", "who may ask", "model")
    rows = [(_cells(found), found.sentences or ["none"]) for found in covered]
    columns = zip(head, *(cells for cells, _ in rows), strict=True)
    widths = [max(map(len, column)) for column in columns]
    room = _width() - sum(widths) - 2 * (len(head) + 1)
    yield ""
    if room >= _LEAST:
        yield from _row(head, ["quotas"], widths, room)
    for cells, quotas in rows:
        yield from _row(cells, quotas, widths, room)
    gaps = [f"{found.asked} {found.route.shown} {found.gap}" for found in covered if found.gap]
    yield from _indented("\nNothing covers these, which may be meant:", gaps)


def _cells(found: Covered) -> tuple[str, ...]:
    return found.asked, found.route.shown, found.access, found.asks


def _row(
    cells: Sequence[str], quotas: Sequence[str], widths: Sequence[int], room: int
) -> Iterator[str]:
    """Write a route down: each of its quotas beside it, or below where there is no room."""
    padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    first = f"  {'  '.join(padded)}"
    if room < _LEAST:
        yield from _wrapped(f"  {'  '.join(cell for cell in cells if cell)}", 8)
        for text in quotas:
            yield from _wrapped(f"      {text}", 8)
        return
    for text in quotas:
        for part in textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False):
            yield f"{first}  {part}".rstrip()
            first = " " * len(first)


def _indented(title: str, lines: Sequence[str]) -> Iterator[str]:
    """Tell something below its title, where there is something to tell."""
    if lines:
        yield title
    for line in lines:
        yield from _wrapped(f"  {line}", 4)


def _summary(settings: Settings, tracing: Tracing) -> Iterator[str]:
    yield from _auth(settings.auth)
    yield from _quotas(settings.quotas)
    yield f"drift    {_drift(settings.drift)}"
    yield f"tracing  {_tracing(tracing)}"
    yield f"metrics  {settings.metrics.path}"
    yield from map(_model, settings.models)


def _drift(drift: Drift | None) -> str:
    if drift is None:
        return "off"
    rows = f"{drift.window} rows" if drift.window else "as many rows as each reference proposes"
    return f"windows of {rows}"


def _tracing(tracing: Tracing) -> str:
    """Tell how many traces go where, by the settings and OpenTelemetry's variables."""
    if tracing.provider is None:
        return "off"
    if tracing.joined:
        return "by the provider that the app is configured with"
    return f"{tracing.share:.0%} to {tracing.endpoint}"


def _auth(auth: Auth | None) -> Iterator[str]:
    if auth is None:
        yield "auth     off"
        return
    for issuer in auth.issuers:
        yield f"auth     {issuer.issuer}: {', '.join(issuer.algorithms)} by {issuer.origin}"
    if keys := auth.api_keys:
        where = redacted_url(keys.store) if keys.store else keys.file
        yield f"auth     API keys of {where}, in {keys.header}"
    if auth.own_login:
        yield "auth     the app's own login, by guard.identify"
    yield f"scopes   {' '.join(auth.scopes) or 'none'}"
    if auth.revocation_store:
        yield f"store    {redacted_url(auth.revocation_store)}, for revocations"


def _model(model: Model) -> str:
    scopes = f", scopes {' '.join(model.scopes)}" if model.scopes else ""
    where = " ".join(model.all_routes) or "asked by handlers only"
    return f"model    {model.name} {model.version} {where}{scopes}"


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
    said = f"in {redacted_url(quotas.store)}; without it {', '.join(policies)}"
    return said + (share if is_local else "")
