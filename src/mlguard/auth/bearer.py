"""Who sent this request? From the Authorization header to a principal."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from mlguard import refusals
from mlguard.auth import claims as jwt
from mlguard.auth.jws import InvalidToken, parse_object, verify_jws
from mlguard.auth.keys import KeySet
from mlguard.logs import Seldom
from mlguard.messages import Deny, Principal
from mlguard.settings import Auth

REMEMBERED = 10_000  # verified tokens
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/=-]+\Z")  # RFC 6750 section 2.1

_REFUSALS: Mapping[str, Callable[[], Deny]] = {
    "token_malformed": refusals.token_malformed,
    "token_expired": refusals.token_expired,
    "token_not_yet_valid": refusals.token_not_yet_valid,
    "token_untrusted": refusals.token_untrusted,
}


class Authenticator:
    """Turn credentials into a principal or a refusal; fails closed.

    A verified token is remembered by a digest until it expires.

    Args:
        settings: Whose tokens are accepted.
        keys: What verifies them.
        pseudonym: Makes the keyed hash of a principal's key.
    """

    def __init__(
        self, settings: Auth, keys: KeySet, pseudonym: Callable[[tuple[str, str, str]], str]
    ) -> None:
        self._settings = settings
        self._pseudonym = pseudonym
        self._needed = frozenset(settings.scopes)
        self._verified: dict[bytes, tuple[Principal, float]] = {}
        self.trust(keys)
        self._log = Seldom()

    def trust(self, keys: KeySet) -> None:
        """Verify with these keys from now on; what the old ones verified is forgotten."""
        self._keys = keys
        self._verified.clear()

    def authenticate(self, authorization: tuple[str, ...], now: float) -> Principal | Deny:
        """Decide who calls.

        Args:
            authorization: Each Authorization header.
            now: Seconds since 1970.
        """
        try:
            token = bearer_token(authorization)
            if token is None:
                return refusals.token_missing()
            principal = self._known(token, now) or self._verify(token, now)
        except InvalidToken as error:
            self._log.warning(error.reason, "a token was refused: %s", error.reason)
            return _REFUSALS[error.code]()
        if not self._needed <= principal.scopes:
            return refusals.scope_missing(self._needed)
        return principal

    def _known(self, token: str, now: float) -> Principal | None:
        principal, until = self._verified.get(_digest(token), (None, 0.0))
        return principal if until > now else None

    def _verify(self, token: str, now: float) -> Principal:
        claims = parse_object(verify_jws(token, self._keys), "payload")
        jwt.check(claims, self._settings, now)
        principal = self._principal(claims)
        if len(self._verified) >= REMEMBERED:
            self._verified.clear()
        self._verified[_digest(token)] = (principal, jwt.expiry(claims) + self._settings.leeway)
        return principal

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        tenant = claims.get(self._settings.tenant_claim) if self._settings.tenant_claim else None
        if self._settings.tenant_claim and not (isinstance(tenant, str) and tenant):
            raise InvalidToken("the tenant claim is missing or no string")
        issuer, subject = claims["iss"], claims["sub"]
        return Principal(
            issuer=issuer,
            subject=subject,
            tenant=tenant,
            scopes=jwt.scopes(claims),
            claims=MappingProxyType(claims),
            pseudonym=self._pseudonym((issuer, tenant or "", subject)),
        )


def bearer_token(authorization: tuple[str, ...]) -> str | None:
    """Take the token out of the Authorization header; None where there is no bearer.

    Raises:
        InvalidToken: Two headers, or a credential that is no token.
    """
    if not authorization:
        return None
    if len(authorization) > 1:
        raise InvalidToken("two Authorization headers", "token_malformed")
    scheme, _, credential = authorization[0].strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    credential = credential.strip()
    if not _TOKEN68.match(credential):
        raise InvalidToken("the bearer credential is no token", "token_malformed")
    return credential


def _digest(token: str) -> bytes:
    return hashlib.blake2b(token.encode(), digest_size=16).digest()
