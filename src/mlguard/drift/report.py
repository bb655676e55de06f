"""What does a drift check look like to a person?"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlguard.drift.profile import novel, ranks
from mlguard.drift.values import read, to_category
from mlguard.drift.windows import split
from mlguard.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from jinja2 import Template
    from numpy.typing import NDArray

    from mlguard.drift.history import Past
    from mlguard.drift.profile import Feature
    from mlguard.drift.reference import Reference
    from mlguard.drift.verdict import FeatureVerdict, Verdict
    from mlguard.drift.windows import Window

BINS = 28
BARS = 7
NEWCOMERS = 3
NAME_LENGTH = 60
COURSE = 3  # windows at least


@dataclass(frozen=True, slots=True)
class HistogramPlot:
    """A plot of a numeric feature: the ends of its axis, its width, and both outlines as paths."""

    low: float
    high: float
    width: int
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A category's shares, of the reference and of the window, and how wide they are drawn."""

    label: str
    ours: float
    theirs: float
    our_width: float
    their_width: float


@dataclass(frozen=True, slots=True)
class Course:
    """How a score went over the last windows, against its threshold.

    Attributes:
        width: Of the drawing.
        path: The score; its threshold is at 50.
        drifted: Where it drifted: by distribution or by its shares.
        windows: How many there were.
    """

    width: int
    path: str
    drifted: tuple[int, ...]
    windows: int


@dataclass(frozen=True, slots=True)
class Card:
    """What the page shows of one feature: a histogram or bars, or neither where none can be drawn.

    Attributes:
        feature: The feature in training.
        verdict: The feature in the window.
        strange_before: The share in training that is out of range or unseen.
        histogram: The plot of a continuous feature.
        bars: The plot of categories.
        newcomers: The most frequent unseen categories, with their shares of the values.
        course: How its score went; None where there were too few windows.
    """

    feature: Feature
    verdict: FeatureVerdict
    strange_before: float
    histogram: HistogramPlot | None = None
    bars: tuple[Bar, ...] = ()
    newcomers: tuple[tuple[str, float], ...] = ()
    course: Course | None = None


def render(
    verdict: Verdict,
    reference: Reference,
    window: Window,
    *,
    model: str,
    version: str,
    when: datetime,
    history: Sequence[Past] = (),
) -> str:
    """Return one self-contained HTML page, about 3 kB a feature, drifted features first.

    `window` holds the rows that `check` judged, in any form that `check` takes. The page has no
    scripts and loads nothing; every name and value is escaped, as clients choose categories. Of
    the windows before, which `history` holds, it shows how each feature's score went.
    """
    import numpy as np

    values = split(reference, window).values
    features = {feature.name: feature for feature in reference.profile}
    with np.errstate(all="ignore"):  # floats at the end of their range
        cards = [
            replace(
                _card(reference, features[judged.name], judged, values[judged.name]),
                course=_course(history, judged.name),
            )
            for judged in verdict.features
        ]
    cards.sort(key=lambda card: (not card.verdict.detected, -_excess(card.verdict)))
    return _template().render(
        title=f"Drift of {model} {version}".strip(),
        when=when.isoformat(sep=" ", timespec="seconds"),
        verdict=verdict,
        reference=reference,
        cards=cards,
        since=datetime.fromtimestamp(history[0].when, UTC) if history else when,
    )


@cache
def _template() -> Template:
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        message = "a drift report needs jinja2: pip install 'mlguard-core[drift]'"
        raise MissingExtra(message) from error
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
    )
    pages.filters.update(percent=_percent, short=_short)
    return pages.get_template("report.html")


def _card(
    reference: Reference, feature: Feature, verdict: FeatureVerdict, column: Sequence[object]
) -> Card:
    ours, theirs = read(feature, reference.comparable(feature)), read(feature, column)
    newcomers = _newcomers(feature, column, theirs) if feature.kind == "categorical" else ()
    ours, theirs = _present(ours), _present(theirs)
    strange = feature.novel / max(feature.counted, 1)
    if feature.is_continuous:
        return Card(feature, verdict, strange, histogram=_histogram(feature, ours, theirs))
    bars = _bars(feature, ours, theirs)
    return Card(feature, verdict, strange, bars=bars, newcomers=newcomers)


def _course(history: Sequence[Past], name: str) -> Course | None:
    """Draw the scores of a feature, 10 a window; what is beyond twice the threshold is cut."""
    found = [past.features[name] for past in history if name in past.features]
    if len(found) < COURSE:
        return None
    heights = [100 - 50 * min(max(score, 0.0), 2.0) for score, _ in found]
    points = "L".join(f"{10 * n} {height:.0f}" for n, height in enumerate(heights))
    drifted = tuple(10 * n for n, (_, detected) in enumerate(found) if detected)
    return Course(10 * (len(found) - 1), f"M{points}", drifted, len(found))


def _newcomers(
    feature: Feature, column: Sequence[object], values: NDArray[np.float64]
) -> tuple[tuple[str, float], ...]:
    """Return the most frequent unseen categories, with their shares of the values."""
    unseen = novel(feature, values).tolist()
    pairs = zip(column, unseen, strict=True)
    counts = Counter(to_category(value) or "" for value, is_unseen in pairs if is_unseen)
    total = max(len(_present(values)), 1)
    return tuple((name, rows / total) for name, rows in counts.most_common(NEWCOMERS))


def _present(values: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    return values[~np.isnan(values)]


def _excess(verdict: FeatureVerdict) -> float:
    return verdict.score / verdict.threshold


def _histogram(
    feature: Feature, ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> HistogramPlot | None:
    """Draw a numeric feature; None where its range is too wide or too narrow."""
    import numpy as np

    low, high = _ends(feature, _finite(ours), _finite(theirs))
    if not low < high < low + np.finfo(np.float64).max:
        return None
    edges = _edges(_finite(ours), low, high)
    counts = [np.histogram(v.clip(edges[0], edges[-1]), edges)[0] for v in (ours, theirs)]
    shares = [count / max(count.sum(), 1) for count in counts]
    top = max(float(share.max()) for share in shares)
    outlines = (_steps((share / top).tolist()) for share in shares)
    return HistogramPlot(low, high, 10 * len(shares[0]), *outlines)


def _ends(
    feature: Feature, ours: NDArray[np.float64], theirs: NDArray[np.float64]
) -> tuple[float, float]:
    """Return what to draw: the middle 99 % of both samples, but at most thrice the reference's.

    What lies beyond is drawn in the outer bins.
    """
    import numpy as np

    if not len(ours):
        return feature.low, feature.high
    low, high = np.quantile(ours, [0.005, 0.995])
    span = high / 2 - low / 2
    if len(theirs):
        other_low, other_high = np.quantile(theirs, [0.005, 0.995])
        low = max(min(low, other_low), low - 2 * span)
        high = min(max(high, other_high), high + 2 * span)
    return float(low), float(high)


def _edges(ours: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    """Cut the range into bins; for whole numbers each holds equally many of them."""
    import numpy as np

    is_whole = bool((ours == np.floor(ours)).all()) and high - low < 1e9
    if not is_whole:
        return np.linspace(low, high, BINS + 1)
    width = np.ceil((high - low + 1) / BINS)
    return np.arange(np.floor(low) - 0.5, np.ceil(high) + width, width)


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values[abs(values) < float("inf")]


def _steps(heights: Sequence[float]) -> str:
    return "".join(f"V{100 - 100 * height:.0f}h10" for height in heights)


def _bars(
    feature: Feature, our_values: NDArray[np.float64], their_values: NDArray[np.float64]
) -> tuple[Bar, ...]:
    labels = _labels(feature)
    ours, theirs = (_rank_shares(feature, values) for values in (our_values, their_values))
    largest = sorted(range(len(labels)), key=lambda rank: -max(ours[rank], theirs[rank]))
    rows = [(labels[rank], ours[rank], theirs[rank]) for rank in sorted(largest[:BARS])]
    if rest := largest[BARS:]:
        more = f"{len(rest)} more"
        rows.append((more, sum(ours[rank] for rank in rest), sum(theirs[rank] for rank in rest)))
    if ours[-1] or theirs[-1]:
        rows.append(("(other)", ours[-1], theirs[-1]))
    full = max(max(shares) for _, *shares in rows) / 100
    return tuple(Bar(label, one, other, one / full, other / full) for label, one, other in rows)


def _labels(feature: Feature) -> list[str]:
    if feature.kind == "categorical":
        return [category for category, _ in feature.categories]
    return [f"{level:.6g}" for level in feature.levels]


def _rank_shares(feature: Feature, values: NDArray[np.float64]) -> list[float]:
    """Return each category's share of the values, and last that of all others."""
    import numpy as np

    found = ranks(feature, values)
    size = len(_labels(feature)) + 1
    shares: list[float] = (np.bincount(found, minlength=size) / max(len(values), 1)).tolist()
    return shares


def _short(text: str) -> str:
    return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"


def _percent(share: float) -> str:
    """Write a share so that a small one never looks like none."""
    if 0 < share < 0.001:
        return "<0.1 %"
    return f"{100 * share:.1f} %".replace(".0 %", " %")
