"""How is a token made, for trying things out?"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from jose import jwk

from mlguard.auth.algorithms import EC, HASHES
from mlguard.auth.pem import public_jwk
from mlguard.auth.strict import to_base64url
from mlguard.settings import NO_TYPE, RSA, Issuer

_CURVES = {curve.algorithm: curve.curve for curve in EC.values()}

Signer = Callable[[bytes], bytes]
"""Signs bytes; the raw signature of the algorithm (RFC 7518 section 3)."""


def mint(claims: Mapping[str, Any], algorithm: str, sign: Signer, **header: Any) -> str:
    """Write a token (RFC 7515 section 3.1).

    Args:
        claims: Its payload.
        algorithm: The header's `alg`.
        sign: Signs with the key of that algorithm.
        **header: Further members of the header; None leaves one out.
    """
    told = {"alg": algorithm} | {n: value for n, value in header.items() if value is not None}
    text = f"{_segment(told)}.{_segment(claims)}"
    return f"{text}.{to_base64url(sign(text.encode()))}"


def usual(
    issuer: Issuer,
    subject: str,
    *,
    scope: str,
    tenant: str,
    now: int,
    seconds: float,
) -> dict[str, Any]:
    """Write the claims of a token that is accepted for so many seconds from `now`, since 1970."""
    claims = {
        "iss": issuer.issuer,
        issuer.audience_claim: issuer.audience[0],
        issuer.subject_claim: subject,
        issuer.scope_claim or "scope": scope,
        "iat": now,
        "exp": now + seconds,
    }
    return claims | ({issuer.tenant_claim: tenant} if issuer.tenant_claim else {})


def usual_type(issuer: Issuer) -> str | None:
    """Choose a `typ` that an issuer's tokens may have, None for none."""
    return None if issuer.typ[0] == NO_TYPE else issuer.typ[0]


def make_key(algorithm: str) -> tuple[bytes, dict[str, Any]]:
    """Make a key pair.

    Returns:
        The private key as PEM (PKCS #8), and the public one as a JSON Web Key (RFC 7517).
    """
    private: Any
    if algorithm == "EdDSA":
        private = ed25519.Ed25519PrivateKey.generate()
    elif algorithm in _CURVES:
        private = ec.generate_private_key(_CURVES[algorithm])
    else:
        private = rsa.generate_private_key(65537, 3072)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    fixed = {"alg": algorithm, "use": "sig", "kid": secrets.token_hex(8)}
    return pem, public_jwk(private.public_key()) | fixed


def signer(private_pem: bytes, algorithm: str) -> Signer:
    """Return what signs with a private key.

    Raises:
        ValueError: It is no private key of that algorithm.
    """
    private = _private_key(private_pem)
    if not _is_of(private, algorithm):
        raise ValueError(f"it is no private key of {algorithm}")
    if algorithm == "EdDSA":
        return private.sign  # type: ignore[no-any-return]
    if not algorithm.startswith("PS"):
        return jwk.construct(private_pem, algorithm).sign  # type: ignore[no-any-return]
    digest = HASHES[algorithm[2:]]
    pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return lambda data: private.sign(data, pss, digest)


def secret_signer(secret: bytes, algorithm: str) -> Signer:
    """Return what signs with an HMAC secret."""
    return jwk.construct(secret, algorithm).sign  # type: ignore[no-any-return]


def _private_key(pem: bytes) -> Any:
    try:
        return load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("it is no private key in PEM, or one under a password") from error


def _is_of(private: Any, algorithm: str) -> bool:
    if algorithm == "EdDSA":
        return isinstance(private, ed25519.Ed25519PrivateKey)
    if algorithm in RSA:
        return isinstance(private, rsa.RSAPrivateKey)
    if algorithm not in _CURVES or not isinstance(private, ec.EllipticCurvePrivateKey):
        return False
    return private.curve.name == _CURVES[algorithm].name


def _segment(members: Mapping[str, Any]) -> str:
    return to_base64url(json.dumps(members, separators=(",", ":")).encode())
