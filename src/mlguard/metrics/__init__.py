"""How long, how many, how bad?"""

from mlguard.metrics.cells import Numbers
from mlguard.metrics.families import Family, content_type, expose, families, merge
from mlguard.metrics.table import METRICS, Metric
from mlguard.metrics.worker import METHODS, OTHER, Metrics

__all__ = [
    "METHODS",
    "METRICS",
    "OTHER",
    "Family",
    "Metric",
    "Metrics",
    "Numbers",
    "content_type",
    "expose",
    "families",
    "merge",
]
