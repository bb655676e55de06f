"""How much may they still ask? Decides."""

from mlguard.quotas.charged import Charged
from mlguard.quotas.demand import Demand, RouteLimit
from mlguard.quotas.quota import Admission, Quota, headers
from mlguard.quotas.rules import Rules, Terms
from mlguard.quotas.throttle import Throttle

__all__ = [
    "Admission",
    "Charged",
    "Demand",
    "Quota",
    "RouteLimit",
    "Rules",
    "Terms",
    "Throttle",
    "headers",
]
