"""How long, how many, how bad?"""

from mlguard.metrics.cells import Counters, Gauges, Histograms
from mlguard.metrics.families import Family, content_type, expose, families, merge
from mlguard.metrics.worker import METHODS, Metrics

__all__ = [
    "METHODS",
    "Counters",
    "Family",
    "Gauges",
    "Histograms",
    "Metrics",
    "content_type",
    "expose",
    "families",
    "merge",
]
