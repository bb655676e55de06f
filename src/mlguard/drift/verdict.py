"""What does one window say?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from mlguard.drift import notebook
from mlguard.drift.profile import Kind

if TYPE_CHECKING:
    import pandas as pd

Method: TypeAlias = Literal["wasserstein", "jensenshannon"]


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
        out_of_range_ratio: Share of the values that lie beyond the reference's range, by more than
            a twentieth of it.
        smallest_detectable: The smallest shift that a window of this size shows: in standard
            deviations of a number, otherwise the share of the rows that turn into one category.
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
    smallest_detectable: float
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

    def to_frame(self) -> pd.DataFrame:
        """Return a table, one row a feature by its name."""
        import pandas as pd

        columns = FeatureVerdict.__dataclass_fields__
        rows = [asdict(feature) for feature in self.features]
        table = pd.DataFrame(rows, columns=list(columns)).set_index("name")
        table["reasons"] = [", ".join(feature.reasons) for feature in self.features]
        return table

    def _repr_html_(self) -> str:
        """Return a table for a notebook; names are escaped, as anybody may have chosen them."""
        ordered = sorted(self.features, key=lambda f: (not f.detected, -f.score / f.threshold))
        count = len(self.drifted)
        said = f"{count} of {len(self.features)} features drifted" if count else "no drift"
        found = notebook.table(_TITLES, map(_cells, ordered))
        return f"<p><b>{said}</b> in {self.rows:,} rows</p>{found}"


_TITLES = ("feature", "drifted by", "score", "threshold", "missing", "unseen or out of range")


def _cells(feature: FeatureVerdict) -> tuple[str, ...]:
    strange = feature.unseen_category_ratio + feature.out_of_range_ratio
    return (
        feature.name,
        ", ".join(feature.reasons),
        f"{feature.score:.3f}",
        f"{feature.threshold:.3f}",
        f"{feature.missing_ratio:.1%}",
        f"{strange:.1%}",
    )
