"""Is the signature good? JSON Web Signature, compact serialization (RFC 7515)."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Any

from jose.exceptions import JOSEError

from mlguard.auth.keys import KeySet

LONGEST_TOKEN = 8192  # characters; servers cap a header line near this
LONGEST_HEADER = 2048
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+\Z")
_TYPES = ("jwt", "at+jwt", "application/at+jwt")


class InvalidToken(Exception):
    """A token is refused.

    Attributes:
        code: What the client is told.
        reason: What only the log is told.
    """

    def __init__(self, reason: str, code: str = "token_untrusted") -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


def verify_jws(token: str, keys: KeySet) -> bytes:
    """Verify the signature alone and return the payload.

    Raises:
        InvalidToken: For every refusal.
    """
    if len(token) > LONGEST_TOKEN:
        raise InvalidToken("longer than 8192 characters", "token_malformed")
    segments = token.split(".")
    if len(segments) != 3:
        raise InvalidToken("not three segments", "token_malformed")
    header_bytes, payload, signature = (_decode(s) for s in segments)
    if len(header_bytes) > LONGEST_HEADER:
        raise InvalidToken("a header longer than 2048 bytes", "token_malformed")
    header = parse_object(header_bytes, "header")
    algorithm, kid = _checked(header)
    signed = token[: token.rindex(".")].encode()
    for key in keys.candidates(algorithm, kid):
        if _holds(key, signed, signature):
            return payload
    raise InvalidToken("no key verifies the signature")


def parse_object(raw: bytes, part: str) -> dict[str, Any]:
    """Read a JSON object in which no member stands twice (RFC 7515 section 4)."""
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise InvalidToken(f"{part} is not JSON with unique members", "token_malformed") from None
    if not isinstance(value, dict):
        raise InvalidToken(f"{part} is not an object", "token_malformed")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _decode(segment: str) -> bytes:
    """Decode base64url, refusing padding, junk and stray bits (RFC 7515 section 2)."""
    if not _SEGMENT.match(segment):
        raise InvalidToken("a segment is not base64url", "token_malformed")
    try:
        raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    except (ValueError, binascii.Error):
        raise InvalidToken("a segment is not base64url", "token_malformed") from None
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != segment.encode():
        raise InvalidToken("a segment has stray bits", "token_malformed")
    return raw


def _checked(header: dict[str, Any]) -> tuple[str, str | None]:
    algorithm, kid, kind = header.get("alg"), header.get("kid"), header.get("typ", "JWT")
    if not isinstance(algorithm, str):
        raise InvalidToken("alg is not a string", "token_malformed")
    if kid is not None and not isinstance(kid, str):
        raise InvalidToken("kid is not a string", "token_malformed")
    # RFC 7515 section 4.1.11: extensions that are not understood must be refused.
    if "crit" in header or "b64" in header:
        raise InvalidToken("the header demands extensions")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise InvalidToken("typ is not that of an access token")
    return algorithm, kid


def _holds(key: Any, signed: bytes, signature: bytes) -> bool:
    try:
        return bool(key.verify(signed, signature))
    except (JOSEError, ValueError, TypeError):
        return False
