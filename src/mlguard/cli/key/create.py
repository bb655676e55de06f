"""How does a caller get an API key?"""

from __future__ import annotations

import argparse
import time
from datetime import UTC, datetime
from typing import Any

from mlguard.auth.api_keys import (
    LONGEST_KEY,
    SHORTEST_KEY,
    ApiKey,
    KeyBook,
    id_of,
    new_id,
    new_key,
    one_key,
)
from mlguard.cli.key.kept import change, sent, settings_of
from mlguard.cli.terminal import note, say
from mlguard.cli.token.options import add_settings
from mlguard.errors import MLGuardError
from mlguard.settings import Settings, nearest

DAY = 86_400.0


def add(actions: Any) -> None:
    """Add the action to a parser."""
    create = actions.add_parser(
        "create",
        help="make a key, and show it this once",
        description="Make a key and print it: nobody can show it again, as only a salted hash is "
        "kept. Services that run accept it within a second.",
    )
    create.add_argument("--subject", required=True, help="who calls with it")
    create.add_argument("--tenant", help="whom the caller belongs to")
    create.add_argument("--scope", help="words; default: all that the settings demand")
    create.add_argument("--plan", help="which of quotas.plans holds")
    create.add_argument(
        "--days", type=positive, help="how long it holds; default: until it is revoked"
    )
    create.add_argument(
        "--import",
        dest="imported",
        metavar="KEY",
        help="take a key that callers have already, or - to read it from standard input",
    )
    add_settings(create)
    create.set_defaults(run=_create)


def positive(text: str) -> float:
    """Read a number of days."""
    days = float(text)
    if not 0 < days < 1e5:
        raise ValueError
    return days


def _create(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    _fits(settings, options)
    text = new_key() if options.imported is None else _imported(sent(options.imported))
    now = time.time()
    expires = None if options.days is None else now + options.days * DAY
    scopes = settings.all_scopes if options.scope is None else tuple(options.scope.split())
    name = id_of(text) or new_id()

    def adding(book: KeyBook) -> KeyBook:
        hashed = book.hash(text)
        return book.adding(
            ApiKey(
                name,
                hashed,
                options.subject,
                options.tenant,
                scopes,
                options.plan,
                round(now),
                expires and round(expires),
            )
        )

    change(settings, adding)
    if options.imported is None:
        say(text)
    note(f"key {name} of {options.subject}, {until(expires)}")


def _fits(settings: Settings, options: argparse.Namespace) -> None:
    """Find what no request could be decided by; an MLGuardError says it."""
    if not options.subject.strip():
        raise MLGuardError("--subject: say who calls with the key")
    plans = settings.quotas.plans if settings.quotas else {}
    if options.plan is not None and options.plan not in plans:
        raise MLGuardError(f"no plan is {options.plan!r}; {nearest(options.plan, plans)}")


def _imported(text: str) -> str:
    if one_key([text]) is None or len(text) < SHORTEST_KEY or " " in text:
        raise MLGuardError(
            f"a key must be {SHORTEST_KEY} to {LONGEST_KEY} visible ASCII characters: "
            "a shorter one is found by trying"
        )
    return text


def until(expires: float | None) -> str:
    """Say how long a key holds."""
    if expires is None:
        return "until it is revoked"
    return f"until {moment(expires)}"


def moment(seconds: float) -> str:
    """Write a time as people read it."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
