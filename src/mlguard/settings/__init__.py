"""What did the operator decide? One TOML file, overridable from the environment."""

from mlguard.settings.environment import PREFIX
from mlguard.settings.issuers import Auth, Issuer, KeyTable
from mlguard.settings.load import NAMED, load
from mlguard.settings.mistakes import SECRET_URLS, nearest
from mlguard.settings.quotas import DEFAULT, Limits, Plan, Quotas
from mlguard.settings.sharing import alike
from mlguard.settings.tables import (
    Drift,
    FeedbackSettings,
    MetricsSettings,
    Model,
    ServiceSettings,
    Settings,
    TracingSettings,
)
from mlguard.settings.values import (
    ANY_HOST,
    HMAC,
    NO_TYPE,
    PUBLIC_KEY,
    REST,
    RSA,
    Rate,
    media_type,
    secret_bytes,
    split_route,
)

__all__ = [
    "ANY_HOST",
    "DEFAULT",
    "HMAC",
    "NAMED",
    "NO_TYPE",
    "PREFIX",
    "PUBLIC_KEY",
    "REST",
    "RSA",
    "SECRET_URLS",
    "Auth",
    "Drift",
    "FeedbackSettings",
    "Issuer",
    "KeyTable",
    "Limits",
    "MetricsSettings",
    "Model",
    "Plan",
    "Quotas",
    "Rate",
    "ServiceSettings",
    "Settings",
    "TracingSettings",
    "alike",
    "load",
    "media_type",
    "nearest",
    "secret_bytes",
    "split_route",
]
