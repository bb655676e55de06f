"""How much may they still ask? Decides."""

from mlguard.quotas.callers import Caller
from mlguard.quotas.charged import Charged, headers_of
from mlguard.quotas.demand import Demand, RouteLimit
from mlguard.quotas.quota import Admission, Quota
from mlguard.quotas.rules import Rules, Terms
from mlguard.quotas.shapes import headers
from mlguard.quotas.throttle import Throttle

__all__ = [
    "Admission",
    "Caller",
    "Charged",
    "Demand",
    "Quota",
    "RouteLimit",
    "Rules",
    "Terms",
    "Throttle",
    "headers",
    "headers_of",
]
