"""How does an account begin anew?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from mlguard.cli.quota.books import books
from mlguard.cli.quota.usage import Counter, read
from mlguard.cli.quota.whose import add_whose, whose
from mlguard.cli.terminal import say
from mlguard.ledger import FLIGHT


def add(actions: Any) -> None:
    """Add the action to a parser."""
    reset = actions.add_parser(
        "reset",
        help="forget what a caller has used",
        description="Forget what a caller has used in windows, debts and grants included. What is "
        "in flight stays.",
    )
    add_whose(reset)
    reset.add_argument(
        "--lifetime", action="store_true", help="forget too what it has ever used, for good"
    )
    reset.set_defaults(run=_reset)


def _reset(options: argparse.Namespace) -> None:
    account = whose(options)
    known: dict[Counter, bool] = {}
    with books(account.settings, account.quotas) as places:
        for place in places:
            entries = place.entries(account.tag, account.account)
            place.reset(account.tag, account.account, lifetime=options.lifetime)
            known.update((read(account, e), e.seconds > 0) for e in entries if e.kind != FLIGHT)
    windows = [counter for counter, is_window in known.items() if is_window]
    sums = [counter for counter, is_window in known.items() if not is_window]
    if not (windows or (sums and options.lifetime)):
        say(f"nothing was known of {account.said} that could be forgotten")
    if windows:
        say(f"forgot the windows of {account.said}: {_names(windows)}")
    if sums and options.lifetime:
        say(f"forgot for good what {account.said} has ever used: {_names(sums)}")
    elif sums:
        say(f"kept what it has ever used, {_names(sums)}: --lifetime forgets that too")


def _names(counters: Iterable[Counter]) -> str:
    return ", ".join(dict.fromkeys(f"{c.said} {c.window}" for c in counters))
