"""mlguard for Flask."""

from mlguard.errors import InvalidSettings, MLGuardError, Refused
from mlguard.guard import Refusal
from mlguard.messages import Identity, Inference, Principal
from mlguard_flask.guard import MLGuard

__all__ = [
    "Identity",
    "Inference",
    "InvalidSettings",
    "MLGuard",
    "MLGuardError",
    "Principal",
    "Refusal",
    "Refused",
]
