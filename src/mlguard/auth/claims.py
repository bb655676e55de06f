"""Does a token with a good signature say what it must? JSON Web Token claims (RFC 7519)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from mlguard.auth.jws import InvalidToken
from mlguard.messages import claim
from mlguard.settings import NO_TYPE, Auth, Issuer, media_type

_LATEST = 1e15  # seconds since 1970, and before: what is beyond is no time


class Problem(NamedTuple):
    """Why a token is refused.

    Attributes:
        claim: Which claim says something wrong, or which member of the header.
        reason: What only the log is told; it repeats nothing of the token.
        code: What the client is told.
    """

    claim: str
    reason: str
    code: str = "token_untrusted"


def check(
    claims: Mapping[str, Any], header: Mapping[str, Any], issuer: Issuer, auth: Auth, now: float
) -> float:
    """Check type, issuer, audience, subject, times and tenant; takes what `problems` takes.

    Returns:
        When it ends, in seconds since 1970.

    Raises:
        InvalidToken: With the code for the client and the reason for the log.
    """
    _demand(next(problems(claims, header, issuer, auth, now), None))
    return _end(claims, auth)


def problems(
    claims: Mapping[str, Any], header: Mapping[str, Any], issuer: Issuer, auth: Auth, now: float
) -> Iterator[Problem]:
    """Tell everything that is wrong at `now`, in seconds since 1970: one thing a claim."""
    found = (
        _typ(header, issuer),
        _iss(claims, issuer),
        _audience(claims, issuer),
        _text(claims, issuer.subject_claim),
        _exp(claims, auth, now),
        _iat(claims, auth, now),
        _begun(claims, "nbf", auth, now),
        _text(claims, issuer.tenant_claim) if issuer.tenant_claim else None,
    )
    return filter(None, found)


def subject(claims: Mapping[str, Any], issuer: Issuer) -> str:
    """Read who calls."""
    return _demanded_text(claims, issuer.subject_claim)


def tenant(claims: Mapping[str, Any], issuer: Issuer) -> str | None:
    """Read whom the caller belongs to, where the settings name a claim."""
    return _demanded_text(claims, issuer.tenant_claim) if issuer.tenant_claim else None


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
    _demand(_number(claims, "exp"))
    if auth.max_age is not None:
        _demand(_number(claims, "iat"))
    return _end(claims, auth)


def _typ(header: Mapping[str, Any], issuer: Issuer) -> Problem | None:
    """RFC 8725 section 3.11: another kind of token of the same issuer must not pass."""
    typ = header.get("typ", NO_TYPE)
    if isinstance(typ, str):
        kind = media_type(typ)
        if kind in issuer.typ and (kind != NO_TYPE or "typ" not in header):
            return None
    return Problem("typ", "typ is not that of an access token")


def _iss(claims: Mapping[str, Any], issuer: Issuer) -> Problem | None:
    return None if claims.get("iss") == issuer.issuer else Problem("iss", "iss is not the issuer")


def _audience(claims: Mapping[str, Any], issuer: Issuer) -> Problem | None:
    """Compare the audience, a string or a list of strings (RFC 7519 section 4.1.3)."""
    name = issuer.audience_claim
    aud = claim(claims, name)
    if isinstance(aud, str):
        is_ours = aud in issuer.audience
    elif isinstance(aud, list) and all(isinstance(value, str) for value in aud):
        is_ours = not set(aud).isdisjoint(issuer.audience)
    else:
        return Problem(name, f"{name} is missing or no string or list of strings")
    return None if is_ours else Problem(name, f"{name} is not the audience")


def _exp(claims: Mapping[str, Any], auth: Auth, now: float) -> Problem | None:
    if problem := _number(claims, "exp"):
        return problem
    if claims["exp"] + auth.leeway <= now:
        return Problem("exp", "exp is past", "token_expired")
    return None


def _iat(claims: Mapping[str, Any], auth: Auth, now: float) -> Problem | None:
    if auth.max_age is None:
        return _begun(claims, "iat", auth, now)
    if problem := _number(claims, "iat"):
        return problem
    if claims["iat"] + auth.max_age + auth.leeway <= now:
        return Problem("iat", "iat is longer ago than max_age", "token_expired")
    return _begun(claims, "iat", auth, now)


def _begun(claims: Mapping[str, Any], name: str, auth: Auth, now: float) -> Problem | None:
    if name not in claims:
        return None
    if problem := _number(claims, name):
        return problem
    if claims[name] - auth.leeway > now:
        return Problem(name, f"{name} is in the future", "token_not_yet_valid")
    return None


def _number(claims: Mapping[str, Any], name: str) -> Problem | None:
    """Accept a NumericDate (RFC 7519 section 2)."""
    value: Any = claims.get(name)
    # JSON has no other types of numbers; NaN is between no two.
    if type(value) in (int, float) and -_LATEST <= value <= _LATEST:
        return None
    return Problem(name, f"{name} is missing or no finite number")


def _text(claims: Mapping[str, Any], name: str) -> Problem | None:
    value = claim(claims, name)
    # A lone surrogate is a string to JSON and to nothing that a name is sent to.
    if isinstance(value, str) and value and (value.isascii() or not _is_broken(value)):
        return None
    return Problem(name, f"{name} is missing or no text")


def _is_broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _end(claims: Mapping[str, Any], auth: Auth) -> float:
    end: float = claims["exp"]
    if auth.max_age is not None:
        end = min(end, claims["iat"] + auth.max_age)
    return end + auth.leeway


def _demanded_text(claims: Mapping[str, Any], name: str) -> str:
    _demand(_text(claims, name))
    return str(claim(claims, name))


def _demand(problem: Problem | None) -> None:
    if problem is not None:
        raise InvalidToken(problem.reason, problem.code)
