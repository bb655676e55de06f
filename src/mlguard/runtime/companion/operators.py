"""How does an operator revoke, without being a worker?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from multiprocessing import AuthenticationError
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import NamedTuple

from mlguard.host.folder import Folder, roots
from mlguard.host.private import make_folder, verify
from mlguard.logs import LOGGER
from mlguard.redis.revocations import RevocationStore
from mlguard.revocations import Revocation, RevocationsFull
from mlguard.runtime.companion.book import Book
from mlguard.runtime.companion.frames import Junk, receive, send, write_revocations
from mlguard.runtime.companion.revoked_file import RevokedFile


class Spread(NamedTuple):
    """How far a revocation has come.

    Attributes:
        told: How many companions took it.
        forgotten: Why it is not written down on this host, None where it is.
        unpublished: Why the store did not take it, None where it did or there is none.
    """

    told: int
    forgotten: Exception | None
    unpublished: Exception | None


def spread(
    service: str,
    revocations: Sequence[Revocation],
    store: str | None,
    *,
    root: Path | None = None,
) -> Spread:
    """Tell whoever must know, each whether or not the others can be told.

    Args:
        service: The service's name.
        revocations: What is revoked.
        store: Where the service's hosts meet, if they do.
        root: Where they are written down; takes what `remember` takes.
    """
    forgotten = _trouble(lambda: remember(service, revocations, root=root))
    told = tell_companions(service, revocations)
    unpublished = _trouble(lambda: publish(store, service, revocations)) if store else None
    return Spread(told, forgotten, unpublished)


def _trouble(act: Callable[[], None]) -> Exception | None:
    try:
        act()
    except (OSError, ValueError) as error:
        return error
    return None


def tell_companions(
    service: str, revocations: Sequence[Revocation], *, timeout: float = 2.0
) -> int:
    """Hand revocations to every companion of a service that runs here for this user.

    Returns how many took them all: each has told its workers, and written them down.

    Args:
        service: The service's name.
        revocations: What is revoked.
        timeout: How long to wait for all of them, in seconds.
    """
    folders = [folder for root in roots() for folder in _folders(root)]
    answers: SimpleQueue[bool] = SimpleQueue()
    for folder in folders:
        # One that hangs keeps its thread, but nobody else.
        Thread(
            target=lambda folder: answers.put(_tell(folder, service, revocations)),
            args=(folder,),
            daemon=True,
        ).start()
    deadline = time.monotonic() + timeout
    taken = 0
    for _ in folders:
        try:
            taken += answers.get(timeout=max(0.0, deadline - time.monotonic()))
        except Empty:
            break
    return taken


def remember(service: str, revocations: Sequence[Revocation], *, root: Path | None = None) -> None:
    """Write revocations down, so that they are known when the service next starts here.

    Args:
        service: The service's name.
        revocations: What is revoked.
        root: Where it will look; without, all places where it may, as it may be given another
            environment than we.

    Raises:
        RevocationsFull: There is no room for them.
        OSError: They cannot be written anywhere.
    """
    troubles: list[OSError] = []
    found = [place for place in ([root] if root else roots()) if place.parent.is_dir()]
    for place in found:
        try:
            _remember(place, service, revocations)
        except OSError as error:
            LOGGER.warning("revocations are not kept in %s: %s", place, error)
            troubles.append(error)
    if len(troubles) == len(found):
        raise troubles[0] if troubles else FileNotFoundError("there is no folder to write to")


def publish(store: str, service: str, revocations: Sequence[Revocation]) -> None:
    """Write revocations to the store where the service's hosts meet.

    Raises:
        ConnectionError: It does not take them; the message holds no password.
    """
    met = RevocationStore(store, service)
    try:
        met.publish(revocations)
    finally:
        met.close()


def _remember(root: Path, service: str, revocations: Sequence[Revocation]) -> None:
    make_folder(root)
    book, file = Book(), RevokedFile(root, service)
    file.exchange(book)
    if refused := book.learn(revocations):
        raise RevocationsFull(refused)
    file.exchange(book)


def _folders(root: Path) -> list[Folder]:
    try:
        verify(root)
        return [Folder(path.parent) for path in root.glob("*/key")]
    except OSError:
        return []


def _tell(folder: Folder, service: str, revocations: Sequence[Revocation]) -> bool:
    try:
        verify(folder.path)
        with folder.connect() as connection:
            send(connection, {"operator": {}})
            if receive(connection).get("service") != service:
                return False
            parts = list(write_revocations(revocations))
            for number, part in enumerate(parts, 1):
                send(connection, {"revoke": part, "number": number, "more": number < len(parts)})
            return not parts or receive(connection) == {"revoke_done": len(parts), "refused": 0}
    except (OSError, EOFError, AuthenticationError, Junk):
        return False
