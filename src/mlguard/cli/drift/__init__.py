"""Do rows still look like training? `mlguard drift check · serve · forget`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.drift import check, forget, serve


def add(commands: Any) -> None:
    """Add the command to a parser."""
    drift = commands.add_parser("drift", help="whether rows still look like training")
    actions = drift.add_subparsers(required=True, metavar="ACTION")
    for action in (check, serve, forget):
        action.add(actions)
