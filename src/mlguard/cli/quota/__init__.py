"""How much has somebody used? `mlguard quota show · reset · grant`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.quota import grant, reset, show


def add(commands: Any) -> None:
    """Add the command to a parser."""
    quota = commands.add_parser("quota", help="what a caller has used: see, forget and add to it")
    actions = quota.add_subparsers(required=True, metavar="ACTION")
    for action in (show, reset, grant):
        action.add(actions)
