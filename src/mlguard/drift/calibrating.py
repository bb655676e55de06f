"""What does chance do to windows of this reference?

Where the reference has an order, contiguous blocks of it are compared with the rest, as rows of
real traffic depend on those beside them; elsewhere rows are drawn at random. The upper tail is
that of the next block: a prediction limit, of scores whose cube roots are nearly normal (Wilson
and Hilferty), which widens where blocks are few.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mlguard.drift.calibration import EFFECT_FLOOR, Calibration, ChanceLimits
from mlguard.drift.histograms import Bins
from mlguard.drift.profile import comparable, novel
from mlguard.drift.seasons import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from mlguard.drift.profile import Feature
    from mlguard.drift.seasons import Seasons

SIZES = (100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)
DEFAULT_WINDOW = 1000
MIN_BLOCKS = 10  # disjoint ones, for a size to be learned
_PROPOSED_BLOCKS = 20  # and for it to be proposed
_BLOCKS = 64  # compared for each size
_DRAWS = 400
_DRAWN_ROWS = (60, 200, 600)
_SHIFTS = (
    *(0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2),
    *(1.4, 1.7, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0, 8.0),
)
_TURNED = (0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
_MISSED = 0.03  # of the windows, of what is called detectable
_SPARE = 1.1  # by which it must be over the threshold
_TARGETS = 5  # categories into which rows turn: the most frequent
_ENOUGH = {True: 0.25, False: 0.1}  # a shift that is small enough, of numbers and of categories
_AGES = 1e10  # seconds

_Zone: TypeAlias = tuple[int, int, int, int]
"""A block's first row and its end, and those of what is left out of its reference."""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """One column of the reference's rows, in their order.

    Attributes:
        feature: Its profile.
        values: As `read` gives them, of all rows.
        sampled: Rows that scores are compared with, ascending.
        bins: Of the feature.
        codes: The bin of each row.
    """

    feature: Feature
    values: NDArray[np.float64]
    sampled: NDArray[np.intp]
    bins: Bins
    codes: NDArray[np.intp]

    @classmethod
    def of(cls, feature: Feature, values: NDArray[np.float64], sampled: NDArray[np.intp]) -> Column:
        """Put the values into bins, which the sampled ones choose."""
        scaled = comparable(feature, values)
        chosen = scaled[sampled]
        bins = Bins.of(feature, chosen[~np.isnan(chosen)])
        return cls(feature, values, sampled, bins, bins.codes(scaled))


@dataclass(frozen=True, slots=True, eq=False)
class Blocks:
    """Contiguous blocks of the rows, and what lies around each and is no part of its reference.

    Attributes:
        size: Rows of each.
        starts: The first row of each.
        disjoint: How many of them do not overlap.
    """

    size: int
    starts: NDArray[np.intp]
    disjoint: int

    @classmethod
    def of(cls, rows: int, size: int) -> Blocks:
        """Lay blocks evenly over the rows."""
        disjoint = rows // size
        number = min(_BLOCKS, 4 * disjoint)
        return cls(size, np.linspace(0, rows - size, number).astype(np.intp), disjoint)

    def zones(self) -> list[_Zone]:
        """Return of each block its first row and its end, and those of what is left out."""
        half = self.size // 2
        return [
            (start, start + self.size, max(start - half, 0), start + self.size + half)
            for start in self.starts.tolist()
        ]


def by_rows(
    columns: Sequence[Column], alpha: float, rng: np.random.Generator, tell: Callable[[], None]
) -> Calibration:
    """Learn from rows drawn at random, both the window's and the reference's."""
    tail = alpha / len(columns)
    sizes = SIZES[:7]
    limits = {}
    for column in columns:
        bins, shares, known = _drawn(column)
        coefficient = _coefficient(bins, shares, known, tail, rng)
        seen = [_drawn_shift(bins, shares, known, size, coefficient, rng) for size in sizes]
        limits[column.feature.name] = ChanceLimits(coefficient, detectable=tuple(seen))
        tell()
    window = _proposed(columns, limits, sizes, DEFAULT_WINDOW)
    return Calibration("rows", alpha, sizes, limits, window)


def by_blocks(
    columns: Sequence[Column],
    seasons: Seasons,
    parts: NDArray[np.intp],
    times: pd.DatetimeIndex | None,
    drawn: Calibration,
    tell: Callable[[], None],
    *,
    shifts: bool = True,
) -> Calibration:
    """Learn from contiguous blocks as well, of each size of which there are ten.

    Args:
        columns: What is compared.
        seasons: What divides the rows.
        parts: Into which.
        times: When they came, where that is known.
        drawn: What was learned from rows drawn at random.
        tell: Called after each column.
        shifts: Whether to learn what can be detected as well.
    """
    rows = len(parts)
    sizes = tuple(size for size in SIZES if size * MIN_BLOCKS <= rows) or (max(rows // 10, 1),)
    laid = [Blocks.of(rows, size) for size in sizes]
    tail = drawn.alpha / len(columns)
    limits = {}
    for column in columns:
        coefficient = drawn.limits[column.feature.name].coefficient
        own = _own_parts(column, seasons, parts)
        limits[column.feature.name] = _limits(column, own, laid, coefficient, tail, shifts=shifts)
        tell()
    allowed = [size for size in sizes if size * _PROPOSED_BLOCKS <= rows] or sizes[:1]
    window = _proposed(columns, limits, sizes, allowed[-1])
    return Calibration("blocks", drawn.alpha, sizes, limits, window, _density(times, laid))


def best_clock(
    columns: Sequence[Column],
    seasons: Seasons,
    clocks: Mapping[str, NDArray[np.intp]],
    tell: Callable[[], None],
) -> str:
    """Choose the clock whose parts are most like the blocks of their own hours.

    `clocks` holds the parts of each clock, of those that the rows can pay for. One that is finer
    must be worth it: scores a hundredth smaller on average.
    """
    rows = len(clocks[""])
    blocks = Blocks.of(rows, max(size for size in (50, *SIZES[:3]) if size * 40 <= max(rows, 2000)))
    scores = {
        clock: _mean_scores(columns, seasons, parts, blocks) for clock, parts in clocks.items()
    }
    tell()
    best, gain = "", 0.0
    for clock, found in scores.items():
        ratio = np.log(np.maximum(found, 1e-3) / np.maximum(scores[""], 1e-3))
        if clock and ratio.min() < math.log(0.9) and ratio.mean() < gain - 0.01:
            best, gain = clock, float(ratio.mean())
    return best


def _mean_scores(
    columns: Sequence[Column], seasons: Seasons, parts: NDArray[np.intp], blocks: Blocks
) -> NDArray[np.float64]:
    found = [
        _of_blocks(column, _own_parts(column, seasons, parts), blocks)[2].mean()
        for column in columns
    ]
    return np.array(found)


def _own_parts(column: Column, seasons: Seasons, parts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return the parts a feature is compared by: a segment by itself could not drift."""
    return np.zeros_like(parts) if column.feature.name == seasons.segment else parts


def _drawn(column: Column) -> tuple[Bins, NDArray[np.float64], int]:
    """Return the bins of a feature, the reference's shares in them, and of how many values."""
    bins = column.bins
    counts = np.bincount(column.codes[column.sampled], minlength=bins.size + 1)[: bins.size]
    return bins, _shares(counts), int(counts.sum())


def _coefficient(
    bins: Bins, shares: NDArray[np.float64], known: int, tail: float, rng: np.random.Generator
) -> float:
    """Return the null score's upper tail in units of `sqrt(1/n + 1/N)`, the worst of all sizes.

    At least 1: the scatter of a rare value that the reference happens not to have.
    """
    if not known:
        return 1.0
    worst, known = 1.0, min(known, 2000)
    for rows in _DRAWN_ROWS:
        ours = rng.multinomial(known, shares, _DRAWS) / known
        theirs = rng.multinomial(rows, shares, _DRAWS) / rows
        scores = bins.scores(ours, theirs) / math.sqrt(1 / rows + 1 / known)
        worst = max(worst, _upper(scores, tail, len(scores)))
    return worst


def _drawn_shift(
    bins: Bins,
    shares: NDArray[np.float64],
    known: int,
    size: int,
    coefficient: float,
    rng: np.random.Generator,
) -> float:
    if not known:
        return math.inf
    ours = rng.multinomial(known, shares, _BLOCKS) / known
    theirs = rng.multinomial(size, shares, _BLOCKS) / size
    threshold = max(EFFECT_FLOOR, coefficient * math.sqrt(1 / size + 1 / known))
    return _smallest_shift(bins, ours, theirs, threshold)


def _limits(
    column: Column,
    parts: NDArray[np.intp],
    laid: Sequence[Blocks],
    coefficient: float,
    tail: float,
    *,
    shifts: bool,
) -> ChanceLimits:
    scores, missing, strange, detectable = [], [], [], []
    absent = np.isnan(column.values)
    oddities = _Oddities(column.feature, column.values)
    for blocks in laid:
        bins, ours, null, theirs = _of_blocks(column, parts, blocks)
        scores.append(max(_upper(null, tail, blocks.disjoint), float(null.max())))
        gone = np.zeros(1)
        if absent.any():
            gone = _share_growth(lambda zone: absent[zone[0] : zone[1]], absent, parts, blocks)
        odd = _share_growth(oddities.of_zone, oddities.usually, parts, blocks)
        missing.append(_upper_growth(gone, tail / 2, blocks.disjoint))
        strange.append(_upper_growth(odd, tail / 2, blocks.disjoint))
        known = coefficient**2 / max(len(column.sampled), 1)
        by_chance = coefficient**2 / blocks.size
        threshold = max(EFFECT_FLOOR, math.sqrt(max(scores[-1] ** 2, by_chance) + known))
        detectable.append(_smallest_shift(bins, ours, theirs, threshold) if shifts else math.inf)
    return ChanceLimits(coefficient, *map(tuple, (scores, missing, strange, detectable)))


def _of_blocks(
    column: Column, parts: NDArray[np.intp], blocks: Blocks
) -> tuple[Bins, NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return bins, what each block is compared with, its score, and its histogram.

    What it is compared with is the sample without the block and its surroundings, its parts
    weighted as the block has them.
    """
    bins, codes = column.bins, column.codes
    width = bins.size + 1
    number = int(parts.max(initial=0)) + 1
    cells = np.maximum(parts, 0) * width + codes
    sampled_cells = cells[column.sampled]
    whole = np.bincount(sampled_cells, minlength=number * width)
    ours, theirs = np.zeros((2, len(blocks.starts), bins.size))
    for index, (start, end, first, last) in enumerate(blocks.zones()):
        from_, to = np.searchsorted(column.sampled, (first, last))
        left_out = np.bincount(sampled_cells[from_:to], minlength=number * width)
        rest = (whole - left_out).reshape(number, width)[:, : bins.size]
        ours[index] = _weighted(rest, parts[start:end])
        theirs[index] = _shares(np.bincount(codes[start:end], minlength=width)[: bins.size])
    null = bins.scores(ours, theirs)
    is_told = (theirs.sum(axis=1) > 0) & (ours.sum(axis=1) > 0)
    if not is_told.any():
        return bins, ours[:1], np.zeros(1), theirs[:1]
    return bins, ours[is_told], null[is_told], theirs[is_told]


def _weighted(counts: NDArray[np.intp], parts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Mix the parts' histograms as often as rows are of each; unknown parts are of all."""
    each = counts.sum(axis=1)
    weights = np.bincount(parts[parts != UNKNOWN], minlength=len(counts)).astype(float)
    weights[each == 0] = 0.0
    known = weights.sum()
    there = np.flatnonzero(weights)
    mixed = (counts[there] * (weights[there] / each[there])[:, None]).sum(axis=0)
    everything = _shares(counts.sum(axis=0))
    whole: NDArray[np.float64] = (mixed + (len(parts) - known) * everything) / len(parts)
    return whole


def _shares(counts: NDArray[np.intp]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = counts / max(int(counts.sum()), 1)
    return found


class _Oddities:
    """Which values would be out of range, or unseen, were their block not in the reference.

    Attributes:
        usually: Values that lie beyond the range, or that no other row has.
    """

    def __init__(self, feature: Feature, values: NDArray[np.float64]) -> None:
        self.usually = novel(feature, values)
        self._values = values
        self._of_zone: Callable[[_Zone], NDArray[np.bool_]] = self._usually
        if feature.kind == "numeric":
            self._find_ends(feature)
        elif not feature.is_cut:
            self._find_rows(feature)

    def of_zone(self, zone: _Zone) -> NDArray[np.bool_]:
        """Return it of the rows of a block."""
        return self._of_zone(zone)

    def _usually(self, zone: _Zone) -> NDArray[np.bool_]:
        return self.usually[zone[0] : zone[1]]

    def _find_ends(self, feature: Feature) -> None:
        is_inner = (self._values >= feature.low) & (self._values <= feature.high)
        lows = np.where(is_inner, self._values, np.inf)
        highs = np.where(is_inner, self._values, -np.inf)
        low_before, high_before = np.minimum.accumulate(lows), np.maximum.accumulate(highs)
        low_after = np.minimum.accumulate(lows[::-1])[::-1]
        high_after = np.maximum.accumulate(highs[::-1])[::-1]

        def of_zone(zone: _Zone) -> NDArray[np.bool_]:
            start, end, first, last = zone
            low = min(
                low_before[first - 1] if first else np.inf,
                low_after[last] if last < len(lows) else np.inf,
            )
            high = max(
                high_before[first - 1] if first else -np.inf,
                high_after[last] if last < len(lows) else -np.inf,
            )
            block = self._values[start:end]
            return (block < low) | (block > high)

        self._of_zone = of_zone

    def _find_rows(self, feature: Feature) -> None:
        codes = np.where(np.isnan(self._values), feature.size, self._values).astype(np.intp)
        rows = np.arange(len(codes))
        first, last = np.full((2, feature.size + 1), -1)
        last[codes] = rows
        first[codes[::-1]] = rows[::-1]
        first, last = first[codes], last[codes]
        is_known = codes < feature.size
        self.usually = (first == last) & is_known

        def of_zone(zone: _Zone) -> NDArray[np.bool_]:
            inside = slice(zone[0], zone[1])
            return (first[inside] >= zone[2]) & (last[inside] < zone[3]) & is_known[inside]

        self._of_zone = of_zone


def _share_growth(
    of_zone: Callable[[_Zone], NDArray[np.bool_]],
    usually: NDArray[np.bool_],
    parts: NDArray[np.intp],
    blocks: Blocks,
) -> NDArray[np.float64]:
    """Return by how much the share of some rows is larger in each block than elsewhere."""
    cells = np.maximum(parts, 0) * 2 + usually
    number = int(parts.max(initial=0)) + 1
    whole = np.bincount(cells, minlength=2 * number)
    found = np.zeros(len(blocks.starts))
    for index, zone in enumerate(blocks.zones()):
        start, end, first, last = zone
        rest = whole - np.bincount(cells[first:last], minlength=2 * number)
        expected = _weighted(rest.reshape(number, 2), parts[start:end])[1]
        found[index] = of_zone(zone).mean() - expected
    return found


def _upper(scores: NDArray[np.float64], tail: float, blocks: int) -> float:
    """Return what the next score exceeds with the chance `tail`."""
    roots = np.cbrt(scores)
    return float(
        (roots.mean() + _quantile(tail, blocks) * roots.std(ddof=min(1, len(roots) - 1))) ** 3
    )


def _upper_growth(growth: NDArray[np.float64], tail: float, blocks: int) -> float:
    """Return by how much the next share exceeds what is expected, with the chance `tail`."""
    least = float(growth.min())
    return max(_upper(growth - least, tail, blocks) + least, float(growth.max()))


def _quantile(tail: float, blocks: int) -> float:
    from scipy.special import stdtrit  # Student's t, without the second that scipy.stats takes

    number = max(blocks, 3)
    return -float(stdtrit(number - 1, tail)) * math.sqrt(1 + 1 / number)


def _smallest_shift(
    bins: Bins, ours: NDArray[np.float64], theirs: NDArray[np.float64], threshold: float
) -> float:
    """Return the smallest shift of the windows that nearly all of them show."""

    def excess(changed: NDArray[np.float64]) -> float:
        return float(np.quantile(bins.scores(ours, changed), _MISSED)) - _SPARE * threshold

    if bins.is_continuous:
        if not bins.deviation:
            return 0.0
        up = _first(_SHIFTS, lambda by: excess(bins.shifted(theirs, by)))
        down = _first(_SHIFTS, lambda by: excess(bins.shifted(theirs, -by)))
        return max(up, down)
    typical = theirs.mean(axis=0)
    targets = np.flatnonzero((typical > 0) & (typical <= 0.5))[:_TARGETS].tolist()
    return max(
        (_first(_TURNED, lambda by: excess(_turned(theirs, one, by))) for one in targets),  # noqa: B023
        default=math.inf,
    )


def _turned(shares: NDArray[np.float64], target: int, part: float) -> NDArray[np.float64]:
    turned = shares * (1 - part)
    turned[:, target] += part
    return turned


def _first(steps: Sequence[float], seen: Callable[[float], float]) -> float:
    """Return from which step on a shift is seen, infinite where none is.

    Args:
        steps: Ascending.
        seen: How much more than enough is seen of a shift, which grows with it.
    """
    found = bisect_left(steps, 0.0, key=seen)
    if found == len(steps):
        return math.inf
    before = steps[found - 1] if found else 0.0
    less, more = seen(before), seen(steps[found])
    part = less / (less - more) if less < 0 < more else 0.0
    return before + part * (steps[found] - before) if less < 0 else before


def _proposed(
    columns: Sequence[Column],
    limits: Mapping[str, ChanceLimits],
    sizes: Sequence[int],
    largest: int,
) -> int:
    """Return the smallest window in which each feature shows nearly what it ever can."""
    allowed = [size for size in sizes if size <= largest]
    for index, size in enumerate(allowed):
        if all(
            limits[column.feature.name].detectable[index]
            <= max(
                _ENOUGH[column.feature.is_continuous],
                1.25 * min(limits[column.feature.name].detectable[: len(allowed)]),
            )
            for column in columns
        ):
            return max(size, SIZES[0])
    return max(allowed[-1], SIZES[0])


def _density(times: pd.DatetimeIndex | None, laid: Sequence[Blocks]) -> float:
    """Return how many rows a second come at the busiest; 0 where that is not known."""
    if times is None:
        return 0.0
    seconds = times.asi8 / {"s": 1, "ms": 1e3, "us": 1e6, "ns": 1e9}[times.unit]
    blocks = laid[min(3, len(laid) - 1)]
    spans = seconds[blocks.starts + blocks.size - 1] - seconds[blocks.starts]
    spans = spans[(spans > 0) & (spans < _AGES)]  # where a time is missing there is no span
    return float(np.quantile(blocks.size / spans, 0.9)) if len(spans) else 0.0
