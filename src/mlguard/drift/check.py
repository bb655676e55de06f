"""Do the inputs still look alike?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mlguard.drift.reference import RARE, to_category, to_number
from mlguard.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from mlguard.drift.reference import Feature, Kind, Reference

Method: TypeAlias = Literal["wasserstein", "jensenshannon"]
Window: TypeAlias = "pd.DataFrame | Iterable[object]"

MIN_ROWS = 30
EFFECT_FLOOR = 0.1  # evidently's own threshold for both methods: smaller changes do not matter
SHARE_FLOOR = 0.005  # of the rows
SHARE_ALPHA = 0.01  # chance of a false alarm in all share tests of one window together
MARGIN = 0.1  # of the reference's range, kept on either side when an outlier is clipped
TOLERANCE = 1e-7  # relative: a float32 in training is the same number as a float64 in JSON
CALIBRATION_ROWS = (60, 200, 600)


@dataclass(frozen=True, slots=True)
class FeatureVerdict:
    """What one window says about one feature.

    Attributes:
        name: The feature's name.
        kind: "numeric" or "categorical".
        method: evidently's name of the test behind the score.
        score: "wasserstein": the distance in reference standard deviations; "jensenshannon": from
            0 to 0.83. 0 where fewer than 30 values are left to compare.
        threshold: The score from which the distribution counts as drifted.
        detected: Whether anything of the feature drifted.
        missing_ratio: Share of the rows without a usable value (null, NaN, text in a numeric
            feature, lists).
        unseen_category_ratio: Share of the values that are none of the reference's categories, of
            which it keeps the 100 most frequent.
        out_of_range_ratio: Share of the values outside the reference's smallest and largest.
        reasons: Why it is detected: "distribution", "missing", "unseen categories",
            "out of range".
    """

    name: str
    kind: Kind
    method: Method
    score: float
    threshold: float
    detected: bool
    missing_ratio: float
    unseen_category_ratio: float
    out_of_range_ratio: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one window says about the inputs.

    Attributes:
        detected: Whether any feature drifted; thresholds allow for the number of features.
        rows: Rows in the window.
        features: One verdict a feature, in the reference's order.
    """

    detected: bool
    rows: int
    features: tuple[FeatureVerdict, ...]

    @property
    def drifted(self) -> tuple[str, ...]:
        """Return the names of the features that drifted."""
        return tuple(feature.name for feature in self.features if feature.detected)


@dataclass(frozen=True, slots=True)
class Calibration:
    """How far scores scatter where nothing drifts, learned from the reference alone.

    The null score of `n` window rows against `N` reference rows, divided by `sqrt(1/n + 1/N)`,
    hardly depends on `n` and `N`: one coefficient a feature serves windows of every size.

    Attributes:
        alpha: Chance that the scores of a window without drift alarm, over all features together.
        coefficients: By feature, what multiplies `sqrt(1/n + 1/N)` to give the threshold.
    """

    alpha: float
    coefficients: Mapping[str, float]

    @classmethod
    def of(
        cls, reference: Reference, *, resamples: int = 120, alpha: float = 0.05, seed: int = 0
    ) -> Calibration:
        """Bootstrap both sides from the reference, `resamples` times for each feature.

        Takes some 50 ms a feature: do it once per reference. The tail at `alpha` divided by the
        number of features is read off a gamma distribution with the scores' mean and variance.
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha={alpha!r} must be between 0 and 1")
        if resamples < 10 * len(CALIBRATION_ROWS):
            raise ValueError(f"resamples={resamples!r} must be at least 30")
        import numpy as np

        tail = alpha / len(reference.profile)
        each = math.ceil(resamples / len(CALIBRATION_ROWS))
        coefficients: dict[str, float] = {}
        for index, feature in enumerate(reference.profile):
            values = _comparable(feature, read(feature, reference.comparable(feature)))
            rng = np.random.default_rng([seed, index])
            coefficients[feature.name] = _coefficient(feature, values, tail, each, rng)
        return cls(alpha, coefficients)

    def threshold(self, name: str, rows: int, reference_rows: int) -> float:
        """Return the score from which the feature counts as drifted, for these many values."""
        root = math.sqrt(1 / max(rows, 1) + 1 / max(reference_rows, 1))
        return max(EFFECT_FLOOR, self.coefficients[name] * root)


def check(
    reference: Reference,
    window: Window,
    *,
    calibration: Calibration | None = None,
    alpha: float = 0.05,
) -> Verdict:
    """Compare a window of rows with the reference.

    `window` holds rows, each with one value per feature in the reference's order (or a mapping by
    name), or is a DataFrame. Junk never fails a check: a value of the wrong type, a row of the
    wrong length or a vanished column is missing, a column that the reference lacks is ignored.

    Scores are evidently's, of values clipped to the reference's range plus a margin, with unseen
    and rare categories (below 10 rows) in one bucket; a numeric feature with at most 5 distinct
    values is compared as categories. They drift where they reach both 0.1 and what `calibration`
    says chance does; the shares of missing, unseen and out-of-range values drift by Fisher's
    exact test at 1 % over the window, if they grew by at least 0.5 percentage points.

    Without a `calibration` one is made at `alpha`, which takes longer than the check itself.

    Raises:
        ValueError: The window has fewer than 30 rows, which would alarm or stay silent by chance;
            a DataFrame names a column twice; the calibration is of another reference.
        MissingExtra: evidently is not installed.
    """
    columns, rows = split(reference.features, window)
    if rows < MIN_ROWS:
        raise ValueError(f"a window of {rows} rows says nothing: it must have at least {MIN_ROWS}")
    calibration = calibration or Calibration.of(reference, alpha=alpha)
    if set(calibration.coefficients) != set(reference.features):
        raise ValueError("calibration is of a reference with other features: Calibration.of(this)")
    share_alpha = SHARE_ALPHA / (2 * len(columns))
    features = tuple(
        _judge(feature, reference.comparable(feature), column, calibration, share_alpha)
        for feature, column in zip(reference.profile, columns, strict=True)
    )
    return Verdict(any(feature.detected for feature in features), rows, features)


def split(features: Sequence[str], window: Any) -> tuple[list[Sequence[object]], int]:
    """Turn a window into one sequence of values per feature, and count its rows."""
    if hasattr(window, "columns"):
        return _split_frame(features, window), len(window)
    rows = [_row(features, row) for row in window]
    return [[row[i] for row in rows] for i in range(len(features))], len(rows)


def read(feature: Feature, values: Iterable[object]) -> NDArray[np.float64]:
    """Read a column as floats: numbers, or the category's rank in the reference; NaN is missing.

    A category that the reference does not have ranks after the last one.
    """
    import numpy as np

    if feature.kind == "numeric":
        if isinstance(values, np.ndarray) and values.dtype == np.float64:
            return values
        return np.array([to_number(value) for value in values], dtype=np.float64)
    known: dict[str | None, float] = {None: math.nan}
    known.update((category, rank) for rank, (category, _) in enumerate(feature.categories))
    unseen = len(feature.categories)
    found = [
        known[value]
        if isinstance(value, str) and value in known
        else known.get(to_category(value), unseen)
        for value in values
    ]
    return np.array(found, dtype=np.float64)


def novel(feature: Feature, values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say which values are out of the reference's range, or none of its categories."""
    if feature.kind == "categorical":
        return values >= len(feature.categories)
    slack = TOLERANCE * max(abs(feature.low), abs(feature.high))
    return (values < feature.low - slack) | (values > feature.high + slack)


def ranks(feature: Feature, values: NDArray[np.float64]) -> NDArray[np.intp]:
    """Number values that are present by their category or level; all others come last."""
    import numpy as np

    if feature.kind == "categorical":
        return values.astype(np.intp)
    levels = np.array(feature.levels)
    nearest = np.searchsorted(levels[:-1] / 2 + levels[1:] / 2, values)
    is_same = np.isclose(values, levels[nearest], rtol=TOLERANCE, atol=0)
    return np.where(is_same, nearest, len(levels))


def _judge(
    feature: Feature,
    sampled: NDArray[Any],
    column: Iterable[object],
    calibration: Calibration,
    share_alpha: float,
) -> FeatureVerdict:
    import numpy as np

    values = read(feature, column)
    rows, values = len(values), values[~np.isnan(values)]
    missing, strange = rows - len(values), int(novel(feature, values).sum())
    ours, theirs = _comparable(feature, read(feature, sampled)), _comparable(feature, values)
    method = _method(feature)
    is_enough = len(theirs) >= MIN_ROWS and len(ours) > 0
    score = _score(method, ours, theirs) if is_enough else 0.0
    threshold = calibration.threshold(feature.name, len(theirs), len(ours))
    is_numeric = feature.kind == "numeric"
    known_rows = feature.missing + feature.present
    found = {
        "distribution": score >= threshold,
        "missing": _grew(missing, rows, feature.missing, known_rows, share_alpha),
        "out of range" if is_numeric else "unseen categories": _grew(
            strange, len(values), feature.novel, feature.counted, share_alpha
        ),
    }
    reasons = tuple(reason for reason, is_found in found.items() if is_found)
    strange_ratio = strange / len(values) if len(values) else 0.0
    return FeatureVerdict(
        name=feature.name,
        kind=feature.kind,
        method=method,
        score=score,
        threshold=threshold,
        detected=bool(reasons),
        missing_ratio=missing / rows,
        unseen_category_ratio=0.0 if is_numeric else strange_ratio,
        out_of_range_ratio=strange_ratio if is_numeric else 0.0,
        reasons=reasons,
    )


def _grew(hits: int, rows: int, known_hits: int, known_rows: int, alpha: float) -> bool:
    """Test whether a share grew: Fisher's exact test, one-sided, above the effect floor."""
    if not rows or not known_rows or hits / rows - known_hits / known_rows < SHARE_FLOOR:
        return False
    from scipy.stats import hypergeom

    p = hypergeom.sf(hits - 1, rows + known_rows, hits + known_hits, rows)
    return bool(p < alpha)


def _method(feature: Feature) -> Method:
    is_continuous = feature.kind == "numeric" and not feature.levels
    return "wasserstein" if is_continuous else "jensenshannon"


def _comparable(feature: Feature, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn a column into what the score is made of: present values, with outliers tamed."""
    import numpy as np

    values = values[~np.isnan(values)]
    if feature.kind == "categorical":
        return np.minimum(values, _common(feature))
    if feature.levels:
        return ranks(feature, values).astype(np.float64)
    # In halves, as the range itself may be larger than the largest float.
    low, span = feature.low / 2, feature.high / 2 - feature.low / 2
    with np.errstate(all="ignore"):
        scaled: NDArray[np.float64] = np.clip((values / 2 - low) / span, -MARGIN, 1 + MARGIN)
    return scaled


def _common(feature: Feature) -> int:
    """Count the categories that are compared each by itself: rare ones go with the unseen."""
    rare = 0 if feature.is_cut else min(RARE, feature.counted // 10)
    return sum(rows >= rare for _, rows in feature.categories)


def _score(method: Method, ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    import numpy as np
    import pandas as pd

    if method == "wasserstein":
        # evidently divides by the standard deviation, but by no less than 0.001: make it 1.
        scale = float(ours.std())
        if not scale:
            return 0.0
        ours, theirs = ours / scale, theirs / scale
    with np.errstate(all="ignore"):
        score = _tests()[method](pd.Series(ours), pd.Series(theirs))
    return 0.0 if math.isnan(score) else score


def _coefficient(
    feature: Feature,
    values: NDArray[np.float64],
    tail: float,
    resamples: int,
    rng: np.random.Generator,
) -> float:
    """Return the null score's upper tail in units of `sqrt(1/n + 1/N)`, the worst of all sizes.

    At least 1: the scatter of a rare value that the reference happens not to have.
    """
    if not len(values):
        return 1.0
    method, known = _method(feature), min(len(values), 2000)
    worst = 1.0
    for rows in CALIBRATION_ROWS:
        root = math.sqrt(1 / rows + 1 / known)
        scores = [
            _null_score(method, values, rng.choice(values, known), rng.choice(values, rows)) / root
            for _ in range(resamples)
        ]
        worst = max(worst, _gamma_tail(scores, tail))
    return worst


def _null_score(
    method: Method,
    values: NDArray[np.float64],
    ours: NDArray[np.float64],
    theirs: NDArray[np.float64],
) -> float:
    if method == "jensenshannon":
        return _score(method, ours, theirs)
    # In units of the whole sample's deviation, as in a check: a resample of a sparse feature may
    # be nearly constant.
    return _score(method, ours, theirs) * float(ours.std() / values.std())


def _gamma_tail(scores: Sequence[float], tail: float) -> float:
    import numpy as np
    from scipy.stats import gamma

    mean, variance = float(np.mean(scores)), float(np.var(scores, ddof=1))
    if not variance:
        return mean
    return float(gamma.isf(tail, mean * mean / variance, scale=variance / mean))


def _split_frame(features: Sequence[str], frame: Any) -> list[Sequence[object]]:
    names = [str(name) for name in frame.columns]
    for name in features:
        if names.count(name) > 1:
            raise ValueError(f"the window has {names.count(name)} columns {name!r}: keep one")
    vanished = [None] * len(frame)
    return [
        frame.iloc[:, names.index(name)].tolist() if name in names else vanished
        for name in features
    ]


def _row(features: Sequence[str], row: Any) -> Sequence[object]:
    """Return the row's values; all are missing where it is no row of this model."""
    if isinstance(row, Mapping):
        return [row.get(name) for name in features]
    if hasattr(row, "tolist"):
        row = row.tolist()
    is_row = isinstance(row, list | tuple) and len(row) == len(features)
    return row if is_row else [None] * len(features)


@cache
def _tests() -> dict[Method, Callable[[pd.Series, pd.Series], float]]:
    """Load evidently's tests: about ten seconds, once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, at import
        try:
            from evidently.legacy.calculations.stattests import get_stattest
            from evidently.legacy.core import ColumnType
        except ImportError as error:
            message = f"drift needs evidently ({error}): pip install 'mlguard-core[drift]'"
            raise MissingExtra(message) from error

    def test(name: Method, kind: Any) -> Callable[[pd.Series, pd.Series], float]:
        def score(ours: pd.Series, theirs: pd.Series) -> float:
            found = get_stattest(ours, theirs, kind, name)
            return float(found(ours, theirs, kind, None).drift_score)

        return score

    return {
        "wasserstein": test("wasserstein", ColumnType.Numerical),
        "jensenshannon": test("jensenshannon", ColumnType.Categorical),
    }
