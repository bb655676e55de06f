"""Does a token with a good signature say what it must? JSON Web Token claims (RFC 7519)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from typing import Any

from mlguard.auth.jws import InvalidToken
from mlguard.settings import Auth, Issuer

_NO_TYPE = "none"  # in the settings: a token without a `typ`


def check(
    claims: Mapping[str, Any], header: Mapping[str, Any], issuer: Issuer, auth: Auth, now: float
) -> float:
    """Check type, issuer, audience, subject and times.

    Args:
        claims: The token's payload.
        header: The token's header.
        issuer: What its issuer's tokens must say.
        auth: What every token must say.
        now: Seconds since 1970.

    Returns:
        When it ends, in seconds since 1970.

    Raises:
        InvalidToken: With the code for the client and the reason for the log.
    """
    _check_type(header, issuer)
    if claims.get("iss") != issuer.issuer:
        raise InvalidToken("iss is not the issuer")
    if audiences(claims, issuer).isdisjoint(issuer.audience):
        raise InvalidToken(f"{issuer.audience_claim} is not the audience")
    subject(claims, issuer)
    end = expiry(claims, auth)
    if end <= now:
        raise InvalidToken("exp is past, or iat longer ago than max_age", "token_expired")
    for name in ("nbf", "iat"):
        if name in claims and _number(claims, name) - auth.leeway > now:
            raise InvalidToken(f"{name} is in the future", "token_not_yet_valid")
    return end


def _check_type(header: Mapping[str, Any], issuer: Issuer) -> None:
    """Compare media types: without case, "application/" may be left out (RFC 7515 section 4.1.9).

    RFC 8725 section 3.11: another kind of token of the same issuer must not pass.
    """
    kind = header.get("typ", _NO_TYPE)
    if "typ" in header and (not isinstance(kind, str) or kind.lower() == _NO_TYPE):
        raise InvalidToken("typ is not that of an access token")
    if kind.lower().removeprefix("application/") not in _kinds(issuer.typ):
        raise InvalidToken("typ is not that of an access token")


@functools.cache
def _kinds(typ: tuple[str, ...]) -> frozenset[str]:
    return frozenset(kind.lower().removeprefix("application/") for kind in typ)


def usual(
    issuer: Issuer,
    subject: str,
    *,
    scope: str,
    tenant: str,
    now: int,
    seconds: float,
) -> dict[str, Any]:
    """Write the claims of a token that `check` accepts, for whoever may sign one.

    Args:
        issuer: Who signs.
        subject: Who calls.
        scope: What the token grants, words.
        tenant: The value of the tenant claim, where the settings name one.
        now: Seconds since 1970.
        seconds: How long the token is valid.
    """
    claims = {
        "iss": issuer.issuer,
        issuer.audience_claim: issuer.audience[0],
        issuer.subject_claim: subject,
        issuer.scope_claim or "scope": scope,
        "iat": now,
        "exp": now + seconds,
    }
    return claims | ({issuer.tenant_claim: tenant} if issuer.tenant_claim else {})


def claim(claims: Mapping[str, Any], name: str) -> Any:
    """Read a claim: the member of this name, else members within members, joined by dots."""
    if name in claims or "." not in name:
        return claims.get(name)
    found: Any = claims
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def audiences(claims: Mapping[str, Any], issuer: Issuer) -> frozenset[str]:
    """Read the audience, a string or a list of strings (RFC 7519 section 4.1.3)."""
    aud = claim(claims, issuer.audience_claim)
    values = [aud] if isinstance(aud, str) else aud
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise InvalidToken(f"{issuer.audience_claim} is missing or no string or list of strings")
    return frozenset(values)


def subject(claims: Mapping[str, Any], issuer: Issuer) -> str:
    """Read who calls."""
    return _text(claims, issuer.subject_claim)


def tenant(claims: Mapping[str, Any], issuer: Issuer) -> str | None:
    """Read whom the caller belongs to, where the settings name a claim."""
    return _text(claims, issuer.tenant_claim) if issuer.tenant_claim else None


def scopes(claims: Mapping[str, Any], issuer: Issuer) -> frozenset[str]:
    """Read a string of words (RFC 8693 section 4.2) or a list.

    Where the settings name no claim: `scope`, else `scp`.
    """
    if issuer.scope_claim:
        granted = claim(claims, issuer.scope_claim)
    else:
        granted = claims.get("scope", claims.get("scp"))
    if isinstance(granted, str):
        return frozenset(granted.split())
    if isinstance(granted, list):
        return frozenset(s for s in granted if isinstance(s, str))
    return frozenset()


def expiry(claims: Mapping[str, Any], auth: Auth) -> float:
    """Tell when a token ends: by `exp`, which is required, and by `iat` where there is a max_age.

    Returns:
        Seconds since 1970, the leeway included.
    """
    end = _number(claims, "exp")
    if auth.max_age is not None:
        end = min(end, _number(claims, "iat") + auth.max_age)
    return end + auth.leeway


def _text(claims: Mapping[str, Any], name: str) -> str:
    value = claim(claims, name)
    # A lone surrogate is a string to JSON and to nothing that a name is sent to.
    if not isinstance(value, str) or not value or (not value.isascii() and _is_broken(value)):
        raise InvalidToken(f"{name} is missing or no text")
    return value


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _number(claims: Mapping[str, Any], name: str) -> float:
    """Read a NumericDate (RFC 7519 section 2)."""
    value = claims.get(name)
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or abs(value) > 1e15
        or math.isnan(value)
    ):
        raise InvalidToken(f"{name} is missing or no finite number")
    return float(value)
