"""Who is charged, and where is that counted?"""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from mlguard.messages import Debit, Principal
from mlguard.quotas.rules import Rules
from mlguard.quotas.shapes import Shape
from mlguard.recent import Recent

OWN = "p"
TENANT = "t"
REMEMBERED = 10_000  # callers


class Accounts(NamedTuple):
    """Where a caller's use is counted.

    Attributes:
        tag: What the accounts have in common: the tenant where there is one, else the caller.
        own: The caller's account.
        tenant: The tenant's account, "" where there is none.
    """

    tag: str
    own: str
    tenant: str


class PreparedDebit(NamedTuple):
    """What a caller asked last: most ask the same again and again.

    Attributes:
        demand: The model, the amounts, and whether it is a request and in flight from now on.
        shape: What it touches.
        debit: What is asked of the ledger.
    """

    demand: tuple[str | None, Mapping[str, int], bool, bool]
    shape: Shape
    debit: Debit


class Caller:
    """What holds for one caller, as long as the token says the same.

    Attributes:
        key: Who it is: issuer, tenant or "", and subject.
        accounts: Where it is counted.
        own: Names the caller's account among all.
        tenant: Names the tenant's, "" where there is none.
        plan: The plan, None without one.
        is_exempt: Whether it is not counted.
        asked: What it asked last.
    """

    __slots__ = (
        "_claims",
        "_scopes",
        "accounts",
        "asked",
        "is_exempt",
        "key",
        "own",
        "plan",
        "tenant",
    )

    def __init__(self, rules: Rules, principal: Principal) -> None:
        self.key = principal.key
        self.accounts = place = accounts(self.key)
        self.own = place.tag + place.own
        self.tenant = place.tag + place.tenant if place.tenant else ""
        self.is_exempt = rules.exempts(principal)
        self.plan = rules.plan(principal)
        self.asked: PreparedDebit | None = None
        # Nothing is held that says nothing here.
        self._claims = principal.claims if rules.looks_at_claims else None
        self._scopes = principal.scopes if rules.looks_at_scopes else None

    def is_of(self, principal: Principal) -> bool:
        """Say whether a token of this caller's says what the last one did."""
        claims, scopes = self._claims, self._scopes
        return (claims is None or claims is principal.claims or claims == principal.claims) and (
            scopes is None or scopes is principal.scopes or scopes == principal.scopes
        )


class Callers:
    """Remembers who came of late, and what holds for them.

    Args:
        rules: What the settings say.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._known: Recent[tuple[str, str, str], Caller] = Recent(REMEMBERED)
        self._looks = rules.looks_at_claims or rules.looks_at_scopes

    def of(self, principal: Principal) -> Caller:
        """Find what holds for a principal."""
        key = (principal.issuer, principal.tenant or "", principal.subject)
        caller = self._known.get(key)
        if caller is None or (self._looks and not caller.is_of(principal)):
            caller = Caller(self._rules, principal)
            self._known.put(key, caller)
        return caller


@lru_cache(REMEMBERED)
def _digest(*key: str) -> str:
    """Name somebody in 22 characters of base64url, however long and odd the real name is."""
    digest = hashlib.blake2b(json.dumps(key).encode(), digest_size=16).digest()
    return urlsafe_b64encode(digest)[:22].decode()


def accounts(key: tuple[str, str, str]) -> Accounts:
    """Tell where a principal is counted.

    Args:
        key: The principal's: issuer, tenant or "", and subject.
    """
    issuer, tenant, _ = key
    if not tenant:
        return Accounts(_digest(*key), OWN, "")
    return Accounts(_digest(issuer, tenant), OWN + _digest(*key), TENANT)
