"""What did one feature look like in training?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mlguard.errors import InvalidReference

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

Kind: TypeAlias = Literal["numeric", "categorical"]
Role: TypeAlias = Literal["input", "prediction", "score"]

MAX_CATEGORIES = 100
MAX_LEVELS = 5
RARE = 10
MARGIN = 0.5  # of the reference's range, kept on either side when an outlier is clipped
BEYOND = 0.05  # of the reference's range: values that are closer to it are not out of it
TOLERANCE = 1e-7  # relative: a float32 in training is the same number as a float64 in JSON
NOISE = 1e-6  # of the range: what rounding adds to one of few levels, as 0.1 + 0.2 - 0.3 does
ZERO = 1e-9  # where a feature was always zero there is no range to measure noise by
_TAILS = (0.25, 0.1, 0.05, 0.02, 0.005)
_REACH = 3.0  # of the span between two quantiles: Tukey's fence of what lies far out
_FAR_OUT = 0.02  # of the rows at most
_SENTINELS = 2  # distinct values that may stand for something else than a measurement
_SENTINEL_SHARE = 0.2
_HUGE = 1e300  # a span of such values may be larger than the largest float


@dataclass(frozen=True, slots=True)
class Feature:
    """One column that is compared, as training had it. Counts are of all training rows.

    Attributes:
        name: The column's name.
        kind: "numeric" or "categorical".
        missing: Rows without a usable value.
        present: Rows with one; infinities are among them.
        counted: Rows that `novel` and `categories` count: all that are present; where more than 100
            categories were cut to the most frequent, only the half of the sample that had no say
            in which ones, as the winners of a count are overestimated by it.
        novel: Rows that would be out of range, or of an unseen category, if they were not part of
            the reference themselves (the leave-one-out count): what new rows of the same kind do.
        low: Smallest finite value that is not far out (beyond three times the span of the middle
            of the values); 0 for a categorical feature.
        high: Largest such value; 0 for a categorical feature.
        levels: The distinct values of the sample, ascending, where a numeric feature has at most
            5 of them; else empty.
        categories: Each category with its rows, the most frequent first, at most 100. Where they
            were cut, those of fewer than 10 rows are left out too.
        role: Whether it is one of the model's inputs, its prediction, or a score beside it.
    """

    name: str
    kind: Kind
    missing: int
    present: int
    counted: int
    novel: int
    low: float = 0.0
    high: float = 0.0
    levels: tuple[float, ...] = ()
    categories: tuple[tuple[str, int], ...] = ()
    role: Role = "input"

    @property
    def missing_ratio(self) -> float:
        """Return the share of rows without a usable value."""
        return self.missing / (self.missing + self.present)

    @property
    def shares(self) -> dict[str, float]:
        """Return each kept category's share of the rows that have a value."""
        return {category: rows / max(self.counted, 1) for category, rows in self.categories}

    @property
    def is_cut(self) -> bool:
        """Say whether categories were left out, and the sample's first half chose which."""
        return self.counted < self.present

    @property
    def is_continuous(self) -> bool:
        """Say whether it is compared as a number, and not as one of few levels or categories."""
        return self.kind == "numeric" and not self.levels

    @property
    def size(self) -> int:
        """Return how many categories or levels it has."""
        return len(self.levels if self.kind == "numeric" else self.categories)

    @classmethod
    def of_json(cls, item: Mapping[str, Any]) -> Feature:
        """Read what `dataclasses.asdict` made of one."""
        levels = tuple(float(level) for level in item["levels"])
        categories = tuple((str(category), int(rows)) for category, rows in item["categories"])
        return cls(**{**item, "levels": levels, "categories": categories})


def numeric(
    name: str, values: NDArray[np.float64], sampled: NDArray[np.float64], role: Role = "input"
) -> Feature:
    """Profile a column of numbers, NaN where one is missing."""
    import numpy as np

    present = values[~np.isnan(values)]
    if not len(present):
        raise InvalidReference(f"column {name!r} has no value in any row: fill it or drop it")
    finite = present[np.isfinite(present)]
    if not len(finite):
        raise InvalidReference(f"column {name!r} holds only infinite values: fix it or drop it")
    levels = np.unique(sampled[np.isfinite(sampled)])
    is_level = len(levels) <= MAX_LEVELS
    inner = finite if is_level else _within_fence(finite)
    low, high = float(inner.min()), float(inner.max())
    # Without itself, the only row at an end of the range would be out of range.
    ends = {end for end in (low, high) if np.count_nonzero(inner == end) == 1}
    return Feature(
        name=name,
        kind="numeric",
        missing=len(values) - len(present),
        present=len(present),
        counted=len(present),
        novel=len(present) - len(inner) + len(ends),
        low=low,
        high=high,
        levels=tuple(levels.tolist()) if is_level else (),
        role=role,
    )


def categorical(
    name: str, values: NDArray[Any], sampled: NDArray[Any], role: Role = "input"
) -> Feature:
    """Profile a column of categories in their text form, None where one is missing."""
    counts = _counts(values)
    present = counts.total()
    if not present:
        raise InvalidReference(f"column {name!r} has no usable value: fill it or drop it")
    kept = counts
    if len(counts) > MAX_CATEGORIES:
        counts = _counts(sampled[len(sampled) // 2 :])
        chosen = _ranked(kept - counts)[:MAX_CATEGORIES]
        kept = Counter({name: counts[name] for name, rows in chosen if rows >= RARE})
        novel = counts.total() - kept.total()
    else:
        novel = sum(rows for rows in counts.values() if rows == 1)
    return Feature(
        name=name,
        kind="categorical",
        missing=len(values) - present,
        present=present,
        counted=counts.total(),
        novel=novel,
        categories=tuple(_ranked(kept)),
        role=role,
    )


def sentinel(feature: Feature, values: NDArray[np.float64]) -> str | None:
    """Say so where one seldom value carries most of a feature's standard deviation.

    Such a value (-999, or one wild row) mostly stands for something else than a measurement.
    """
    import numpy as np

    finite = values[np.isfinite(values)]
    if not feature.is_continuous or len(finite) < RARE:
        return None
    finite = finite / (np.abs(finite).max() or 1.0)
    middle = np.median(finite)
    distinct, counts = np.unique(finite, return_counts=True)
    weights = counts * (distinct - middle) ** 2
    worst = int(weights.argmax())
    rest = finite[finite != distinct[worst]]
    if counts[worst] > _SENTINEL_SHARE * len(finite) or not len(rest):
        return None
    whole, other = float(finite.std()), float(rest.std())
    if not whole or other > 0.7 * whole:  # half of the variance
        return None
    value = values[np.isfinite(values)][finite == distinct[worst]][0]
    share = 100 * counts[worst] / len(finite)
    return (
        f"{feature.name}: the value {value:g} ({counts[worst]} rows, {share:.2g} %) carries most of"
        f" the standard deviation ({1 - other / whole:.0%}): if it means missing, make it missing"
    )


def novel(feature: Feature, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which values are out of the reference's range, or none of its categories."""
    if feature.kind == "categorical":
        return values >= len(feature.categories)
    slack = _slack(feature)
    if feature.is_continuous:
        slack = max(slack, 2 * BEYOND * (feature.high / 2 - feature.low / 2))
    return (values < feature.low - slack) | (values > feature.high + slack)


def ranks(feature: Feature, values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number values that are present by their category or level; all others come last."""
    import numpy as np

    if feature.kind == "categorical":
        return values.astype(np.intp)
    levels = np.array(feature.levels)
    nearest = np.searchsorted(levels[:-1] / 2 + levels[1:] / 2, values)
    noise = np.maximum(TOLERANCE * np.abs(levels[nearest]), _slack(feature))
    with np.errstate(all="ignore"):
        is_same = np.abs(values - levels[nearest]) <= noise
    return np.where(is_same, nearest, len(levels))


def comparable(feature: Feature, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn values that `read` gave into what a score is made of; NaN stays missing.

    Numbers are scaled to the reference's range and clipped a tenth beyond it; levels and
    categories are numbered, and those that are rare or unknown share the last number.
    """
    import numpy as np

    is_missing = np.isnan(values)
    if feature.kind == "categorical":
        return np.minimum(values, common(feature))
    if feature.levels:
        found = ranks(feature, np.where(is_missing, feature.low, values))
        return np.where(is_missing, np.nan, found)
    # In halves, as the range itself may be larger than the largest float.
    low, span = feature.low / 2, feature.high / 2 - feature.low / 2
    with np.errstate(all="ignore"):
        scaled: NDArray[np.float64] = np.clip((values / 2 - low) / span, -MARGIN, 1 + MARGIN)
    return scaled


def common(feature: Feature) -> int:
    """Count the categories that are compared each by itself: rare ones go with the unseen."""
    rare = 0 if feature.is_cut else min(RARE, feature.counted // 10)
    return sum(rows >= rare for _, rows in feature.categories)


def _slack(feature: Feature) -> float:
    """Return by how much rounding may move a value."""
    if feature.low == feature.high == 0:
        return ZERO
    least = TOLERANCE * max(abs(feature.low), abs(feature.high))
    if len(feature.levels) < 2:
        return least
    gaps = zip(feature.levels, feature.levels[1:], strict=False)
    # Between two levels at most: levels that are close must stay apart.
    return max(least, NOISE * min(high / 2 - low / 2 for low, high in gaps))


def _within_fence(finite: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values that are not far out: one wild value must not stretch the range.

    The fence is the tightest that leaves at most 2 % of the rows out, besides the two values that
    are most frequent there, which may stand for "missing".
    """
    import numpy as np

    scaled = finite / 16 if np.abs(finite).max() > _HUGE else finite
    quantiles = np.quantile(scaled, [*_TAILS, *(1 - tail for tail in _TAILS)])
    for low, high in zip(quantiles[: len(_TAILS)], quantiles[len(_TAILS) :], strict=True):
        reach = _REACH * (high - low)
        is_out = (scaled < low - reach) | (scaled > high + reach)
        if reach and _measured(scaled[is_out]) <= _FAR_OUT * len(finite):
            inner: NDArray[np.float64] = finite[~is_out]
            return inner
    return finite


def _measured(values: NDArray[np.float64]) -> int:
    """Count values, without the most frequent."""
    import numpy as np

    counts = np.sort(np.unique(values, return_counts=True)[1])
    return int(counts[:-_SENTINELS].sum())


def _counts(values: NDArray[Any]) -> Counter[str]:
    return Counter(value for value in values.tolist() if value is not None)


def _ranked(counts: Counter[str]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
