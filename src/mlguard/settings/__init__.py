"""What did the operator decide? One TOML file, overridable from the environment."""

from mlguard.settings.environment import PREFIX
from mlguard.settings.load import NAMED, load
from mlguard.settings.mistakes import nearest
from mlguard.settings.tables import (
    HMAC,
    PUBLIC_KEY,
    RSA,
    Auth,
    Drift,
    Issuer,
    Metrics,
    Model,
    Quotas,
    Rate,
    Service,
    Settings,
    Tracing,
    is_loopback,
    secret_bytes,
)

__all__ = [
    "HMAC",
    "NAMED",
    "PREFIX",
    "PUBLIC_KEY",
    "RSA",
    "Auth",
    "Drift",
    "Issuer",
    "Metrics",
    "Model",
    "Quotas",
    "Rate",
    "Service",
    "Settings",
    "Tracing",
    "is_loopback",
    "load",
    "nearest",
    "secret_bytes",
]
