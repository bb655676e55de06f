"""How does an account get more than its limit?"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from mlguard.cli.quota.books import books
from mlguard.cli.quota.whose import Whose, add_whose, whose
from mlguard.cli.terminal import say
from mlguard.errors import MLGuardError
from mlguard.ledger import FLIGHT, LIFETIME, WINDOW, Change, Entry, Limit
from mlguard.routes.coverage import rate
from mlguard.settings import nearest

_MOST = 2**53


class Grant(NamedTuple):
    """What is given.

    Attributes:
        units: How many.
        unit: Of what.
        model: Of which model, None for requests of all.
    """

    units: int
    unit: str
    model: str | None

    @property
    def said(self) -> str:
        """What is given, in words."""
        return f"{self.unit} of {self.model}" if self.model else self.unit


def add(actions: Any) -> None:
    """Add the action to a parser."""
    grant = actions.add_parser(
        "grant",
        help="give a caller units beyond its limit",
        description="Give units beyond the limit, in the current window of each window of them. "
        "A single call that is larger than a whole window stays refused.",
    )
    add_whose(grant)
    grant.add_argument("--requests", type=_units, metavar="N", help="requests")
    grant.add_argument("--rows", type=_units, metavar="N", help="predicted rows of a model")
    grant.add_argument(
        "--unit",
        nargs=2,
        action="append",
        default=[],
        metavar=("UNIT", "N"),
        help="of what `quotas.units` names, of a model",
    )
    grant.add_argument("--model", help="the model; needed where there are several")
    grant.add_argument(
        "--lifetime", action="store_true", help="to the budget of rows that never comes back"
    )
    grant.set_defaults(run=_grant)


def _units(text: str) -> int:
    units = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= units <= _MOST:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number from 1")
    return units


def _grant(options: argparse.Namespace) -> None:
    account = whose(options)
    grants = list(_wanted(account, options))
    if not grants:
        raise MLGuardError("say what to grant: --rows N, --requests N or --unit UNIT N")
    kind = LIFETIME if options.lifetime else WINDOW
    chosen = [(grant, list(_limits(account, grant, kind))) for grant in grants]
    with books(account.settings, account.quotas) as places:
        if account.is_plan_open:
            entries = [e for place in places for e in place.entries(account.tag, account.account)]
            chosen = [(grant, _known(grant, found, entries)) for grant, found in chosen]
        changes = list(_changes(account, chosen))
        for place in places:
            place.apply(changes)
    where = f", in {len(places)} files" if len(places) > 1 else ""
    for grant, found in chosen:
        say(f"granted {grant.units} {grant.said} to {account.said}: {_said(found)}{where}")


def _wanted(account: Whose, options: argparse.Namespace) -> Iterator[Grant]:
    """List what the shell says."""
    if options.requests is not None:
        model = None if options.model is None else _model(account, options.model)
        yield Grant(options.requests, "requests", model)
    wanted = [] if options.rows is None else [("rows", options.rows)]
    for unit, text in options.unit:
        try:
            wanted.append((unit, _units(text)))
        except argparse.ArgumentTypeError as error:
            raise MLGuardError(f"--unit {unit}: {error}") from error
    for unit, units in wanted:
        yield Grant(units, unit, _model(account, options.model))
    others = [unit for unit, _ in wanted if unit != "rows"]
    if options.lifetime and (others or options.requests is not None):
        raise MLGuardError("only rows have a lifetime: give --lifetime with --rows alone")


def _model(account: Whose, name: str | None) -> str:
    models = account.settings.model_names
    if name is None and len(models) == 1:
        return models[0]
    if name is None:
        raise MLGuardError(f"say whose with --model: {', '.join(models) or 'there is none'}")
    if name not in models:
        raise MLGuardError(f"no model is named {name!r}; {nearest(name, models)}")
    return name


def _limits(account: Whose, grant: Grant, kind: str) -> Iterator[Limit]:
    """List the limits that are meant, of any plan where it is not known which the caller has."""
    plans = (None, *account.quotas.plans) if account.is_plan_open else (None,)
    found = (limit for plan in plans for limit in account.limits(grant.model, plan))
    listed = [limit for limit in found if limit.kind != FLIGHT]
    of_it = [limit for limit in listed if limit.unit == grant.unit and limit.kind == kind]
    if not of_it:
        what = f"{grant.said} ever" if kind == LIFETIME else grant.said
        raise MLGuardError(
            f"no quota limits {what}, so that nothing can be granted; "
            f"there are limits of {', '.join(sorted({_name(m) for m in listed})) or 'nothing'}"
        )
    yield from {limit.field: limit for limit in of_it}.values()


def _name(limit: Limit) -> str:
    ever = " ever" if limit.kind == LIFETIME else ""
    return f"{limit.unit} of {limit.model}{ever}" if limit.model else limit.unit + ever


def _known(grant: Grant, limits: Iterable[Limit], entries: Iterable[Entry]) -> list[Limit]:
    """Choose the limits by which the caller was counted, which tells its plan."""
    amounts = {entry.field: entry.amount for entry in entries}
    found = [
        dataclasses.replace(limit, amount=amounts[limit.field])
        for limit in limits
        if limit.field in amounts
    ]
    if not found:
        raise MLGuardError(
            f"which limits of {grant.said} hold depends on the caller's plan, "
            "and none was counted yet: say --plan"
        )
    return found


def _changes(account: Whose, limits: Iterable[tuple[Grant, Iterable[Limit]]]) -> Iterator[Change]:
    for grant, found in limits:
        for limit in found:
            yield Change(account.tag, account.account, limit, -grant.units, 0.0, is_grant=True)


def _said(limits: Iterable[Limit]) -> str:
    return ", ".join(
        f"in the current window of {rate(m.amount, m.seconds)}" if m.seconds else "for good"
        for m in limits
    )
