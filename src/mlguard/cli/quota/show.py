"""What has an account used, and what is left?"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from mlguard.cli.quota.books import books
from mlguard.cli.quota.usage import Counter, counters, table
from mlguard.cli.quota.whose import Whose, add_whose, whose
from mlguard.cli.terminal import say, say_json


def add(actions: Any) -> None:
    """Add the action to a parser."""
    show = actions.add_parser(
        "show",
        help="say what a caller has used, and what is left",
        description="With host://, read the service's file on this host, as its user, whether or "
        "not it runs; with a Redis, ask that, its password in MLGUARD_QUOTAS__STORE.",
    )
    add_whose(show)
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> None:
    account = whose(options)
    with books(account.settings, account.quotas) as places:
        listed = [place.entries(account.tag, account.account) for place in places]
    found = [counters(account, entries) for entries in listed]
    if options.json:
        say_json(_document(account, found))
        return
    say(account.said)
    for number, (entries, of_place) in enumerate(zip(listed, found, strict=True), 1):
        if len(found) > 1:
            say(f"\nfile {number} of {len(found)} on this host")
        if not entries:
            say("nothing is known of it: nothing was counted, or it is long ago")
        if of_place:
            say(*table(of_place))
    if account.is_plan_open:
        say("what a plan has beside that, --plan shows")


def _document(account: Whose, found: Sequence[Sequence[Counter]]) -> dict[str, Any]:
    return {
        "issuer": account.issuer or None,
        "tenant": account.tenant or None,
        "principal": account.principal or None,
        "ledgers": [[_written(counter) for counter in of_place] for of_place in found],
    }


def _written(counter: Counter) -> dict[str, Any]:
    return {
        "counts": counter.what,
        "model": counter.model or None,
        "window": counter.window,
        "seconds": counter.seconds or None,
        "used": counter.used,
        "left": counter.left,
        "limit": counter.limit,
    }
