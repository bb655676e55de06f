"""Do the inputs still look alike?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlguard.drift.profile import comparable, novel
from mlguard.drift.shares import Share, grew
from mlguard.drift.values import read
from mlguard.drift.verdict import FeatureVerdict, Method, Verdict
from mlguard.drift.windows import Window, WindowColumns, split

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from mlguard.drift.calibration import Calibration
    from mlguard.drift.prepared import Prepared
    from mlguard.drift.profile import Feature
    from mlguard.drift.reference import Reference

MIN_ROWS = 30


def check(
    reference: Reference, window: Window, *, times: Iterable[object] | None = None
) -> Verdict:
    """Compare a window of rows with the reference.

    `window` holds rows, each with one value per input in the reference's order (or a mapping by
    name), or is a DataFrame. Junk never fails a check: a value of the wrong type, a row of the
    wrong length or a vanished column is missing, a column that the reference lacks is ignored.
    Predictions and scores that the reference has are compared where the window has them too.

    Where the hour matters each row is compared with the reference's rows of its own hour: `times`
    says when the rows came, or the frame's column of times. Without them rows are compared with
    all, and thresholds allow for that.

    Scores are evidently's, of values clipped to half the reference's range beyond its ends, with
    unseen and rare categories (below 10 rows) in one bucket; a numeric feature with at most 5
    distinct values is compared as categories. They drift where they reach both 0.1 and what the
    reference's calibration says that chance does; the shares of missing, unseen and out-of-range
    values drift by Fisher's exact test, if they grew by at least 0.5 percentage points and by more
    than they do in windows of the reference.

    Raises:
        ValueError: The window has fewer than 30 rows, which would alarm or stay silent by chance;
            a DataFrame names a column twice.
        MissingExtra: evidently is not installed.
    """
    columns = split(reference, window, times)
    if columns.rows < MIN_ROWS:
        raise ValueError(
            f"a window of {columns.rows} rows says nothing: it must have at least {MIN_ROWS}"
        )
    comparison = _Comparison.of(reference, columns)
    features = tuple(
        _judge(comparison, feature, columns.values[feature.name])
        for feature in reference.profile
        if feature.name in columns.values
    )
    return Verdict(any(feature.detected for feature in features), columns.rows, features)


@dataclass(frozen=True, slots=True, eq=False)
class _Comparison:
    """What a window is compared with.

    Attributes:
        reference: All of it.
        calibration: What chance does to such a window.
        parts: Of the window's rows; None where the reference has no parts.
        alike: Rows that the reference had in the window's time.
    """

    reference: Reference
    calibration: Calibration
    parts: NDArray[np.intp] | None
    alike: float
    _weights: dict[bool, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def of(cls, reference: Reference, columns: WindowColumns) -> _Comparison:
        seasons = reference.seasons
        is_timed = bool(seasons.clock) and columns.times is not None
        calibration = reference.calibration if is_timed else reference.anytime
        alike = math.inf
        if columns.times is not None and calibration.density:
            span = (columns.times.max() - columns.times.min()).total_seconds()
            alike = math.inf if math.isnan(span) else span * calibration.density
        if seasons.parts == 1:
            return cls(reference, calibration, None, alike)
        parts = seasons.of_rows(columns.rows, columns.times, columns.segments)
        return cls(reference, calibration, parts, alike)

    def weights(self, feature: Feature) -> NDArray[np.float64] | None:
        """Weigh the sampled rows; None where all are alike. A segment could not drift in itself."""
        if self.parts is None or feature.name == self.reference.seasons.segment:
            return None
        if feature.is_cut not in self._weights:
            from mlguard.drift.prepared import weights

            of_sample = self.reference.parts[self.reference.sampled(feature)]
            self._weights[feature.is_cut] = weights(of_sample, self.parts)
        return self._weights[feature.is_cut]


def _judge(comparison: _Comparison, feature: Feature, column: Iterable[object]) -> FeatureVerdict:
    import numpy as np

    from mlguard.drift.prepared import Prepared

    prepared = Prepared.of(comparison.reference, feature)
    weights = comparison.weights(feature)
    values = read(feature, column)
    rows, values = len(values), values[~np.isnan(values)]
    score, known = _score(prepared, feature, values, weights)
    calibration, alike = comparison.calibration, comparison.alike
    threshold = calibration.threshold(feature.name, len(values), known, alike=alike)
    missing = Share(rows - len(values), rows)
    strange = Share(int(novel(feature, values).sum()), len(values))
    is_numeric = feature.kind == "numeric"
    of_strange = "out of range" if is_numeric else "unseen categories"
    before = _shares_before(prepared, feature, weights)
    alpha = calibration.alpha / (2 * len(calibration.limits))
    found = {"distribution": score >= threshold}
    for reason, now in (("missing", missing), (of_strange, strange)):
        least = calibration.growth(feature.name, reason, rows, alike=alike)
        found[reason] = grew(now, before[reason == "missing"], least=least, alpha=alpha)
    reasons = tuple(reason for reason, is_found in found.items() if is_found)
    return FeatureVerdict(
        name=feature.name,
        kind=feature.kind,
        method="wasserstein" if feature.is_continuous else "jensenshannon",
        score=score,
        threshold=threshold,
        detected=bool(reasons),
        missing_ratio=missing.ratio,
        unseen_category_ratio=0.0 if is_numeric else strange.ratio,
        out_of_range_ratio=strange.ratio if is_numeric else 0.0,
        smallest_detectable=calibration.detectable(feature.name, rows),
        reasons=reasons,
    )


def _score(
    prepared: Prepared,
    feature: Feature,
    values: NDArray[np.float64],
    weights: NDArray[np.float64] | None,
) -> tuple[float, float]:
    """Return evidently's score, 0 of too few values, and of how many rows the reference is worth.

    Where rows weigh differently the distance is still in deviations of the whole reference: that
    of one hour may be nearly none.
    """
    from mlguard.drift import evidently_scores
    from mlguard.drift.prepared import deviation

    ours, known = prepared.whole, float(len(prepared.values))
    if weights is not None:
        ours, known = prepared.weighted(weights)
    method: Method = "wasserstein" if feature.is_continuous else "jensenshannon"
    if len(values) < MIN_ROWS or not len(prepared.values) or not prepared.scale:
        return 0.0, known
    theirs = comparable(feature, values) / prepared.scale
    score = evidently_scores.score(method, ours, theirs)
    if weights is not None and method == "wasserstein":
        score *= deviation(ours)
    return score, known


def _shares_before(
    prepared: Prepared, feature: Feature, weights: NDArray[np.float64] | None
) -> tuple[Share, Share]:
    """Return the reference's strange and missing shares, those of the rows that are like ours."""
    strange = Share(feature.novel, feature.counted)
    missing = Share(feature.missing, feature.missing + feature.present)
    if weights is None:
        return strange, missing
    total = float(weights.sum()) or 1.0
    worth = total**2 / (float((weights**2).sum()) or 1.0)
    odd = max(float(weights[prepared.is_strange].sum()) / total, strange.ratio)
    gone = float(weights[prepared.is_missing].sum()) / total
    return Share(odd * worth, worth), Share(gone * worth, worth)
