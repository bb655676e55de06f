"""What names a call, so that its truths find it later?

A UUID of version 7 (RFC 9562 section 5.7): it begins with the time, so that what is old can be told
by its name, and ends with 74 random bits, so that nobody labels a call whose answer he did not see.
"""

from __future__ import annotations

import os
import re

HEADER = "MLGuard-Call-ID"
"""On every answer of a model whose calls are kept; RFC 6648 wants no X- before it."""

_ID = re.compile("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


def new_call_id(now: float) -> str:
    """Name a call of this moment, in seconds since 1970."""
    first, drawn = f"{int(now * 1000):012x}", os.urandom(10).hex()
    variant = "89ab"[int(drawn[3], 16) & 3]
    return f"{first[:8]}-{first[8:]}-7{drawn[:3]}-{variant}{drawn[4:7]}-{drawn[7:19]}"


def time_of(call_id: str) -> float | None:
    """Tell when a call was, in seconds since 1970; None where this names none."""
    if not _ID.fullmatch(call_id):
        return None
    return int(call_id[:8] + call_id[9:13], 16) / 1000


def first_id(at: float) -> str:
    """Return what stands before the names of all calls of this moment and later."""
    first = f"{int(max(at, 0) * 1000):012x}"
    return f"{first[:8]}-{first[8:]}"
