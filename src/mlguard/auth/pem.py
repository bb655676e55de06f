"""Which public keys are in this file? PEM (RFC 7468), read into JSON Web Keys."""

from __future__ import annotations

import re
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
)
from cryptography.x509 import load_pem_x509_certificate

from mlguard.auth.algorithms import EC
from mlguard.auth.strict import to_base64url

_BLOCK = re.compile(
    rb"-----BEGIN (?P<label>[A-Z0-9 ]+)-----[^-]*-----END (?P=label)-----", re.ASCII
)
_MARK = re.compile(rb"-----(?:BEGIN|END) ")
_CURVES = {curve.curve.name: (name, curve.octets) for name, curve in EC.items()}


def blocks(pem: bytes) -> list[tuple[str, bytes]]:
    """Cut a file into blocks: the label and the text of each.

    Raises:
        ValueError: It holds no block, half a one, a private key or something else.
    """
    if b"PRIVATE KEY" in pem:
        raise ValueError("holds a private key: a verifier needs the public one only")
    found = [(m["label"].decode(), m[0]) for m in _BLOCK.finditer(pem)]
    if not found or len(_MARK.findall(pem)) != 2 * len(found):
        raise ValueError("must hold blocks from -----BEGIN PUBLIC KEY----- to its -----END")
    for label, _ in found:
        if label not in ("PUBLIC KEY", "RSA PUBLIC KEY", "CERTIFICATE"):
            raise ValueError(f"holds a {label}: PUBLIC KEY and CERTIFICATE are read")
    return found


def to_jwk(label: str, block: bytes) -> dict[str, Any]:
    """Write the public key of one block as a JWK.

    Raises:
        ValueError: Goes on after the block's name.
    """
    try:
        if label == "CERTIFICATE":
            key: Any = load_pem_x509_certificate(block).public_key()
        else:
            key = load_pem_public_key(block)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ValueError(f"cannot be read as a {label}") from None
    return public_jwk(key)


def public_jwk(key: Any) -> dict[str, Any]:
    """Write one of cryptography's public keys as a JWK (RFC 7518 section 6).

    Raises:
        ValueError: It can verify no token; goes on after the key's name.
    """
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e)}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        name, octets = _CURVES[key.curve.name]
        point = key.public_numbers()
        x, y = (to_base64url(c.to_bytes(octets)) for c in (point.x, point.y))
        return {"kty": "EC", "crv": name, "x": x, "y": y}
    if isinstance(key, ed25519.Ed25519PublicKey):
        raw = key.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"kty": "OKP", "crv": "Ed25519", "x": to_base64url(raw)}
    raise ValueError("is of a type or curve that verifies no token")


def _number(value: int) -> str:
    return to_base64url(value.to_bytes((value.bit_length() + 7) // 8))
