"""What did the operator decide? One TOML file, overridable from the environment."""

from mlguard.settings.load import load
from mlguard.settings.mistakes import nearest
from mlguard.settings.tables import (
    Auth,
    Drift,
    Metrics,
    Model,
    Quotas,
    Rate,
    Service,
    Settings,
    Tracing,
    secret_bytes,
)

__all__ = [
    "Auth",
    "Drift",
    "Metrics",
    "Model",
    "Quotas",
    "Rate",
    "Service",
    "Settings",
    "Tracing",
    "load",
    "nearest",
    "secret_bytes",
]
