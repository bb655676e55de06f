"""Which signature algorithms are there, and what verifies each? JSON Web Algorithms (RFC 7518)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from jose.backends import ECKey, HMACKey, RSAKey
from jose.backends.base import Key
from jose.exceptions import JWKError

from mlguard.settings import HMAC, RSA

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


@dataclass(frozen=True, slots=True)
class Curve:
    """An elliptic curve and the one algorithm that it serves.

    Attributes:
        algorithm: The JWA name.
        octets: How long each coordinate is.
        curve: The curve.
    """

    algorithm: str
    octets: int
    curve: ec.EllipticCurve


EC = {
    "P-256": Curve("ES256", 32, ec.SECP256R1()),
    "P-384": Curve("ES384", 48, ec.SECP384R1()),
    "P-521": Curve("ES512", 66, ec.SECP521R1()),
}
OKP = {"Ed25519": "EdDSA"}
ALL = frozenset((*HMAC, *RSA, *(c.algorithm for c in EC.values()), *OKP.values()))


class SecretKey(HMACKey):  # type: ignore[misc]
    """Verify an HMAC as python-jose does (RFC 7518 section 3.2), at half the cost."""

    def __init__(self, key: Any, algorithm: str) -> None:
        super().__init__(key, algorithm)
        self._hash = f"sha{algorithm[2:]}"

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Say whether the signature is that of the message."""
        return hmac.compare_digest(hmac.digest(self.prepared_key, msg, self._hash), sig)


class PSSKey(Key):  # type: ignore[misc]
    """Verify RSASSA-PSS, which python-jose lacks (RFC 7518 section 3.5)."""

    def __init__(self, key: rsa.RSAPublicKey, algorithm: str) -> None:
        if algorithm not in RSA or not algorithm.startswith("PS"):
            raise JWKError("is no algorithm of RSASSA-PSS")
        self.prepared_key = key
        self._hash = HASHES[algorithm[2:]]
        self._padding = padding.PSS(padding.MGF1(self._hash), self._hash.digest_size)
        self._octets = (key.key_size + 7) // 8

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Say whether the signature is that of the message."""
        # RFC 8017 section 8.1.2: a signature is as long as the modulus; OpenSSL takes shorter ones.
        if len(sig) != self._octets:
            return False
        try:
            self.prepared_key.verify(sig, msg, self._padding, self._hash)
        except InvalidSignature:
            return False
        return True


class Ed25519Key(Key):  # type: ignore[misc]
    """Verify EdDSA over Ed25519, which python-jose lacks (RFC 8037 section 3.1)."""

    def __init__(self, key: ed25519.Ed25519PublicKey, algorithm: str) -> None:
        if algorithm != "EdDSA":
            raise JWKError("is not EdDSA")
        self.prepared_key = key

    def verify(self, msg: bytes, sig: bytes) -> bool:
        """Say whether the signature is that of the message."""
        try:
            self.prepared_key.verify(sig, msg)
        except InvalidSignature:
            return False
        return True


def build(algorithm: str, key: Any) -> Any:
    """Build python-jose's key for one algorithm.

    python-jose's registry is passed by: it belongs to the whole process.
    """
    kinds = {"HS": SecretKey, "RS": RSAKey, "PS": PSSKey, "ES": ECKey, "Ed": Ed25519Key}
    return kinds[algorithm[:2]](key, algorithm)
