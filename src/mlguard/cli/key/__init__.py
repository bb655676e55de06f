"""Who may call by an API key? `mlguard key create · list · rotate · revoke`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.groups import group
from mlguard.cli.key import create, listing, revoke, rotate


def add(commands: Any) -> None:
    """Add the command to a parser."""
    actions = group(commands, "key", "API keys: create, list, rotate and revoke them")
    for action in (create, listing, rotate, revoke):
        action.add(actions)
