"""How much has somebody used? `mlguard quota show · reset · grant`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.groups import group
from mlguard.cli.quota import grant, reset, show


def add(commands: Any) -> None:
    """Add the command to a parser."""
    actions = group(commands, "quota", "what a caller has used: see, forget and add to it")
    for action in (show, reset, grant):
        action.add(actions)
