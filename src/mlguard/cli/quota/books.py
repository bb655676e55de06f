"""Where are the counts that an operator asks for?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.ledger import Change, Entry, StoreUnavailable
from mlguard.quota_store.choose import maker
from mlguard.runtime.companion import CompanionConfig
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

    def close(self) -> None:
        """Let the connections go."""


@contextmanager
def books(settings: Settings, quotas: Quotas) -> Iterator[list[Books]]:
    """Open all places where a service counts, each apart: on one host there may be several.

    Raises:
        MLGuardError: There is none, or one does not answer.
    """
    with ExitStack() as stack:
        try:
            found = _found(settings, quotas)
            for place in found:
                stack.callback(place.close)
            yield found
        except StoreUnavailable as error:
            raise MLGuardError(f"the quotas' store does not answer: {error}") from error


def each(places: Sequence[Books], act: Callable[[Books], None]) -> list[str]:
    """Do something in every place, whether or not others can; return what went wrong.

    Raises:
        StoreUnavailable: It could be done in none.
    """
    troubles: list[str] = []
    for place in places:
        try:
            act(place)
        except StoreUnavailable as error:
            if len(troubles) == len(places) - 1:
                raise
            troubles.append(str(error))
    return troubles


def _found(settings: Settings, quotas: Quotas) -> list[Books]:
    service = settings.service.name
    if quotas.store == "memory://":
        raise InvalidSettings(
            "quotas.store is memory://, where each worker counts alone and nobody can ask it: "
            "set host:// for the workers of one host, or a Redis for several hosts",
            source=settings.source,
        )
    if quotas.store.startswith("host://"):
        return _on_this_host(service)
    patient = quotas.model_copy(update={"store_timeout": max(_PATIENCE, quotas.store_timeout)})
    return [maker(patient, CompanionConfig(service, ""))()]


def _on_this_host(service: str) -> list[Books]:
    from mlguard.runtime.stores.host import running

    found: list[Books] = [*running(service)]
    if not found:
        raise MLGuardError(
            f"no ledger of a service named {service!r} runs on this host as this user: "
            "start the service, or ask as the user who runs it, on its host"
        )
    return found
