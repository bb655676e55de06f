"""Does a token with a good signature say what it must? JSON Web Token claims (RFC 7519)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from mlguard.auth.jws import InvalidToken
from mlguard.settings import Auth


def check(claims: Mapping[str, Any], settings: Auth, now: float) -> None:
    """Check issuer, audience and times.

    Args:
        claims: The token's payload.
        settings: What they must be.
        now: Seconds since 1970.

    Raises:
        InvalidToken: With the code for the client and the reason for the log.
    """
    if claims.get("iss") != settings.issuer:
        raise InvalidToken("iss is not the issuer")
    if not audiences(claims) & settings.audiences:
        raise InvalidToken("aud is not the audience")
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise InvalidToken("sub is missing")
    if expiry(claims) + settings.leeway <= now:
        raise InvalidToken("exp is past", "token_expired")
    for claim in ("nbf", "iat"):
        if claim in claims and _number(claims, claim) - settings.leeway > now:
            raise InvalidToken(f"{claim} is in the future", "token_not_yet_valid")


def usual(
    settings: Auth, subject: str, *, scope: str, tenant: str, now: int, seconds: float
) -> dict[str, Any]:
    """Write the claims of a token that `check` accepts, for whoever may sign one.

    Args:
        settings: What they must be.
        subject: Who calls.
        scope: What the token grants, words.
        tenant: The value of the tenant claim, where the settings name one.
        now: Seconds since 1970.
        seconds: How long the token is valid.
    """
    claims = {
        "iss": settings.issuer,
        "aud": min(settings.audiences),
        "sub": subject,
        "scope": scope,
        "iat": now,
        "exp": now + seconds,
    }
    return claims | ({settings.tenant_claim: tenant} if settings.tenant_claim else {})


def audiences(claims: Mapping[str, Any]) -> frozenset[str]:
    """Read `aud`, a string or a list of strings."""
    aud = claims.get("aud")
    values = [aud] if isinstance(aud, str) else aud
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InvalidToken("aud is missing or no string or list of strings")
    return frozenset(values)


def scopes(claims: Mapping[str, Any]) -> frozenset[str]:
    """Read `scope`, a string of words (RFC 8693 section 4.2), or `scp`, a list."""
    granted = claims.get("scope", claims.get("scp"))
    if isinstance(granted, str):
        return frozenset(granted.split())
    if isinstance(granted, list):
        return frozenset(s for s in granted if isinstance(s, str))
    return frozenset()


def expiry(claims: Mapping[str, Any]) -> float:
    """Read `exp`, seconds since 1970; it is required."""
    return _number(claims, "exp")


def _number(claims: Mapping[str, Any], claim: str) -> float:
    value = claims.get(claim)
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or abs(value) > 1e15
        or math.isnan(value)
    ):
        raise InvalidToken(f"{claim} is missing or no finite number")
    return float(value)
