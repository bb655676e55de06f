"""Do rows still look like training? `mlguard drift check · serve · forget`."""

from __future__ import annotations

from typing import Any

from mlguard.cli.drift import check, forget, serve
from mlguard.cli.groups import group


def add(commands: Any) -> None:
    """Add the command to a parser."""
    actions = group(commands, "drift", "whether rows still look like training")
    for action in (check, serve, forget):
        action.add(actions)
