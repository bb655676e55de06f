"""How much may they still ask? Decides."""

from mlguard.quotas.callers import Caller
from mlguard.quotas.cost import Cost, RouteLimit
from mlguard.quotas.quota import Admission, AdmissionOfAll, Quota
from mlguard.quotas.reservation import Reservation, headers_of
from mlguard.quotas.rules import Rules, Terms
from mlguard.quotas.shapes import headers
from mlguard.quotas.throttle import Throttle

__all__ = [
    "Admission",
    "AdmissionOfAll",
    "Caller",
    "Cost",
    "Quota",
    "Reservation",
    "RouteLimit",
    "Rules",
    "Terms",
    "Throttle",
    "headers",
    "headers_of",
]
