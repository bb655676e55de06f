"""How far may a window be from the reference by chance?"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

Source: TypeAlias = Literal["rows", "blocks"]

EFFECT_FLOOR = 0.1  # evidently's own threshold for both methods: smaller changes do not matter
SHARE_FLOOR = 0.005  # of the rows


@dataclass(frozen=True, slots=True)
class ChanceLimits:
    """What chance does to one feature, in windows of the calibration's sizes.

    Attributes:
        coefficient: What multiplies `sqrt(1/n + 1/N)` to give the largest score of `n` rows drawn
            at random against `N` of the reference.
        scores: The largest score of rows in their order, by size; none where there is no order.
        missing: By how much the share of missing values grows in such windows.
        strange: By how much the share of unseen categories or of values out of range does.
        detectable: The smallest shift that such windows show: standard deviations of a number,
            otherwise the share of the rows that turn into one category; infinite where none is.
    """

    coefficient: float
    scores: tuple[float, ...] = ()
    missing: tuple[float, ...] = ()
    strange: tuple[float, ...] = ()
    detectable: tuple[float, ...] = ()

    def dependence(self, sizes: Sequence[int]) -> list[float]:
        """Return what is left of the scores in order when what rows do at random is taken away."""
        pairs = zip(sizes, self.scores, strict=False)
        return [math.sqrt(max(s * s - self.coefficient**2 / n, 0.0)) for n, s in pairs]


@dataclass(frozen=True, slots=True)
class Calibration:
    """What chance does to each feature, learned from the reference alone.

    Attributes:
        source: Whether it was learned from contiguous blocks of the reference, whose rows depend
            on each other, or from rows drawn at random.
        alpha: Chance that the scores of a window without drift alarm, over all features together;
            the shares have as much.
        sizes: Rows of the windows for which it was learned, ascending.
        limits: By feature.
        window: The rows of a window that is proposed.
        density: Rows a second at the reference's busiest; 0 where that is not known.
    """

    source: Source
    alpha: float
    sizes: tuple[int, ...]
    limits: Mapping[str, ChanceLimits]
    window: int
    density: float = 0.0

    def threshold(self, name: str, rows: float, known: float, *, alike: float = math.inf) -> float:
        """Return the score from which a feature counts as drifted.

        Args:
            name: The feature.
            rows: Values in the window.
            known: Values of the reference that they are compared with.
            alike: Rows that the reference had in the time of the window: a window that is filled
                faster than that depends on itself like a smaller one.
        """
        limits = self.limits[name]
        by_chance = limits.coefficient**2 * (1 / max(rows, 1) + 1 / max(known, 1))
        dependence = _at(self.sizes, limits.dependence(self.sizes), min(rows, alike))
        return max(EFFECT_FLOOR, math.sqrt(by_chance + dependence**2))

    def growth(self, name: str, reason: str, rows: float, *, alike: float = math.inf) -> float:
        """Return by how much a share may grow: that of "missing", or of other strange values."""
        limits = self.limits[name]
        shares = limits.missing if reason == "missing" else limits.strange
        return max(SHARE_FLOOR, min(_at(self.sizes, shares, min(rows, alike)), 1.0))

    def detectable(self, name: str, rows: int) -> float:
        """Return the smallest shift of a feature that a window of so many rows shows."""
        return _at(self.sizes, self.limits[name].detectable, rows)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON can write it, which knows no infinity."""
        return _finite(asdict(self))  # type: ignore[no-any-return]

    @classmethod
    def of_json(cls, item: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` gave."""
        limits = {str(name): _limits(found) for name, found in item["limits"].items()}
        sizes = tuple(int(size) for size in item["sizes"])
        return cls(**{**item, "sizes": sizes, "limits": limits})


def _at(sizes: Sequence[int], values: Sequence[float], rows: float) -> float:
    """Return the value at a size, between two by the logarithm; beyond the ends it stays."""
    if not values:
        return 0.0
    if rows >= sizes[-1]:
        return values[-1]
    if rows <= sizes[0]:
        return values[0]
    right = bisect_left(sizes, rows)
    part = math.log(rows / sizes[right - 1]) / math.log(sizes[right] / sizes[right - 1])
    one, other = values[right - 1], values[right]
    if math.isinf(one) or math.isinf(other):
        return one if part < 1 else other
    return one + part * (other - one)


def _limits(item: Mapping[str, Any]) -> ChanceLimits:
    coefficient = float(item["coefficient"])
    lists = (item[name] for name in ("scores", "missing", "strange", "detectable"))
    return ChanceLimits(coefficient, *(tuple(map(_number, values)) for values in lists))


def _number(value: float | None) -> float:
    return math.inf if value is None else float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isinf(value) else value
