"""What is it with this token? `mlguard token mint · explain · revoke`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.groups import group
from mlguard.cli.token import explain, mint, revoke


def add(commands: Any) -> None:
    """Add the command to a parser."""
    actions = group(commands, "token", "tokens: make, explain and revoke them")
    for action in (mint, explain, revoke):
        action.add(actions)
