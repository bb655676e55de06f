"""Who calls, as far as this request can tell?"""

from __future__ import annotations

import math
from collections.abc import Generator

from mlguard import refusals
from mlguard.auth import Authenticator
from mlguard.guard.parts import Parts
from mlguard.messages import Call, Deny, FetchKeys, Principal


def identify(parts: Parts, call: Call) -> Generator[FetchKeys, None, Principal | Deny]:
    """Find out who calls, or why that cannot be told."""
    if parts.authenticator is None:
        return anonymous(parts, call)
    credential = parts.authenticator.credential(call.authorization)
    if isinstance(credential, Deny):
        return credential
    known = parts.authenticator.known(credential, parts.clock())
    if known is not None:
        return known
    client = parts.proxies.client(call.peer, call.forwarded)
    wait = parts.failures.wait(client)
    if wait:  # who is known has passed, whatever others at the same address do
        parts.throttled(client)
        return refusals.too_many_failures(math.ceil(wait))
    who = yield from parts.authenticator.verify(credential, parts.clock())
    if isinstance(who, Deny) and who.status == 401:
        parts.failures.count(client)
    return who


def anonymous(parts: Parts, call: Call) -> Principal:
    """Name who pays where nobody is authenticated: the client's network."""
    client = parts.proxies.client(call.peer, call.forwarded)
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
