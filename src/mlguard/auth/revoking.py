"""What does it mean to revoke this token, or this subject?"""

from __future__ import annotations

from collections.abc import Mapping

from mlguard.auth import claims as jwt
from mlguard.auth.jws import InvalidToken, parse_jws, parse_object
from mlguard.auth.keyring import Keyring
from mlguard.auth.keys import KeySet
from mlguard.revocations import Revocation
from mlguard.settings import Auth


def revocation(
    auth: Auth,
    *,
    token: str | None = None,
    jti: str | None = None,
    subject: str | None = None,
    issuer: str | None = None,
    before: float | None = None,
    now: float,
    rings: Mapping[str, Keyring] | None = None,
) -> Revocation:
    """Say what is refused from now on, and for how long that must be remembered.

    Args:
        auth: Whose tokens are accepted; with a `max_age`, what is older need not be remembered.
        token: A whole token; it names its issuer and its `jti`.
        jti: The `jti` of a token.
        subject: Whose tokens are refused, all that were issued until `before`.
        issuer: Whose subject or token that is; needed where there are several.
        before: Seconds since 1970; default: now.
        now: Seconds since 1970.
        rings: The keys that must verify the token, by issuer; None trusts whoever brings it.

    Raises:
        ValueError: Not exactly one of token, jti and subject, or an issuer that is not known.
    """
    if [token, jti, subject].count(None) != 2:
        raise ValueError("give exactly one of token, jti and subject")
    if token is not None:
        return _of_token(auth, token, rings)
    known = [i.issuer for i in auth.issuers]
    if issuer is None and len(known) > 1:
        raise ValueError(f"several issuers are accepted: say which, of {', '.join(known)}")
    if issuer is not None and issuer not in known:
        raise ValueError(f"the issuer {issuer!r} is not accepted; known: {', '.join(known)}")
    before = now if before is None else before
    # No token that it is about can be younger than this moment, as far as clocks agree.
    last = None if auth.max_age is None else max(before, now) + auth.max_age + 2 * auth.leeway
    name = issuer or known[0]
    if jti is not None:
        return Revocation(name, jti=jti, until=last)
    return Revocation(name, subject=subject, before=before, until=last)


def _of_token(auth: Auth, token: str, rings: Mapping[str, Keyring] | None) -> Revocation:
    """Read which token that is; whether it has expired does not matter."""
    try:
        unverified = parse_jws(token)
        claims = parse_object(unverified.payload, "payload")
        name, jti = claims.get("iss"), claims.get("jti")
        if name not in [i.issuer for i in auth.issuers]:
            raise ValueError("the token is of no issuer that is accepted: it is refused anyway")
        if not isinstance(jti, str) or not jti:
            raise ValueError("the token has no jti to revoke it by: revoke its subject")
        if rings is not None:
            unverified.verify(rings[str(name)].keys() or KeySet(()))
        return Revocation(str(name), jti=jti, until=jwt.expiry(claims, auth))
    except InvalidToken as error:
        raise ValueError(f"that is no token: {error.reason}") from None
