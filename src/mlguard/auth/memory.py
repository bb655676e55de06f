"""Which tokens were verified before?"""

from __future__ import annotations

from typing import NamedTuple

from mlguard.auth.keyring import Keyring
from mlguard.messages import Principal

REMEMBERED = 10_000  # verified tokens


class Known(NamedTuple):
    """A token that was verified.

    Attributes:
        principal: Who sent it.
        until: Seconds since 1970 when it ends.
        ring: Holds the issuer's keys.
        key: The id of the key that verified it.
    """

    principal: Principal
    until: float
    ring: Keyring
    key: bytes

    def holds(self, now: float) -> bool:
        """Say whether the token, its issuer's keys and its own key among them still hold."""
        keys = self.ring.keys()
        return self.until > now and keys is not None and self.key in keys.ids


class Memory:
    """Verified tokens by a digest, never by themselves; what is not seen again makes room."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._young: dict[bytes, Known] = {}
        self._old: dict[bytes, Known] = {}

    def get(self, digest: bytes) -> Known | None:
        """Recall a token, whether or not it still holds."""
        known = self._young.get(digest)
        if known is None:
            known = self._old.get(digest)
            if known is not None:
                self.put(digest, known)
        return known

    def put(self, digest: bytes, known: Known) -> None:
        """Keep a token among the young; the old, not seen since the last turn, leave."""
        if len(self._young) >= self._most // 2:
            self._young, self._old = {}, self._young
        self._young[digest] = known
