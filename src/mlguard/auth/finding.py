"""Which key verifies this token, among fresh ones where it may be a new one?"""

from __future__ import annotations

from collections.abc import Generator

from mlguard.auth.jws import InvalidToken, Unverified
from mlguard.auth.keyring import Keyring
from mlguard.auth.keys import KeySet, VerifyingKey
from mlguard.messages import FetchKeys
from mlguard.settings import Issuer

_FETCHES = 2  # one may have been under way before the key was there
_WHILE_FAILING = 0.25  # seconds: who waits longer for a server that is gone holds up others
_BEYOND = 0.5  # seconds that a fetch may take to be known of, beyond what it may take


class KeysUnavailable(Exception):
    """The key that a token names may exist, but the issuer's keys cannot be fetched."""


def find_key(
    unverified: Unverified, issuer: Issuer, ring: Keyring, timeout: float
) -> Generator[FetchKeys, None, VerifyingKey]:
    """Find the key that verifies a token's signature.

    Args:
        unverified: The token.
        issuer: Who says to have signed it.
        ring: The issuer's keys.
        timeout: Seconds that a fetch of keys may take.

    Raises:
        InvalidToken: None does, and no new one could.
        KeysUnavailable: A new one might, but cannot be had.
    """
    refusal: InvalidToken | None = None
    for fetches in range(_FETCHES + 1):
        keys = ring.keys()
        if keys is not None:
            try:
                return unverified.verify(keys)
            except InvalidToken as error:
                if not _may_be_new(unverified, keys, issuer):
                    raise
                refusal = error
        elif unverified.algorithm not in issuer.algorithms:
            raise InvalidToken("alg is not accepted")
        ready = ring.fetch() if fetches < _FETCHES else None
        if ready is not None:
            patience = _WHILE_FAILING if ring.is_failing else timeout + _BEYOND
            yield FetchKeys(ready, patience, ring.patient)
            if not ready.done():
                raise KeysUnavailable
        elif ring.keys() is keys:
            break
    if refusal is None or ring.is_failing:
        raise KeysUnavailable
    raise refusal


def _may_be_new(unverified: Unverified, keys: KeySet, issuer: Issuer) -> bool:
    """Say whether a key that these are without may verify it: none of these has its `kid`."""
    if unverified.algorithm not in issuer.algorithms:
        return False
    tried = keys.candidates(unverified.algorithm, unverified.kid)
    return unverified.kid is None or all(key.kid is None for key in tried)
