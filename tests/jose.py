"""Who signs the tokens of the tests? cryptography's primitives: what no library would write."""

from __future__ import annotations

import base64
import hmac
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mlguard.auth import algorithms as jwa
from mlguard.auth.jws import InvalidToken, verify_jws
from mlguard.auth.keys import KeySet

MALFORMED, UNTRUSTED = "token_malformed", "token_untrusted"
SECRET = b"a secret of the tests that is long enough, for SHA-512 as well: 64"
PAYLOAD = b'{"sub":"alice"}'
EVERY = (*jwa.HMAC, *jwa.RSA, "ES256", "ES384", "ES512", "EdDSA")
Jwk = dict[str, Any]
Signer = Callable[[bytes], bytes]


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def number(value: int, octets: int = 0) -> str:
    return b64(value.to_bytes(octets or (value.bit_length() + 7) // 8))


@cache
def rsa_key(bits: int = 2048, number: int = 0, exponent: int = 65537) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(exponent, bits)


@cache
def ec_key(algorithm: str) -> ec.EllipticCurvePrivateKey:
    curves = {"ES256": ec.SECP256R1(), "ES384": ec.SECP384R1(), "ES512": ec.SECP521R1()}
    return ec.generate_private_key(curves[algorithm])


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def rsa_jwk(key: rsa.RSAPrivateKey | None = None, **others: Any) -> Jwk:
    numbers = (key or rsa_key()).public_key().public_numbers()
    return {"kty": "RSA", "n": number(numbers.n), "e": number(numbers.e), **others}


def ec_jwk(algorithm: str = "ES256", **others: Any) -> Jwk:
    key = ec_key(algorithm)
    point, octets = key.public_key().public_numbers(), (key.key_size + 7) // 8
    names = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
    x, y = number(point.x, octets), number(point.y, octets)
    return {"kty": "EC", "crv": names[algorithm], "x": x, "y": y, **others}


def ed_jwk(**others: Any) -> Jwk:
    raw = ed_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {"kty": "OKP", "crv": "Ed25519", "x": b64(raw), **others}


def oct_jwk(secret: bytes = SECRET, **others: Any) -> Jwk:
    return {"kty": "oct", "k": b64(secret), **others}


def jwk_for(algorithm: str, **others: Any) -> Jwk:
    """Write the tests' key for an algorithm, which names the algorithm."""
    if algorithm.startswith("HS"):
        return oct_jwk(alg=algorithm, **others)
    if algorithm == "EdDSA":
        return ed_jwk(alg=algorithm, **others)
    make = partial(ec_jwk, algorithm) if algorithm.startswith("ES") else rsa_jwk
    return make(alg=algorithm, **others)


def digest(algorithm: str) -> Any:
    return {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}[algorithm[2:]]


def raw_ecdsa(key: ec.EllipticCurvePrivateKey, algorithm: str, message: bytes) -> bytes:
    octets = (key.key_size + 7) // 8
    numbers = decode_dss_signature(key.sign(message, ec.ECDSA(digest(algorithm))))
    return b"".join(n.to_bytes(octets) for n in numbers)


def signer(algorithm: str, key: Any = None) -> Signer:
    """Sign with cryptography's primitives, not with what is tested."""
    kind = algorithm[:2]
    if kind == "HS":
        return lambda m: hmac.digest(key or SECRET, m, "sha" + algorithm[2:])
    if kind == "RS":
        return lambda m: (key or rsa_key()).sign(m, padding.PKCS1v15(), digest(algorithm))
    if kind == "PS":
        pss = padding.PSS(padding.MGF1(digest(algorithm)), digest(algorithm).digest_size)
        return lambda m: (key or rsa_key()).sign(m, pss, digest(algorithm))
    if kind == "ES":
        return lambda m: raw_ecdsa(key or ec_key(algorithm), algorithm, m)
    return (key or ed_key()).sign


def signed(
    header: Mapping[str, Any] | bytes, payload: bytes = PAYLOAD, sign: Signer | None = None
) -> str:
    """Sign any bytes: what no library would write."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    text = f"{b64(raw)}.{b64(payload)}"
    return f"{text}.{b64((sign or signer('HS256'))(text.encode()))}"


def token(algorithm: str = "HS256", key: Any = None, **header: Any) -> str:
    return signed({"alg": algorithm, **header}, sign=signer(algorithm, key))


def refusal(text: Any, keys: KeySet | None = None) -> str | None:
    """Return the code of the refusal, None where the token is trusted."""
    try:
        verify_jws(text, KeySet.from_secrets([SECRET]) if keys is None else keys)
    except InvalidToken as error:
        return error.code
    return None


def problem(*jwks: Any, **options: Any) -> str:
    with pytest.raises(ValueError) as caught:
        KeySet(jwks, **options)
    return str(caught.value)


OID_SHA256 = bytes.fromhex("608648016503040201")
Change = Callable[[bytes], bytes]


def tlv(tag: int, value: bytes) -> bytes:
    """Encode one element of DER, of up to 255 bytes."""
    length = [len(value)] if len(value) < 128 else [0x81, len(value)]
    return bytes([tag, *length]) + value


def digest_info(hashed: bytes, element: str = "", change: Change = bytes) -> bytes:
    """Write PKCS #1's DigestInfo (RFC 8017 section 9.2), with one element changed."""

    def put(name: str, tag: int, value: bytes) -> bytes:
        encoded = tlv(tag, value)
        return change(encoded) if name == element else encoded

    algorithm = put("Oid", 6, OID_SHA256) + put("Null", 5, b"")
    octets = put("OctetString", 4, hashed)
    return put("Sequence", 0x30, put("Algorithm", 0x30, algorithm) + octets)


def cube_root(value: int) -> int:
    """Round down to a cube, then up: its first half is that of the value."""
    low, high = 0, 1 << (value.bit_length() // 3 + 1)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if middle**3 >= value else (middle + 1, high)
    return low - 1


def raw_rsa(block: bytes, key: rsa.RSAPrivateKey | None = None) -> bytes:
    """Sign a block as it stands."""
    numbers = (key or rsa_key()).private_numbers()
    n = numbers.public_numbers.n
    return pow(int.from_bytes(block), numbers.d, n).to_bytes(256)
