"""Which signatures may this key verify? JSON Web Key (RFC 7517)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from jose.exceptions import JOSEError

from mlguard.auth import algorithms
from mlguard.auth.points import is_sound
from mlguard.auth.strict import base64url
from mlguard.settings import HMAC, RSA, secret_bytes

SHORTEST_MODULUS = 2048  # bits: RFC 7518 section 3.3
LONGEST_MODULUS = 8192  # bits: longer ones take a millisecond a token
LONGEST_EXPONENT = 256  # bits: FIPS 186-5 section 5.1
_PUBLIC = frozenset({"RSA", "EC", "OKP", "AKP"})
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "priv"})


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """One key, bound to the one algorithm it verifies.

    Attributes:
        algorithm: The JWA name, as in the token's header.
        kid: The key's identifier, None where it has none.
        key: The built python-jose key.
        id: A digest over the algorithm, the kid and the key: the same key has the same everywhere.
    """

    algorithm: str
    kid: str | None
    key: Any = field(repr=False)
    id: bytes = field(repr=False)


def is_private(entry: Mapping[str, Any]) -> bool:
    """Say whether a JWK holds a private key (RFC 7518 section 6)."""
    return not _PRIVATE.isdisjoint(entry)


def is_secret(entry: Mapping[str, Any]) -> bool:
    """Say whether a JWK holds a symmetric key."""
    return entry.get("kty") == "oct" or "k" in entry


def is_public(entry: Mapping[str, Any]) -> bool:
    """Say whether a JWK is of a type that has a public key."""
    return isinstance(entry.get("kty"), str) and entry["kty"] in _PUBLIC


def read(entry: Mapping[str, Any], allowed: Sequence[str]) -> VerifyingKey | None:
    """Build a JWK once for the one algorithm it serves.

    Args:
        entry: The JWK.
        allowed: The algorithms that keys may serve; empty for any, where an RSA key that names
            none serves RS256 and a secret that names none HS256.

    Returns:
        None for a key that is for something else.

    Raises:
        ValueError: Goes on after the key's name: what is wrong, never its material.
    """
    if not _verifies(entry):
        return None
    if "kid" in entry and not isinstance(entry["kid"], str):
        raise ValueError("has a kid that is no string")
    algorithm = _algorithm(entry, allowed)
    if algorithm is None:
        return None
    if entry["kty"] == "oct":
        return from_secret(_octets(entry, "k"), algorithm, entry.get("kid"))
    build, members = _BUILDERS[entry["kty"]]
    material = [_octets(entry, member) for member in members]
    return _bound(algorithm, entry.get("kid"), build(entry), material)


def from_secret(secret: bytes, algorithm: str, kid: str | None = None) -> VerifyingKey:
    """Build an HMAC key.

    Raises:
        ValueError: Goes on after the secret's name: what is wrong, never the secret.
    """
    if algorithm not in HMAC:
        raise ValueError(f"is a secret, which {algorithm} does not take")
    least = secret_bytes(algorithm)
    if len(secret) < least:
        raise ValueError(f"must be a secret of at least {least} bytes for {algorithm}")
    if _is_key_file(secret):
        raise ValueError("is a key file, not a secret")
    return _bound(algorithm, kid, secret, [secret])


def _verifies(entry: Mapping[str, Any]) -> bool:
    """Say whether `use` and `key_ops` allow verifying (RFC 7517 sections 4.2 and 4.3)."""
    if entry.get("use", "sig") != "sig":
        return False
    operations = entry.get("key_ops", ["verify"])
    return (
        isinstance(operations, list)
        and all(isinstance(o, str) for o in operations)
        and len(set(operations)) == len(operations)
        and "verify" in operations
    )


def _algorithm(entry: Mapping[str, Any], allowed: Sequence[str]) -> str | None:
    fitting = _fitting(entry)
    if not fitting:
        return None
    if "alg" not in entry:
        return _only(fitting, allowed)
    own = entry["alg"]
    if not isinstance(own, str):
        raise ValueError("has an alg that is no string")  # noqa: TRY004
    if own not in algorithms.ALL:
        return None
    if own not in fitting:
        raise ValueError(f"names {own}, which a key of its type cannot serve")
    return own if own in (allowed or fitting) else None


def _fitting(entry: Mapping[str, Any]) -> Sequence[str]:
    """List what a key of this type and curve can serve; nothing where the type is unknown."""
    kty = entry.get("kty")
    if kty == "RSA":
        return RSA
    if kty == "oct":
        return HMAC
    if kty not in ("EC", "OKP"):
        return ()
    crv = entry.get("crv")
    if not isinstance(crv, str):
        raise ValueError("has no crv")  # noqa: TRY004
    if kty == "EC":
        return (algorithms.EC[crv].algorithm,) if crv in algorithms.EC else ()
    return (algorithms.OKP[crv],) if crv in algorithms.OKP else ()


def _only(fitting: Sequence[str], allowed: Collection[str]) -> str | None:
    listed = [a for a in fitting if a in allowed] if allowed else fitting[:1]
    if len(listed) > 1:
        raise ValueError(
            f"names no alg, and {' and '.join(listed)} are listed: "
            "list the one it is for, or write it into the key as alg"
        )
    return listed[0] if listed else None


def _rsa(entry: Mapping[str, Any]) -> rsa.RSAPublicKey:
    n, e = (_number(entry, member) for member in ("n", "e"))
    bits = n.bit_length()
    if bits < SHORTEST_MODULUS:
        raise ValueError(f"has {bits} bits; RFC 7518 demands {SHORTEST_MODULUS}")
    if bits > LONGEST_MODULUS:
        raise ValueError(f"has {bits} bits; at most {LONGEST_MODULUS} are read")
    if n % 2 == 0:
        raise ValueError("has an even modulus")
    if e < 3 or e % 2 == 0 or e.bit_length() > LONGEST_EXPONENT:
        raise ValueError("has an exponent that is even, below 3 or above 256 bits")
    return rsa.RSAPublicNumbers(e, n).public_key()


def _ec(entry: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    curve = algorithms.EC[entry["crv"]]
    x, y = (int.from_bytes(_coordinate(entry, m, curve.octets)) for m in ("x", "y"))
    try:
        return ec.EllipticCurvePublicNumbers(x, y, curve.curve).public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise ValueError("is no point of its curve") from None


def _okp(entry: Mapping[str, Any]) -> ed25519.Ed25519PublicKey:
    x = _coordinate(entry, "x", 32)  # RFC 8032 section 5.1.5
    if not is_sound(x):
        raise ValueError("is no point of its curve, or one of small order")
    return ed25519.Ed25519PublicKey.from_public_bytes(x)


_BUILDERS: dict[str, tuple[Callable[[Mapping[str, Any]], Any], Sequence[str]]] = {
    "RSA": (_rsa, ("n", "e")),
    "EC": (_ec, ("x", "y")),
    "OKP": (_okp, ("x",)),
}


def _number(entry: Mapping[str, Any], member: str) -> int:
    """Read a Base64urlUInt, which has no leading zeros (RFC 7518 section 2)."""
    octets = _octets(entry, member)
    if not octets or octets[0] == 0:
        raise ValueError(f"has a member {member} that is empty or begins with zeros")
    return int.from_bytes(octets)


def _coordinate(entry: Mapping[str, Any], member: str, octets: int) -> bytes:
    """Read a coordinate, which has the curve's full length (RFC 7518 section 6.2.1.2)."""
    value = _octets(entry, member)
    if len(value) != octets:
        raise ValueError(f"has a member {member} that is not {octets} bytes")
    return value


def _octets(entry: Mapping[str, Any], member: str) -> bytes:
    value = entry.get(member)
    if not isinstance(value, str):
        raise ValueError(f"has no member {member} that is a string")  # noqa: TRY004
    try:
        return base64url(value.encode("ascii"))
    except ValueError:
        raise ValueError(f"has a member {member} that is not base64url") from None


def _is_key_file(secret: bytes) -> bool:
    """Recognize what is public in a file that is taken for a secret (RFC 8725 section 2.1)."""
    if b"---- BEGIN " in secret or b"----BEGIN " in secret:
        return True
    if secret.lstrip()[:1] in (b"{", b"[") and (b'"kty"' in secret or b'"keys"' in secret):
        return True
    try:
        load_der_public_key(secret)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _bound(algorithm: str, kid: str | None, key: Any, material: Sequence[bytes]) -> VerifyingKey:
    try:
        built = algorithms.build(algorithm, key)
    except JOSEError:
        # python-jose recognizes further key files that are taken for secrets.
        raise ValueError("is a key file, not a secret") from None
    described = repr((algorithm, kid, *material)).encode()
    identity = hashlib.blake2b(described, digest_size=16).digest()
    return VerifyingKey(algorithm, kid, built, identity)
