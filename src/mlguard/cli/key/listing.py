"""Which API keys are there?"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from mlguard.auth.api_keys import ApiKey
from mlguard.cli.key.create import moment
from mlguard.cli.key.kept import book_of, settings_of
from mlguard.cli.tables import write
from mlguard.cli.terminal import say, say_json
from mlguard.cli.token.options import add_settings

_HEADS = ("id", "subject", "tenant", "scopes", "plan", "created", "expires")


def add(actions: Any) -> None:
    """Add the action to a parser."""
    listing = actions.add_parser("list", help="show which keys there are, but not themselves")
    listing.add_argument("--json", action="store_true", help="for programs")
    add_settings(listing)
    listing.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    keys = book_of(settings_of(options)).keys
    if options.json:
        told = [{n: v for n, v in key.as_dict().items() if n != "hash"} for key in keys]
        say_json(told)
        return
    if not keys:
        say("there are none: `mlguard key create --subject NAME` makes one")
        return
    now = time.time()
    say(write(_HEADS, [_row(key, now) for key in keys]))


def _row(key: ApiKey, now: float) -> tuple[str, ...]:
    expires = "never" if key.expires is None else moment(key.expires)
    return (
        key.id,
        _plain(key.subject),
        _plain(key.tenant or "-"),
        _plain(" ".join(key.scopes) or "-"),
        _plain(key.plan or "-"),
        moment(key.created),
        expires if key.holds(now) else f"expired {expires}",
    )


def _plain(text: str) -> str:
    """Write what a terminal shows and obeys nothing in."""
    return text if text.isprintable() else json.dumps(text)
