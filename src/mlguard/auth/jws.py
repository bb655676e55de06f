"""Is the signature good? JSON Web Signature, compact serialization (RFC 7515)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from mlguard.auth.keys import KeySet, VerifyingKey
from mlguard.auth.strict import base64url, json_object

LONGEST_TOKEN = 8192  # characters; servers cap a header line near this
LONGEST_HEADER = 2048  # bytes
_DEEPEST_HEADER = 8  # objects and arrays within each other
_DEEPEST_PAYLOAD = 32


class InvalidToken(Exception):
    """A token is refused.

    Attributes:
        code: What the client is told.
        reason: What only the log is told; it repeats nothing of the token.
    """

    def __init__(self, reason: str, code: str = "token_untrusted") -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True, slots=True)
class Unverified:
    """What a token says of itself, before anything vouches for it.

    Attributes:
        header: The JOSE header.
        algorithm: The header's `alg`; any text.
        kid: The header's `kid`.
        payload: The decoded payload.
        signed: What the signature is over.
        signature: The decoded signature.
    """

    header: Mapping[str, Any]
    algorithm: str
    kid: str | None
    payload: bytes
    signed: bytes
    signature: bytes

    def verify(self, keys: KeySet) -> VerifyingKey:
        """Find the key that verifies the signature.

        Raises:
            InvalidToken: None does.
        """
        candidates = keys.candidates(self.algorithm, self.kid)
        for candidate in candidates:
            if _holds(candidate.key, self.signed, self.signature):
                return candidate
        if candidates:
            raise InvalidToken("no key verifies the signature")
        raise InvalidToken("no key has the token's alg and kid")


def verify_jws(token: str, keys: KeySet) -> bytes:
    """Verify the signature alone and return the payload.

    Raises:
        InvalidToken: For every refusal.
    """
    unverified = parse_jws(token)
    unverified.verify(keys)
    return unverified.payload


def parse_jws(token: str) -> Unverified:
    """Take a token apart, and refuse one that is spelt or demands anything out of the ordinary.

    Raises:
        InvalidToken: For every refusal.
    """
    raw = _ascii(token)
    segments = raw.split(b".", 3)
    if len(segments) != 3:
        raise _malformed("not three segments")
    header, algorithm, kid = _header(segments[0])
    payload, signature = _decode(segments[1]), _decode(segments[2])
    if not signature:
        raise _malformed("no signature")
    return Unverified(header, algorithm, kid, payload, raw[: raw.rindex(b".")], signature)


def parse_object(raw: bytes, part: str) -> dict[str, Any]:
    """Read a JSON object in which no member stands twice (RFC 7519 section 4).

    Raises:
        InvalidToken: It is no such object.
    """
    return _object(raw, part, _DEEPEST_PAYLOAD)


def _object(raw: bytes, part: str, deepest: int) -> dict[str, Any]:
    try:
        return json_object(raw, deepest)
    except ValueError as error:
        raise _malformed(f"{part} {error}") from None


def _ascii(token: object) -> bytes:
    if not isinstance(token, str):
        raise _malformed("no text")
    if len(token) > LONGEST_TOKEN:
        raise _malformed("longer than 8192 characters")
    try:
        return token.encode("ascii")
    except UnicodeEncodeError:
        raise _malformed("a segment is not base64url") from None


def _decode(segment: bytes) -> bytes:
    try:
        return base64url(segment)
    except ValueError as error:
        raise _malformed(f"a segment {error}") from None


@lru_cache(64)
def _header(segment: bytes) -> tuple[Mapping[str, Any], str, str | None]:
    """Read the header, its `alg` and its `kid`: an issuer's tokens have the same one, mostly."""
    raw = _decode(segment)
    if len(raw) > LONGEST_HEADER:
        raise _malformed("a header longer than 2048 bytes")
    header = _object(raw, "header", _DEEPEST_HEADER)
    return MappingProxyType(header), *_checked(header)


def _checked(header: dict[str, Any]) -> tuple[str, str | None]:
    algorithm, kid = header.get("alg"), header.get("kid")
    if not isinstance(algorithm, str):
        raise _malformed("alg is not a string")
    if "kid" in header and not isinstance(kid, str):
        raise _malformed("kid is not a string")
    # RFC 7515 section 4.1.11: extensions that are not understood must be refused.
    if "crit" in header or "b64" in header:
        raise InvalidToken("the header demands extensions")
    if "enc" in header or "zip" in header:
        raise InvalidToken("the header is that of an encrypted token")
    return algorithm, kid


def _malformed(reason: str) -> InvalidToken:
    return InvalidToken(reason, "token_malformed")


def _holds(key: Any, signed: bytes, signature: bytes) -> bool:
    try:
        return bool(key.verify(signed, signature))
    except Exception:  # noqa: BLE001 - whatever goes wrong, nothing was verified
        return False
