"""Who sent this request? From the Authorization header to a principal."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from mlguard import refusals
from mlguard.auth import claims as jwt
from mlguard.auth import logins
from mlguard.auth.api_keys import PREFIX, VOUCHER, ApiKeys, one_key
from mlguard.auth.finding import KeysUnavailable, find_key
from mlguard.auth.jws import InvalidToken, parse_jws, parse_object
from mlguard.auth.keyring import Keyring
from mlguard.auth.keys import KeySet
from mlguard.auth.token_cache import TokenCache, VerifiedToken
from mlguard.logs import RateLimitedLog
from mlguard.messages import Deny, FetchKeys, Principal
from mlguard.revocations import Revocations
from mlguard.settings import Auth, Issuer

_USUAL = "Bearer "
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*\Z")  # RFC 6750 section 2.1

_REFUSALS: Mapping[str, Callable[[], Deny]] = {
    "token_malformed": refusals.token_malformed,
    "token_expired": refusals.token_expired,
    "token_not_yet_valid": refusals.token_not_yet_valid,
    "token_untrusted": refusals.token_untrusted,
}

Verification: TypeAlias = Generator[FetchKeys, None, Principal | Deny]
"""A verification in the making: yields what it has to wait for, returns who calls or a refusal."""


class Credential(NamedTuple):
    """What a request brought, of which nothing is known.

    Attributes:
        token: The token; "" for an API key, which is not passed on.
        digest: What it will be remembered by.
    """

    token: str
    digest: bytes


_WRONG_KEY = Credential("", b"")
"""An API key that is nobody's: how often is counted like that of tokens."""


class Authenticator:
    """Turn credentials into a principal or a refusal; fails closed.

    A verified token is remembered by a digest: no longer than the token holds, than its issuer's
    keys hold, the one that verified it among them, and than it is not revoked.

    Args:
        settings: Whose tokens are accepted.
        rings: The keys of each issuer.
        pseudonym: Makes the keyed hash of a principal's key.
        revoked: What is accepted no longer.
        keys: The API keys that are accepted; None where none are.

    Attributes:
        keys: Those.
    """

    def __init__(
        self,
        settings: Auth,
        rings: Mapping[str, Keyring],
        pseudonym: Callable[[tuple[str, str, str]], str],
        revoked: Revocations | None = None,
        keys: ApiKeys | None = None,
    ) -> None:
        self.keys = keys
        self._settings = settings
        self._issuers = {i.issuer: (i, rings[i.issuer]) for i in settings.issuers}
        self._pseudonym = pseudonym
        self.revoked = Revocations() if revoked is None else revoked
        self._cache = TokenCache()
        self._log = RateLimitedLog()

    @property
    def rings(self) -> Mapping[str, Keyring]:
        """The keys of each issuer."""
        return {name: ring for name, (_, ring) in self._issuers.items()}

    def trust(self, keys: KeySet) -> None:
        """Verify every issuer's tokens with these keys from now on, whatever their algorithm."""
        self._issuers = {name: (i, Keyring(keys)) for name, (i, _) in self._issuers.items()}
        self._cache = TokenCache()

    def recall(
        self, authorization: tuple[str, ...], now: float, api_key: tuple[str, ...] = ()
    ) -> Principal | Deny | Credential:
        """Decide about an API key, or a token that was verified before.

        Args:
            authorization: Each Authorization header.
            now: Seconds since 1970.
            api_key: Each header that carries API keys, where that is another one.

        Returns:
            Also what `verify` is to decide about.
        """
        if api_key and self.keys is not None:
            return self._by_key(self.keys, authorization, api_key, now)
        if len(authorization) == 1:
            known = self._cache.get(_digest(authorization[0]))
            if known is not None and known.holds(now):  # no other spelling has this digest
                return self._revoked(known.principal) or known.principal
        return self._credential(authorization, now)

    def _by_key(
        self, keys: ApiKeys, authorization: tuple[str, ...], sent: tuple[str, ...], now: float
    ) -> Principal | Deny | Credential:
        """Decide about an API key that came in a header of its own."""
        if authorization and self._issuers:  # without them, that header is another's business
            return refusals.two_credentials(keys.header)
        text = one_key(sent)
        found = None if text is None else keys.caller(text, now)
        return _WRONG_KEY if found is None else found

    def _missing(self) -> Deny:
        if self.keys is None:
            return refusals.token_missing()
        return refusals.key_missing(self.keys.header, beside_tokens=bool(self._issuers))

    def _bearer(self, token: str, now: float) -> Principal | Deny | Credential | None:
        """Decide about a bearer that may be an API key; None where it is none."""
        keys = self.keys
        if keys is None or not keys.are_bearers:
            return None
        found = keys.caller(token, now)
        may_be_token = bool(self._issuers) and not token.startswith(PREFIX)
        if found is None:
            return None if may_be_token else _WRONG_KEY
        is_unknown = isinstance(found, Deny) and found.status == 503  # no keys were read yet
        return None if may_be_token and is_unknown else found

    def _credential(
        self, authorization: tuple[str, ...], now: float
    ) -> Principal | Deny | Credential:
        """Take the one bearer token out of a request, however it was spelt."""
        try:
            token = bearer_token(authorization)
        except InvalidToken as error:
            return self._refusal(error)
        if token is None:
            return self._missing()
        if (found := self._bearer(token, now)) is not None:
            return found
        if not self._issuers:  # of tokens, nobody's is accepted
            return self._missing()
        digest = _digest(_USUAL + token)  # it is remembered once: as clients usually spell it
        known = self._cache.get(digest)
        if known is None or not known.holds(now):
            return Credential(token, digest)
        return self._revoked(known.principal) or known.principal

    def verify(self, credential: Credential, now: float) -> Verification:
        """Decide about what `recall` did not know, and remember a token.

        Args:
            credential: The token.
            now: Seconds since 1970.
        """
        if credential is _WRONG_KEY and self.keys is not None:
            self._log.warning("key", "an API key was refused: it is nobody's")
            return refusals.key_unknown(self.keys.header)
        try:
            found = yield from self.judge(credential.token, now)
        except InvalidToken as error:
            return self._refusal(error)
        except KeysUnavailable:
            self._log.warning("keys", "a token cannot be verified: its issuer's keys are not there")
            return refusals.keys_unavailable(self._settings.jwks_cooldown)
        self._cache.put(credential.digest, found)
        return self._revoked(found.principal) or found.principal

    def lapsed(self, principal: Principal, now: float) -> Deny | None:
        """Refuse who was let in while the token held, and it does no longer: on long connections.

        Args:
            principal: Who was let in.
            now: Seconds since 1970.
        """
        if self.keys is not None and principal.issuer == VOUCHER:
            return self.keys.lapsed(principal, now)
        if principal.issuer == logins.VOUCHER:  # which asks its app, when it connects
            return None
        if jwt.expiry(principal.claims, self._settings) <= now:
            return refusals.token_expired()
        return self._revoked(principal)

    def judge(self, token: str, now: float) -> Generator[FetchKeys, None, VerifiedToken]:
        """Verify a token; whether it was revoked is another question.

        Raises:
            InvalidToken: With the reason.
            KeysUnavailable: Nothing can be said of it.
        """
        unverified = parse_jws(token)
        claims = parse_object(unverified.payload, "payload")
        name = claims.get("iss")
        if not isinstance(name, str) or name not in self._issuers:
            raise InvalidToken("iss is not the issuer")
        issuer, ring = self._issuers[name]
        key = yield from find_key(unverified, issuer, ring, self._settings.jwks_timeout)
        until = jwt.check(claims, unverified.header, issuer, self._settings, now)
        return VerifiedToken(self._principal(claims, issuer), until, ring, key.id)

    def _principal(self, claims: Mapping[str, Any], issuer: Issuer) -> Principal:
        tenant = jwt.tenant(claims, issuer)
        subject = jwt.subject(claims, issuer)
        return Principal(
            issuer=issuer.issuer,
            subject=subject,
            tenant=tenant,
            scopes=jwt.scopes(claims, issuer),
            claims=_frozen(claims),
            pseudonym=self._pseudonym((issuer.issuer, tenant or "", subject)),
        )

    def _revoked(self, principal: Principal) -> Deny | None:
        if not self.revoked.covers(principal.issuer, principal.claims, principal.subject):
            return None if self.revoked.is_known else refusals.revocations_unknown()
        self._log.warning("revoked", "a token was refused: it, or its subject, was revoked")
        return refusals.token_revoked()

    def _refusal(self, error: InvalidToken) -> Deny:
        self._log.warning(error.reason, "a token was refused: %s", error.reason)
        return _REFUSALS[error.code]()


def _digest(header: str) -> bytes:
    return hashlib.blake2b(header.encode("utf-8", "replace"), digest_size=16).digest()


def _frozen(value: Any) -> Any:
    """Make claims what no handler can change for the requests after it."""
    if isinstance(value, dict):
        return MappingProxyType({name: _frozen(inner) for name, inner in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


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
