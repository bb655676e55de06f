"""Who is calling, by a key of the service's own? Kept as salted hashes, never as they are."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mlguard import refusals
from mlguard.messages import Deny, Principal

VOUCHER = "api_keys"
"""Who vouches for the subjects of keys, where an issuer vouches for those of tokens."""

PREFIX = "mlg_"
"""What every key begins with, so that scanners find one that has leaked."""

PATTERN = r"mlg_[0-9A-Za-z]{8}_[0-9A-Za-z]{38}"
"""What a scanner looks for; the last six characters are a checksum of those before."""

MOST_KEYS = 100_000
LONGEST_KEY = 512  # characters of one that was made elsewhere
SHORTEST_KEY = 20
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID, _SECRET, _CHECKSUM = 8, 32, 6  # characters; the secret has 190 bits
_SALT = 16  # bytes
_FORMAT = 1
_KEY = re.compile(rf"{PATTERN}\Z")
_HASH = re.compile(r"[0-9a-f]{64}\Z")
_NAMES = ("id", "hash", "subject", "tenant", "scopes", "plan", "created", "expires")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """What is kept of a key.

    Attributes:
        id: Names it to people; stands in the key itself too.
        hash: The SHA-256 of salt and key, in hexadecimal.
        subject: Who calls with it.
        tenant: Whom the caller belongs to, None where nobody asks.
        scopes: What the caller may do.
        plan: Which of `quotas.plans` holds, None for none.
        created: When it was made, in seconds since 1970.
        expires: From when on it is refused, in seconds since 1970; None for never.
    """

    id: str
    hash: str = field(repr=False)
    subject: str
    tenant: str | None = None
    scopes: tuple[str, ...] = ()
    plan: str | None = None
    created: float = 0.0
    expires: float | None = None

    def holds(self, now: float) -> bool:
        """Say whether its time is not over."""
        return self.expires is None or now < self.expires

    @classmethod
    def from_dict(cls, written: object) -> ApiKey:
        """Read what stands in a document; a ValueError says what is wrong."""
        if not isinstance(written, dict) or not {"id", "hash", "subject"} <= written.keys():
            raise ValueError("an entry must be an object with id, hash and subject")
        if strange := written.keys() - set(_NAMES):
            raise ValueError(f"an entry has {min(strange)!r}, which no key has")
        texts = [written[name] for name in ("id", "hash", "subject")]
        texts += [written[name] for name in ("tenant", "plan") if written.get(name) is not None]
        scopes, expires = written.get("scopes", []), written.get("expires")
        if (
            not all(isinstance(text, str) and text for text in texts)
            or not _HASH.match(written["hash"])
            or not isinstance(scopes, list)
            or not all(isinstance(scope, str) for scope in scopes)
            or not all(_is_moment(m) for m in (written.get("created", 0), expires or 0))
        ):
            raise ValueError(f"the entry {str(written['id'])[:20]!r} cannot be read")
        return cls(**{**written, "scopes": tuple(scopes)})

    def as_dict(self) -> dict[str, Any]:
        """Write it down, ready for JSON."""
        told = {name: getattr(self, name) for name in _NAMES}
        return {name: value for name, value in told.items() if value not in (None, ())}


@dataclass(frozen=True, slots=True)
class KeyBook:
    """All keys of a service, which share a salt.

    Attributes:
        salt: Random bytes.
        keys: What is kept of each.
    """

    salt: bytes
    keys: tuple[ApiKey, ...] = ()

    @classmethod
    def new(cls) -> KeyBook:
        """Begin one."""
        return cls(secrets.token_bytes(_SALT))

    @classmethod
    def from_json(cls, text: bytes) -> KeyBook:
        """Read what `to_json` wrote; a ValueError says what is wrong."""
        try:
            written = json.loads(text)
        except (ValueError, RecursionError):
            raise ValueError("is no JSON") from None
        if not isinstance(written, dict) or written.get("format") != _FORMAT:
            raise ValueError(f"is no document of API keys of format {_FORMAT}")
        salt, keys = written.get("salt"), written.get("keys")
        if not isinstance(salt, str) or not isinstance(keys, list) or len(keys) > MOST_KEYS:
            raise ValueError(f"has no salt, or not a list of at most {MOST_KEYS} keys")
        raw = bytes.fromhex(salt)
        if len(raw) < _SALT:
            raise ValueError(f"has a salt of less than {_SALT} bytes")
        return cls(raw, tuple(map(ApiKey.from_dict, keys)))

    def to_json(self) -> bytes:
        """Write all of it down."""
        keys = [key.as_dict() for key in self.keys]
        written = {"format": _FORMAT, "salt": self.salt.hex(), "keys": keys}
        return json.dumps(written, indent=1).encode() + b"\n"

    def hash(self, text: str) -> str:
        """Hash a key: one of 190 random bits is not found by trying, however quick that is."""
        return hashlib.sha256(self.salt + text.encode("utf-8", "surrogatepass")).hexdigest()

    def adding(self, key: ApiKey) -> KeyBook:
        """Add a key; a ValueError where it, or its id, is there already, or too many are."""
        if any(key.hash == other.hash for other in self.keys):
            raise ValueError("that key is there already")
        if any(key.id == other.id for other in self.keys):
            raise ValueError(f"a key has the id {key.id!r} already")
        if len(self.keys) >= MOST_KEYS:
            raise ValueError(f"there are {MOST_KEYS} keys already, more are not kept")
        return replace(self, keys=(*self.keys, key))

    def keeping(self, is_kept: Callable[[ApiKey], bool]) -> KeyBook:
        """Leave the other keys out."""
        return replace(self, keys=tuple(filter(is_kept, self.keys)))

    def replacing(self, key: ApiKey) -> KeyBook:
        """Put a key in place of the one that has its id."""
        return replace(self, keys=tuple(key if k.id == key.id else k for k in self.keys))


def new_key() -> str:
    """Make a key: prefix, id, secret and a checksum by which a scanner knows that it is one."""
    said = f"{PREFIX}{_random(_ID)}_{_random(_SECRET)}"
    return said + _checksum(said)


def id_of(text: str) -> str | None:
    """Tell the id that stands in a key; None where it is not one of ours, or mistyped."""
    if not _KEY.match(text) or _checksum(text[:-_CHECKSUM]) != text[-_CHECKSUM:]:
        return None
    return text[len(PREFIX) :][:_ID]


def new_id() -> str:
    """Make the id of a key that was made elsewhere."""
    return _random(_ID)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def _checksum(said: str) -> str:
    number, letters = zlib.crc32(said.encode()), ""
    for _ in range(_CHECKSUM):
        number, rest = divmod(number, len(_ALPHABET))
        letters = _ALPHABET[rest] + letters
    return letters


def _is_moment(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) < 1e12


_Held: TypeAlias = tuple[KeyBook, Mapping[str, ApiKey], dict[str, Principal]]
"""The keys, those by their hashes, and who was let in by them so far, by their ids."""


class ApiKeys:
    """The keys that hold now, as this worker knows them. Threads may read while another writes.

    Fails closed: while nobody knows which keys there are, all of them get a 503.

    Args:
        pseudonym: Makes the keyed hash of a principal's key.
        plan_claim: The name under which a principal's claims tell its plan.
        header: The header that carries keys; "Authorization" for `Bearer KEY`.

    Attributes:
        header: That, as the settings spell it.
        are_bearers: Whether keys come where tokens do.
    """

    def __init__(
        self,
        pseudonym: Callable[[tuple[str, str, str]], str],
        *,
        plan_claim: str = "plan",
        header: str = "X-API-Key",
    ) -> None:
        self._pseudonym = pseudonym
        self._plan_claim = plan_claim
        self.header = header
        self.are_bearers = header.lower() == "authorization"
        self._held: _Held | None = None
        self._ids: Mapping[str, ApiKey] = {}

    def put(self, book: KeyBook) -> None:
        """Hold these from now on, and no others."""
        self._ids = {key.id: key for key in book.keys}
        self._held = book, {key.hash: key for key in book.keys}, {}

    @property
    def book(self) -> KeyBook | None:
        """What holds; None while that is not known."""
        return self._held[0] if self._held else None

    def caller(self, text: str, now: float) -> Principal | Deny | None:
        """Say whose key it is; None where it is nobody's.

        A right key and a wrong one take the same time: one hash, and one look.

        Args:
            text: What was sent.
            now: Seconds since 1970.
        """
        if self._held is None:
            return refusals.api_keys_unknown()
        book, known, principals = self._held
        key = known.get(book.hash(text[: LONGEST_KEY + 1]))
        if key is None:
            return None
        if not key.holds(now):
            return refusals.key_expired(self.header)
        who = principals.get(key.id)
        if who is None:
            who = principals[key.id] = self._principal(key)
        return who

    def lapsed(self, principal: Principal, now: float) -> Deny | None:
        """Refuse who was let in by a key that holds no longer: on long connections."""
        key = self._ids.get(principal.claims.get("jti", ""))
        if key is None:
            return refusals.key_unknown(self.header)
        return None if key.holds(now) else refusals.key_expired(self.header)

    def _principal(self, key: ApiKey) -> Principal:
        claims = {"jti": key.id} | ({self._plan_claim: key.plan} if key.plan else {})
        return Principal(
            issuer=VOUCHER,
            subject=key.subject,
            tenant=key.tenant,
            scopes=frozenset(key.scopes),
            claims=claims,
            pseudonym=self._pseudonym((VOUCHER, key.tenant or "", key.subject)),
        )


def one_key(sent: Iterable[str]) -> str | None:
    """Take the key out of the headers that carry keys; None where it cannot be one."""
    texts = [text.strip() for text in sent]
    if len(texts) != 1 or not 0 < len(texts[0]) <= LONGEST_KEY:
        return None
    return texts[0] if texts[0].isascii() and texts[0].isprintable() else None
