"""Which ledgers of a service does an operator find on this host?"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from mlguard.host.folder import Folder, roots
from mlguard.host.private import verify
from mlguard.runtime.stores.host.client import Client
from mlguard.runtime.stores.host.links import Place
from mlguard.runtime.stores.host.wire import SOCKET, Junk

_TIMEOUT = 1.0  # seconds


def running(service: str, *, places: Sequence[Path] | None = None) -> list[Client]:
    """Connect to the ledgers of a service that run here for this user; close each afterwards.

    Args:
        service: The service's name.
        places: Where private folders are; without, all places where they may be.
    """
    holder = f"operator-{secrets.token_hex(8)}"
    found = []
    for place in roots() if places is None else places:
        for folder in _folders(place):
            client = Client(Place(folder, holder), _TIMEOUT)
            if _serves(client, service):
                found.append(client)
            else:
                client.close()
    return found


def _folders(root: Path) -> list[Folder]:
    try:
        verify(root)
        return [Folder(path.parent) for path in sorted(root.glob(f"*/{SOCKET}"))]
    except OSError:
        return []


def _serves(client: Client, service: str) -> bool:
    try:
        return client.greet() == service
    except (OSError, Junk):
        return False
