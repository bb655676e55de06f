"""Who calls, as far as this request can tell?"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Any, Protocol

from mlguard import refusals
from mlguard.auth import Authenticator, logins
from mlguard.auth.bearer import Credential
from mlguard.guard.parts import Parts
from mlguard.messages import AskApp, Call, Deny, FetchKeys, Principal


class Asker(Protocol):
    """Whose request it is, as far as the network tells."""

    @property
    def client(self) -> str:
        """The client's network."""


def recall(parts: Parts, call: Call, asker: Asker) -> Principal | Deny | Credential:
    """Say who calls where nobody has to wait for that, else what `identify` has to look at."""
    authenticator = parts.authenticator
    if authenticator is None:
        return anonymous(parts, asker.client)
    return authenticator.recall(call.authorization, parts.clock(), call.api_key)


def identify(
    parts: Parts, credential: Credential, client: str
) -> Generator[FetchKeys, None, Principal | Deny]:
    """Find out whose credential it is, or why that cannot be told."""
    authenticator = parts.authenticator
    if authenticator is None:
        raise AssertionError("authentication is off")
    wait = parts.failures.wait(client)
    if wait:  # who is known has passed, whatever others at the same address do
        parts.throttled(client)
        return refusals.too_many_failures(math.ceil(wait))
    who = yield from authenticator.verify(credential, parts.clock())
    if isinstance(who, Deny) and who.status == 401:
        parts.failures.count(client)
    return who


def is_missing(deny: Deny) -> bool:
    """Say whether a request brought nothing by which the kit could tell who calls."""
    return deny.code in ("token_missing", "key_missing")


def ask_app(
    parts: Parts, login: Callable[[], Any], missing: Deny
) -> Generator[AskApp, Any, Principal | Deny]:
    """Ask the app who is logged in; where nobody is, something is missing as before."""
    found = yield AskApp(login)
    if found is None:
        return missing
    try:
        quotas = parts.settings.quotas
        who = logins.principal(found, quotas.plan_claim if quotas else "plan", parts.pseudonym)
    except Exception as error:  # noqa: BLE001 - whatever the app does, it is not the caller's doing
        parts.unidentified(error)
        return refusals.caller_unknown()
    return who


def anonymous(parts: Parts, client: str) -> Principal:
    """Name who pays where nobody is authenticated: the client's network."""
    return Principal("", client, pseudonym=parts.pseudonym(("", "", client)))


def lacking(who: Principal | None, scopes: frozenset[str]) -> Deny | None:
    """Refuse a caller who was not granted all of these scopes; None is one of a public route."""
    if not scopes:
        return None
    if who is None:
        return refusals.token_missing()
    return None if scopes <= who.scopes else refusals.scope_missing(scopes)


def lapsed(parts: Parts, who: Principal | None) -> Deny | None:
    """Refuse a caller whose token does not hold any longer."""
    authenticator: Authenticator | None = parts.authenticator
    return authenticator.lapsed(who, parts.clock()) if authenticator and who else None
