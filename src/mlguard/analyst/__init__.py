"""What do all rows together say? The one process beside the workers, where drift is checked."""

from mlguard.analyst.analyst import Analyst
from mlguard.analyst.config import AnalystConfig, DriftModel, ScoredModel

__all__ = ["Analyst", "AnalystConfig", "DriftModel", "ScoredModel"]
