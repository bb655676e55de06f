"""Who is calling, by the app's own login?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlguard.messages import Identity, Principal

VOUCHER = "app"
"""Who vouches for the subjects that the app names."""

LONGEST = 1024  # characters of a name


def principal(
    found: Any, plan_claim: str, pseudonym: Callable[[tuple[str, str, str]], str]
) -> Principal:
    """Make a caller of what a function of the app returned: a name, or an Identity.

    Args:
        found: What it returned, or the exception that it raised.
        plan_claim: The name under which a principal's claims tell its plan.
        pseudonym: Makes the keyed hash of a principal's key.

    Raises:
        TypeError: It is neither.
        ValueError: A name is empty, or too long.
    """
    if isinstance(found, Exception):
        raise found
    if isinstance(found, str):
        found = Identity(found)
    if not isinstance(found, Identity):
        raise TypeError(f"must return a name, an Identity or None, not {type(found).__name__}")
    tenant = found.tenant or ""
    if not all(isinstance(text, str) for text in (found.subject, tenant, *found.scopes)):
        raise TypeError("subject, tenant and scopes must be texts")
    if not 0 < len(found.subject) <= LONGEST or len(tenant) > LONGEST:
        raise ValueError(f"a name must have 1 to {LONGEST} characters")
    return Principal(
        issuer=VOUCHER,
        subject=found.subject,
        tenant=found.tenant,
        scopes=frozenset((found.scopes,) if isinstance(found.scopes, str) else found.scopes),
        claims={plan_claim: found.plan} if found.plan else {},
        pseudonym=pseudonym((VOUCHER, tenant, found.subject)),
    )
