"""How does a caller get another API key without losing a request?"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

from mlguard.auth.api_keys import KeyBook, id_of, new_key
from mlguard.cli.key.create import until
from mlguard.cli.key.kept import change, meant, sent, settings_of
from mlguard.cli.terminal import note, say
from mlguard.cli.token.options import add_settings

_HOUR = 3600.0


def add(actions: Any) -> None:
    """Add the action to a parser."""
    rotate = actions.add_parser(
        "rotate",
        help="make a key that follows another, which holds for some hours more",
        description="Make a key for the same caller, with the same rights, and print it. Both "
        "hold until the grace is over: change the caller meanwhile.",
    )
    rotate.add_argument("key", metavar="ID", help="of the key, or - for the key on standard input")
    rotate.add_argument(
        "--grace-hours", type=_hours, default=24.0, help="default: %(default)g; 0 for at once"
    )
    add_settings(rotate)
    rotate.set_defaults(run=_rotate)


def _hours(text: str) -> float:
    hours = float(text)
    if not 0 <= hours < 1e6:
        raise ValueError
    return hours


def _rotate(options: argparse.Namespace) -> None:
    settings, text, now = settings_of(options), new_key(), time.time()
    which = sent(options.key)
    told: list[str] = []

    def rotating(book: KeyBook) -> KeyBook:
        old = meant(book, which)
        if not old.holds(now):
            raise ValueError(f"the key {old.id} has expired: create another one")
        ends = round(now + options.grace_hours * _HOUR)
        ends = ends if old.expires is None else min(ends, old.expires)
        lasts = None if old.expires is None else round(now + old.expires - old.created)
        new = replace(
            old, id=id_of(text) or "", hash=book.hash(text), created=round(now), expires=lasts
        )
        told[:] = [
            f"key {new.id} of {new.subject}, {until(lasts)}",
            f"key {old.id} holds {until(ends)}",
        ]
        return book.replacing(replace(old, expires=ends)).adding(new)

    change(settings, rotating)
    say(text)
    note(*told)
