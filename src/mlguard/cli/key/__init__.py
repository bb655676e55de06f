"""Who may call by an API key? `mlguard key create · list · rotate · revoke`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.key import create, listing, revoke, rotate


def add(commands: Any) -> None:
    """Add the command to a parser."""
    key = commands.add_parser("key", help="API keys: create, list, rotate and revoke them")
    actions = key.add_subparsers(required=True, metavar="ACTION")
    for action in (create, listing, rotate, revoke):
        action.add(actions)
