"""Would the service start, and what stands before each of its routes? `mlguard check`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlguard.analyst import AnalystConfig
from mlguard.app.service import Service
from mlguard.cli.apps import guard_of
from mlguard.cli.terminal import (
    below,
    bold,
    good,
    odd,
    say,
    say_json,
    titled,
    width,
    wrapped,
)
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.routes.coverage import Coverage, Covered
from mlguard.settings import DEFAULT, Auth, Limits, Model, Quotas, Settings
from mlguard.tracing import Tracing
from mlguard.urls import redacted_url

_LEAST = 24  # columns for the quotas of a route; with fewer, each stands below its route
_USUAL = "mlguard.toml"


class _Found(NamedTuple):
    """What was found of a service.

    Attributes:
        service: The service, which is not started.
        routes: Of an app, what covers each; None where there is no app.
        ways: What leads around its guard.
        pages: Where something else is read as metrics are.
        oversights: What was probably forgotten.
    """

    service: Service
    routes: Sequence[Covered] | None = None
    ways: Sequence[str] = ()
    pages: Sequence[str] = ()
    oversights: Sequence[str] = ()

    @property
    def failures(self) -> str:
        """What --strict does not let pass, "" for nothing."""
        gaps = sum(found.gap is not None for found in self.routes or ())
        failures = [f"nothing covers {_count(gaps, 'route')}"] if gaps else []
        failures += [f"{_count(len(self.ways), 'way')} around the guard"] if self.ways else []
        return ", and ".join(failures)


def add(commands: Any) -> None:
    """Add the command to a parser."""
    check = commands.add_parser(
        "check",
        help="find every mistake before the service starts, and what no quota covers",
        description="Tell every mistake of the settings, what they bring about and, for an app, "
        "what covers each of its routes.",
    )
    check.add_argument(
        "target",
        nargs="?",
        help="a settings file, or a guarded app: module:app, module:create_app(); default: "
        f"{_USUAL}",
    )
    check.add_argument(
        "--strict",
        action="store_true",
        help="fail where nothing covers a route of the app, or something goes around the guard",
    )
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> None:
    target = options.target or _USUAL
    try:
        found = _found(options.target, is_strict=options.strict)
    except MLGuardError as error:
        if options.json:
            problems = error.problems if isinstance(error, InvalidSettings) else [str(error)]
            say_json({"target": target, "ok": False, "mistakes": [*problems]})
        raise
    failures = found.failures if options.strict else ""
    if options.json:
        mistakes = [failures] if failures else []
        say_json({"target": target, "ok": not failures, "mistakes": mistakes, **_written(found)})
    else:
        _tell(target, found)
    if failures:
        raise MLGuardError(f"{target}: {failures}")


def _found(target: str | None, *, is_strict: bool) -> _Found:
    if target is None and not Path(_USUAL).exists():
        raise MLGuardError(
            f"there is no {_USUAL} here: name a settings file or module:app, or let "
            "`mlguard init module:app` write one"
        )
    if target is None or Path(target).suffix == ".toml" or ":" not in target:
        if is_strict:
            raise MLGuardError("--strict is about the routes of an app: give module:app")
        return _Found(Service(target or _USUAL))  # which starts nothing
    guard, outside = guard_of(target)
    guard.check()
    coverage = Coverage(guard.service.settings, guard.routes(), [*outside, *guard.around()])
    return _Found(
        guard.service,
        coverage.covered(),
        coverage.ways_around(),
        coverage.other_pages(),
        coverage.oversights(),
    )


def _tell(target: str, found: _Found) -> None:
    lines = [*_told(target, found.service)]
    if found.routes is not None:
        lines += _routes(found.routes)
    lines += below(odd("\nThese ways lead around the guard:"), found.ways)
    lines += below("", found.pages)
    lines += below(odd("\nProbably forgotten:"), found.oversights)
    say(*lines)


def _written(found: _Found) -> dict[str, Any]:
    """Write what was found for a program."""
    summary = _summary(found.service.settings, found.service.tracing)
    document: dict[str, Any] = {
        "settings": found.service.settings.source,
        "summary": [{"about": about, "said": said} for about, said in summary],
    }
    if found.routes is not None:
        document["routes"] = [_written_route(route) for route in found.routes]
        document["around"] = [*found.ways]
        document["pages"] = [*found.pages]
        document["oversights"] = [*found.oversights]
    return document


def _written_route(found: Covered) -> dict[str, Any]:
    return {
        "methods": found.asked.split(","),
        "route": found.route.shown,
        "access": found.access,
        "models": [*found.models],
        "quotas": [{"whose": whose, "limits": [*limits]} for whose, limits in found.quotas],
        "gap": found.gap,
    }


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _told(target: str, service: Service) -> Iterator[str]:
    settings = service.settings
    file = settings.source
    by = f", by {file}" if file not in (target, "settings") else ""
    if _is_empty(settings):
        text = "nothing is on but metrics; `mlguard init module:app` writes what fits an app"
        yield from wrapped(f"{target}: {odd('ok, but empty')}{by}: {text}", 2)
    else:
        yield f"{target}: {good('ok')}{by}"
    for about, said in _summary(settings, service.tracing):
        yield from titled(f"  {about:9}{said}", 11)


def _is_empty(settings: Settings) -> bool:
    tables = settings.auth, settings.quotas, settings.drift, settings.feedback, settings.tracing
    return not (settings.models or any(tables))


def _routes(covered: Sequence[Covered]) -> Iterator[str]:
    """Lay the routes out, those that nothing covers once more at the end."""
    head = ("", "route", "who may ask", "model")
    rows = [(_cells(found), found.sentences or ["none"]) for found in covered]
    columns = zip(head, *(cells for cells, _ in rows), strict=True)
    widths = [max(map(len, column)) for column in columns]
    room = width() - sum(widths) - 2 * (len(head) + 1)
    yield ""
    if room >= _LEAST:
        yield from map(bold, _row(head, ["quotas"], widths, room))
    for cells, quotas in rows:
        yield from _row(cells, quotas, widths, room)
    gaps = [f"{found.asked} {found.route.shown} {found.gap}" for found in covered if found.gap]
    yield from below(odd("\nNothing covers these, which may be meant:"), gaps)


def _cells(found: Covered) -> tuple[str, ...]:
    return found.asked, found.route.shown, found.access, found.asks


def _row(
    cells: Sequence[str], quotas: Sequence[str], widths: Sequence[int], room: int
) -> Iterator[str]:
    """Write a route down: each of its quotas beside it, or below where there is no room."""
    padded = (f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True))
    first = f"  {'  '.join(padded)}"
    if room < _LEAST:
        yield from wrapped(f"  {'  '.join(cell for cell in cells if cell)}", 8)
        for text in quotas:
            yield from wrapped(f"      {text}", 8)
        return
    for text in quotas:
        for part in textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False):
            yield f"{first}  {part}".rstrip()
            first = " " * len(first)


def _summary(settings: Settings, tracing: Tracing) -> Iterator[tuple[str, str]]:
    yield from _auth(settings.auth)
    yield from _quotas(settings.quotas)
    yield from (("drift", said) for said in _drift(settings))
    yield "tracing", _tracing(tracing)
    yield "metrics", settings.metrics.path
    yield from (("model", _model(model)) for model in settings.models)


def _drift(settings: Settings) -> Iterator[str]:
    """Tell how long each model's first verdict takes."""
    if settings.drift is None:
        has_any = any(model.reference for model in settings.models)
        yield f"off{'' if has_any else ': no model has a reference'}"
        return
    config = AnalystConfig.of(settings)
    for model in config.models:
        rows = config.rows_wanted(model)
        requests = _count(config.requests_for(rows), "request")
        yield f"{model.name}: a verdict takes {_count(rows, 'row')}, those of {requests} at least"


def _tracing(tracing: Tracing) -> str:
    """Tell how many traces go where, by the settings and OpenTelemetry's variables."""
    if tracing.provider is None:
        return "off"
    if tracing.joined:
        return "by the provider that the app is configured with"
    return f"{tracing.share:.0%} to {tracing.endpoint}"


def _auth(auth: Auth | None) -> Iterator[tuple[str, str]]:
    if auth is None:
        yield "auth", "off"
        return
    for issuer in auth.issuers:
        yield "auth", f"{issuer.issuer}: {', '.join(issuer.algorithms)} by {issuer.origin}"
    if keys := auth.api_keys:
        where = redacted_url(keys.store) if keys.store else keys.file
        yield "auth", f"API keys of {where}, in {keys.header}"
    if auth.own_login:
        yield "auth", "the app's own login, by guard.identify"
    yield "scopes", " ".join(auth.scopes) or "none"
    if auth.revocation_store:
        yield "store", f"{redacted_url(auth.revocation_store)}, for revocations"


def _model(model: Model) -> str:
    scopes = f", scopes {' '.join(model.scopes)}" if model.scopes else ""
    where = " ".join(model.all_routes) or "asked by handlers only"
    return f"{model.name} {model.version} {where}{scopes}"


def _quotas(quotas: Quotas | None) -> Iterator[tuple[str, str]]:
    """Sum the quotas up: everybody's first, then what differs, then how they are counted."""
    if quotas is None:
        yield "quotas", "off"
        return
    told = [(place, said) for place, table in quotas.tables() if (said := _limits(table))]
    told += [("each worker", said) for said in [_of_a_worker(quotas)] if said]
    told += [("not counted", said) for said in [_exempt(quotas)] if said]
    for number, (place, said) in enumerate(told):
        yield "" if number else "quotas", f"{place}: {said}" if place else said
    yield "counts", _store(quotas)


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
