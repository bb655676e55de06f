"""Which tokens count no longer, although they have not expired?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from threading import Lock
from typing import Any, TypeAlias

MAX_ENTRIES = 100_000
MAX_TEXT = 1024  # characters

Key: TypeAlias = tuple[str, str, str]
"""What is revoked: "jti" or "subject", the issuer, and which one."""


class RevocationsFull(ValueError):
    """There is no room for more.

    Attributes:
        refused: How many were not taken.
    """

    def __init__(self, refused: int) -> None:
        self.refused = refused
        super().__init__(f"{refused} revocations more than the {MAX_ENTRIES} that are kept")


@dataclass(frozen=True, slots=True)
class Revocation:
    """One token, or all that a subject was issued until some moment, counts no longer.

    Attributes:
        issuer: Who issued it: the claim `iss`.
        jti: The one token, by its claim `jti`; or
        subject: Whose tokens, by the claim that names the caller.
        before: Of a subject, tokens issued until then are revoked, in seconds since 1970.
        until: When it may be forgotten, in seconds since 1970; None: never.
    """

    issuer: str
    jti: str | None = None
    subject: str | None = None
    before: float = 0.0
    until: float | None = None

    def __post_init__(self) -> None:
        if (self.jti is None) == (self.subject is None):
            raise ValueError("a revocation must have either jti or subject")
        for name, text in zip(("issuer", self.kind), (self.issuer, self.name), strict=True):
            if not isinstance(text, str) or not 0 < len(text) <= MAX_TEXT:
                raise ValueError(f"{name} must be a string of 1 to {MAX_TEXT} characters")
        for name, moment in (("before", self.before), ("until", self.until)):
            if not _is_moment(moment) and (name, moment) != ("until", None):
                raise ValueError(f"{name} must be a number of seconds since 1970")

    @property
    def kind(self) -> str:
        """Which claim names what is revoked."""
        return "subject" if self.jti is None else "jti"

    @property
    def name(self) -> str:
        """What that claim is."""
        return (self.subject if self.jti is None else self.jti) or ""

    @property
    def key(self) -> Key:
        """What is revoked; two revocations of the same are joined."""
        return (self.kind, self.issuer, self.name)

    def is_past(self, now: float) -> bool:
        """Say whether it may be forgotten."""
        return self.until is not None and self.until <= now

    def joined(self, other: Revocation | None) -> Revocation:
        """Return what both of the same key say: the latest `before`, the longest `until`."""
        if other is None or other == self:
            return self
        endless = self.until is None or other.until is None
        return replace(
            self,
            before=max(self.before, other.before),
            until=None if endless else max(self.until or 0.0, other.until or 0.0),
        )

    def as_dict(self) -> dict[str, Any]:
        """Write it down, ready for JSON."""
        written: dict[str, Any] = {"issuer": self.issuer, self.kind: self.name}
        if self.before:
            written["before"] = self.before
        if self.until is not None:
            written["until"] = self.until
        return written

    @classmethod
    def from_dict(cls, written: object) -> Revocation:
        """Read what `as_dict` wrote; a ValueError for anything else."""
        if isinstance(written, Mapping) and {"issuer"} <= written.keys() <= _NAMES:
            return cls(**written)
        raise ValueError(
            f"a revocation must be an object with issuer, and of {sorted(_NAMES)} only"
        )


_NAMES = {field.name for field in fields(Revocation)}


class Revocations:
    """What is revoked, as one worker knows it. Threads may read while another writes.

    Attributes:
        is_known: Whether all that other hosts revoked was learned once.
    """

    def __init__(self) -> None:
        self.is_known = True
        self._known: dict[Key, Revocation] = {}
        self._soonest = math.inf  # before then nothing is past
        self._writing = Lock()

    def covers(self, issuer: str, claims: Mapping[str, Any], subject: str) -> bool:
        """Say whether a token is revoked.

        A token that does not say when it was issued is revoked with its subject.

        Args:
            issuer: Who issued it.
            claims: Its payload.
            subject: Whose it is.
        """
        known = self._known
        if not known:
            return False
        jti = claims.get("jti")
        if isinstance(jti, str) and ("jti", issuer, jti) in known:
            return True
        found = known.get(("subject", issuer, subject))
        return found is not None and not _is_after(claims.get("iat"), found.before)

    def learn(self, revocations: Iterable[Revocation], now: float) -> tuple[list[Revocation], int]:
        """Take in what is not past, and forget what is.

        Args:
            revocations: What is revoked.
            now: Seconds since 1970.

        Returns:
            Those that said something new, and how many of them there was no room for.
        """
        news: list[Revocation] = []
        refused = 0
        with self._writing:
            self._forget(now)
            for revocation in revocations:
                known = self._known.get(revocation.key)
                joined = revocation.joined(known)
                if joined == known or revocation.is_past(now):
                    continue
                news.append(revocation)
                if known is None and len(self._known) >= MAX_ENTRIES:
                    refused += 1
                else:
                    self._known[revocation.key] = joined
                    self._soonest = min(self._soonest, _end(joined))
        return news, refused

    def _forget(self, now: float) -> None:
        """Drop what is past; costs nothing while there is no such."""
        if now < self._soonest:
            return
        for key in [key for key, r in self._known.items() if r.is_past(now)]:
            del self._known[key]
        self._soonest = min(map(_end, self._known.values()), default=math.inf)

    def __iter__(self) -> Iterator[Revocation]:
        with self._writing:
            return iter(list(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, key: object) -> bool:
        return key in self._known


def _end(revocation: Revocation) -> float:
    return math.inf if revocation.until is None else revocation.until


def _is_moment(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _is_after(iat: object, before: float) -> bool:
    return isinstance(iat, int | float) and not isinstance(iat, bool) and iat > before
