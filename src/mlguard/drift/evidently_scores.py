"""Which score does evidently give?"""

from __future__ import annotations

import math
import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

from mlguard.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from mlguard.drift.verdict import Method

LEAST_DEVIATION = 0.001  # by which it divides a Wasserstein distance


def score(method: Method, ours: Any, theirs: NDArray[np.float64]) -> float:
    """Return evidently's score of a window's values against the reference's, a `pandas.Series`.

    Raises:
        MissingExtra: evidently is not installed.
    """
    import numpy as np
    import pandas as pd

    with np.errstate(all="ignore"):
        found = tests()[method](ours, pd.Series(theirs))
    return 0.0 if math.isnan(found) else found


@cache
def tests() -> dict[Method, Callable[[Any, Any], float]]:
    """Load evidently's tests: about ten seconds, once a process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own dependencies, at import
        try:
            from evidently.legacy.calculations.stattests import get_stattest
            from evidently.legacy.core import ColumnType
        except ImportError as error:
            message = f"drift needs evidently ({error}): pip install 'mlguard-core[drift]'"
            raise MissingExtra(message) from error

    def test(name: Method, kind: Any) -> Callable[[Any, Any], float]:
        def score(ours: Any, theirs: Any) -> float:
            found = get_stattest(ours, theirs, kind, name)
            return float(found(ours, theirs, kind, None).drift_score)

        return score

    return {
        "wasserstein": test("wasserstein", ColumnType.Numerical),
        "jensenshannon": test("jensenshannon", ColumnType.Categorical),
    }
