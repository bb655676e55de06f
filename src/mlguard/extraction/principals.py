"""What is kept of whom, and of how many?

Of those seen of late, everything; of many more, only their evidence; nobody else. Each is bounded,
and whoever was seen least recently leaves first.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mlguard.extraction.relations import RecentRows
from mlguard.extraction.repeats import Repeats
from mlguard.extraction.retention import Sums
from mlguard.extraction.verdict import Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

Packed: TypeAlias = tuple[bytes, int, int, Kind, int, tuple[str, ...]]
_LONG = 64  # characters of a principal's name


@dataclass(slots=True, eq=False)
class Evidence:
    """What remains of a principal, however long ago it was seen.

    Attributes:
        logs: Its evidence, of each detector and alternative.
        rows: That were observed.
        counted: Of these, the ones that carried weight.
        kind: What it was last said to be.
        until: The count of rows at which that may be taken back.
        because: The signals that said so.
    """

    logs: Floats
    rows: int = 0
    counted: int = 0
    kind: Kind = "none"
    until: int = 0
    because: tuple[str, ...] = ()

    def packed(self) -> Packed:
        """Return it in a small form."""
        logs = self.logs.astype(np.float32).tobytes()
        return logs, self.rows, self.counted, self.kind, self.until, self.because

    @classmethod
    def unpacked(cls, packed: Packed, shape: tuple[int, ...]) -> Evidence:
        """Read the small form."""
        logs, rows, counted, kind, until, because = packed
        read = np.frombuffer(logs, np.float32).astype(np.float64).reshape(shape)
        return cls(read, rows, counted, kind, until, tuple(because))


@dataclass(slots=True, eq=False)
class Account:
    """A principal that was seen of late.

    Attributes:
        evidence: Against it.
        recent: Its last rows.
        sums: Of its window.
        repeats: Which rows it sent.
    """

    evidence: Evidence
    recent: RecentRows
    sums: Sums
    repeats: Repeats

    @property
    def size(self) -> int:
        """Return how many bytes of data it is, about."""
        parts = (self.recent.rows, self.recent.labels, self.recent.changed)
        sums = (self.sums.first, self.sums.second, self.sums.mixed, self.evidence.logs)
        return sum(each.nbytes for each in (*parts, *sums)) + self.repeats.size


def key_of(principal: str) -> str:
    """Return the name by which a principal is kept: itself, or a hash of a long one."""
    name = principal if isinstance(principal, str) else str(principal)
    if len(name) <= _LONG:
        return name
    digest = hashlib.blake2b(name.encode("utf-8", "replace"), digest_size=24)
    return f"blake2b:{digest.hexdigest()}"


class AccountStore:
    """The bounded store.

    Args:
        most: AccountStore that are kept whole.
        most_packed: AccountStore whose evidence is kept.
        shape: Of the evidence.
    """

    def __init__(self, most: int, most_packed: int, shape: tuple[int, ...]) -> None:
        self._most, self._most_packed, self._shape = most, most_packed, shape
        self._whole: OrderedDict[str, Account] = OrderedDict()
        self._packed: OrderedDict[str, Packed] = OrderedDict()

    def __len__(self) -> int:
        return len(self._whole) + len(self._packed)

    def get(self, key: str) -> Account | None:
        """Return an account that is whole, as the one seen last."""
        found = self._whole.get(key)
        if found is not None:
            self._whole.move_to_end(key)
        return found

    def peek(self, key: str) -> Account | None:
        """Return an account that is whole, and leave its place."""
        return self._whole.get(key)

    def evidence(self, key: str) -> Evidence | None:
        """Return the evidence against a principal, whole or not; None where nothing is known."""
        found = self._whole.get(key)
        if found is not None:
            return found.evidence
        packed = self._packed.get(key)
        return None if packed is None else Evidence.unpacked(packed, self._shape)

    def put(self, key: str, account: Account) -> None:
        """Keep an account whole; the one seen least recently may have to leave."""
        self._packed.pop(key, None)
        self._whole[key] = account
        if len(self._whole) > self._most:
            left, old = self._whole.popitem(last=False)
            self.pack(left, old.evidence)

    def pack(self, key: str, evidence: Evidence) -> None:
        """Keep the evidence against a principal only."""
        self._whole.pop(key, None)
        self._packed.pop(key, None)
        self._packed[key] = evidence.packed()
        if len(self._packed) > self._most_packed:
            self._packed.popitem(last=False)

    def drop(self, key: str) -> bool:
        """Keep nothing of a principal; say whether there was something."""
        whole, packed = self._whole.pop(key, None), self._packed.pop(key, None)
        return whole is not None or packed is not None

    def items(self) -> Iterator[tuple[str, Evidence]]:
        """Return the evidence against all, those seen least recently first."""
        for key, packed in list(self._packed.items()):
            yield key, Evidence.unpacked(packed, self._shape)
        for key, account in list(self._whole.items()):
            yield key, account.evidence
