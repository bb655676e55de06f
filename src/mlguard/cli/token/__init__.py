"""What is it with this token? `mlguard token mint · explain · revoke`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.token import explain, mint, revoke


def add(commands: Any) -> None:
    """Add the command to a parser."""
    token = commands.add_parser("token", help="tokens: make, explain and revoke them")
    actions = token.add_subparsers(required=True, metavar="ACTION")
    for action in (mint, explain, revoke):
        action.add(actions)
