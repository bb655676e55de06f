"""Which tokens were verified before?"""

from __future__ import annotations

from typing import NamedTuple

from mlguard.auth.keyring import Keyring
from mlguard.messages import Principal
from mlguard.recent import Recent

REMEMBERED = 10_000  # verified tokens


class VerifiedToken(NamedTuple):
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


class TokenCache(Recent[bytes, VerifiedToken]):
    """Verified tokens by a digest, never by themselves; what is not seen again makes room."""

    def __init__(self) -> None:
        super().__init__(REMEMBERED)
