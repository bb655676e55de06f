"""Which rows did the principal send before, exactly?

Two filters of bits (Bloom), the older of which is dropped when the younger is full: a repeat of any
of the last 1 500 distinct rows is known, and 3 in 100 new rows are taken for one. Rows are hashed
with a key of the monitor's own, so that nobody can make rows that are taken for repeats.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_BITS = 14
_FULL = 1500


class RowHash:
    """Hashes rows of numbers with a key.

    Args:
        key: At most 64 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._keyed = hashlib.blake2b(key=key, digest_size=8)

    def __call__(self, values: Floats) -> list[int]:
        """Return a hash of each row, of 64 bits."""
        return [self._hash(row) for row in np.ascontiguousarray(values + 0.0)]  # one zero

    def _hash(self, row: Floats) -> int:
        hashed = self._keyed.copy()
        hashed.update(row.data)
        return int.from_bytes(hashed.digest(), "big")


class Repeats:
    """The filters of one principal."""

    __slots__ = ("_held", "_old", "_young")

    def __init__(self) -> None:
        self._young = bytearray(1 << (_BITS - 3))
        self._old = bytearray(1 << (_BITS - 3))
        self._held = 0

    @property
    def size(self) -> int:
        """Return how many bytes they are."""
        return len(self._young) + len(self._old)

    def new(self, hashes: list[int]) -> list[int]:
        """Return the places of rows that are not known, and remember them."""
        return [at for at, row in enumerate(hashes) if self._put(row)]

    def _put(self, row: int) -> bool:
        first, second = row >> 50, (row >> 36) & 0x3FFF
        a, b = first >> 3, second >> 3
        bit_a, bit_b = 1 << (first & 7), 1 << (second & 7)
        young = self._young
        if young[a] & bit_a and young[b] & bit_b:
            return False
        is_old = self._old[a] & bit_a and self._old[b] & bit_b
        if self._held >= _FULL:
            self._old, self._young, self._held = young, bytearray(len(young)), 0
            young = self._young
        young[a] |= bit_a
        young[b] |= bit_b
        self._held += 1
        return not is_old
