"""Did a share of the rows grow?"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """How many rows of some are missing, or strange."""

    hits: float
    rows: float

    @property
    def ratio(self) -> float:
        """Return the share, 0 of none."""
        return self.hits / self.rows if self.rows else 0.0


def grew(now: Share, before: Share, *, least: float, alpha: float) -> bool:
    """Test whether a share grew by more than chance: Fisher's exact test, one-sided.

    Args:
        now: Of the window.
        before: Of the reference.
        least: By how much it must grow at least.
        alpha: The chance that it seems to grow where it does not.
    """
    if not now.rows or not before.rows or now.ratio - before.ratio < least:
        return False
    from scipy.stats import hypergeom

    hits, rows = math.ceil(before.hits), math.ceil(before.rows)
    p = hypergeom.sf(now.hits - 1, now.rows + rows, now.hits + hits, now.rows)
    return bool(p < alpha)
