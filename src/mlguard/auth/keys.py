"""Which keys may verify a token, and for which algorithm each?"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jose import jwk
from jose.constants import ALGORITHMS
from jose.exceptions import JOSEError

from mlguard.settings import secret_bytes

_BITS_OF_RSA = 2048  # RFC 7518 section 3.3: a key of size 2048 bits or larger


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key, bound to the one algorithm it verifies.

    Attributes:
        algorithm: The JWA name, as in the token's header.
        kid: The key's identifier, None where it has none.
        key: The built python-jose key.
    """

    algorithm: str
    kid: str | None
    key: Any


class KeySet:
    """Public keys, or HMAC secrets from oldest to newest, each usable for its algorithm only.

    Args:
        jwks: JSON Web Keys (RFC 7517).
        algorithms: What keys without an `alg` of their own may be used for.

    Raises:
        ValueError: Says which key cannot be used, and why; never its secret parts.
    """

    def __init__(
        self, jwks: Iterable[Mapping[str, Any]], *, algorithms: Sequence[str] = ("RS256",)
    ) -> None:
        self._keys = tuple(k for n, entry in enumerate(jwks) for k in _keys(n, entry, algorithms))

    @classmethod
    def from_document(cls, text: str | bytes, *, algorithms: Sequence[str] = ("RS256",)) -> KeySet:
        """Read a JSON Web Key Set document: {"keys": [...]}."""
        try:
            document = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        jwks = document.get("keys") if isinstance(document, dict) else None
        if not isinstance(jwks, list) or not all(isinstance(entry, dict) for entry in jwks):
            raise ValueError('must be a JSON Web Key Set: {"keys": [{...}, ...]}')
        keys = cls(jwks, algorithms=algorithms)
        if not len(keys):
            raise ValueError(f"has no key that verifies {', '.join(algorithms)}")
        return keys

    @classmethod
    def from_secret(cls, secret: bytes, *, algorithms: Sequence[str] = ("HS256",)) -> KeySet:
        """Hold one HMAC secret, at least as long as the algorithms' hashes."""
        keys = cls(())
        for algorithm in algorithms:
            if algorithm not in ALGORITHMS.HMAC:
                raise ValueError(f"{algorithm} takes no secret")
            least = secret_bytes(algorithm)
            if len(secret) < least:
                raise ValueError(f"{algorithm} needs a secret of at least {least} bytes")
            try:
                keys._keys += (VerifyingKey(algorithm, None, jwk.construct(secret, algorithm)),)
            except JOSEError as error:
                raise ValueError("is a key file, not a secret") from error
        return keys

    def __len__(self) -> int:
        return len(self._keys)

    def candidates(self, algorithm: str, kid: str | None) -> list[Any]:
        """List the built keys that may verify a token with this header."""
        return [
            k.key
            for k in self._keys
            if k.algorithm == algorithm and (kid is None or k.kid is None or k.kid == kid)
        ]


def _keys(
    position: int, entry: Mapping[str, Any], algorithms: Sequence[str]
) -> Iterable[VerifyingKey]:
    """Build a JWK once for each algorithm it may serve; keys of other types are passed over."""
    kid, kty = entry.get("kid"), entry.get("kty")
    name = f"key {kid!r}" if isinstance(kid, str) else f"key {position}"
    if kty != "RSA" or not _verifies(entry):
        return
    if "d" in entry:
        raise ValueError(f"{name} is a private key: a verifier needs the public one only")
    own = entry.get("alg")
    for algorithm in algorithms if own is None else (own,):
        if algorithm not in algorithms or algorithm not in ALGORITHMS.RSA_DS:
            continue
        try:
            key = jwk.construct(dict(entry), algorithm)
            bits = key.prepared_key.key_size
        except (JOSEError, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"{name} cannot be read as an RSA key") from error
        if bits < _BITS_OF_RSA:
            raise ValueError(f"{name} has {bits} bits; RFC 7518 demands {_BITS_OF_RSA}")
        yield VerifyingKey(algorithm, kid if isinstance(kid, str) else None, key)


def _verifies(entry: Mapping[str, Any]) -> bool:
    """Say whether `use` and `key_ops` allow verifying (RFC 7517 sections 4.2 and 4.3)."""
    operations = entry.get("key_ops")
    return entry.get("use", "sig") == "sig" and (
        operations is None or (isinstance(operations, list) and "verify" in operations)
    )
