"""Where are the counts that an operator asks for?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.ledger import HostLedger
from mlguard.ledger import Change, Entry, StoreUnavailable
from mlguard.quota_store.choose import maker
from mlguard.settings import Quotas, Settings

_PATIENCE = 2.0  # seconds: an operator waits longer than a request


class Books(Protocol):
    """Counts that an operator may see and change: what a store has too."""

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell what an account has used."""

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes."""

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too."""


@contextmanager
def books(settings: Settings, quotas: Quotas) -> Iterator[list[Books]]:
    """Open all places where a service counts, whether or not it runs.

    On a host there may be several, where its environment was not always the same.

    Raises:
        MLGuardError: There is none, or one does not answer.
    """
    with ExitStack() as stack:
        try:
            yield list(_opened(settings, quotas, stack))
        except StoreUnavailable as error:
            raise MLGuardError(f"the quotas' store does not answer: {error}") from error


def _opened(settings: Settings, quotas: Quotas, stack: ExitStack) -> Iterator[Books]:
    """Open each place, and have it closed with the stack."""
    service = settings.service.name
    if quotas.store == "memory://":
        raise InvalidSettings(
            "quotas.store is memory://, where each worker counts alone and nobody can ask it: "
            "set host:// for the workers of one host, or a Redis for several hosts",
            source=settings.source,
        )
    if not quotas.store.startswith("host://"):
        patient = quotas.model_copy(update={"store_timeout": max(_PATIENCE, quotas.store_timeout)})
        store = maker(patient, service)()
        stack.callback(store.close)
        yield store
        return
    folders = Folder.used(settings.meeting, settings.folder)
    if not folders:
        raise MLGuardError(
            f"nothing was ever counted for a service named {service!r} on this host as this user: "
            "start the service, or ask as the user who runs it, on its host"
        )
    for folder in folders:
        yield _on_this_host(folder, is_lasting=quotas.folder is not None, stack=stack)


def _on_this_host(folder: Folder, *, is_lasting: bool, stack: ExitStack) -> HostLedger:
    database = Database(folder.database, wait=_PATIENCE, is_lasting=is_lasting)
    stack.callback(database.close)
    if is_lasting:
        stack.callback(database.sync)
    ledger = HostLedger(database, is_lasting=is_lasting)
    ledger.start()
    return ledger
