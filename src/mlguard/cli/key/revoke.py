"""How is an API key, or every key of a caller, refused from now on?"""

from __future__ import annotations

import argparse
from typing import Any

from mlguard.auth.api_keys import KeyBook
from mlguard.cli.key.kept import change, meant, sent, settings_of
from mlguard.cli.terminal import say
from mlguard.cli.token.options import add_settings


def add(actions: Any) -> None:
    """Add the action to a parser."""
    revoke = actions.add_parser(
        "revoke",
        help="refuse a key, or all keys of a subject, from now on",
        description="Take keys out of where they are kept: services that run refuse them within a "
        "second.",
    )
    which = revoke.add_mutually_exclusive_group(required=True)
    which.add_argument(
        "key", metavar="ID", nargs="?", help="of the key, or - for the key on standard input"
    )
    which.add_argument("--subject", help="whose keys")
    add_settings(revoke)
    revoke.set_defaults(run=_revoke)


def _revoke(options: argparse.Namespace) -> None:
    settings = settings_of(options)
    which = None if options.key is None else sent(options.key)
    gone: list[str] = []

    def revoking(book: KeyBook) -> KeyBook:
        if which is not None:
            names = {meant(book, which).id}
        else:
            names = {key.id for key in book.keys if key.subject == options.subject}
        if not names:
            raise ValueError(f"no key is of the subject {options.subject!r}")
        gone[:] = sorted(names)
        return book.keeping(lambda key: key.id not in names)

    change(settings, revoking)
    say(f"revoked: {', '.join(gone)}")
