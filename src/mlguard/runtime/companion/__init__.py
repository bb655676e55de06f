"""One process beside the workers of a service on a host."""

from mlguard.runtime.companion.client import Companion
from mlguard.runtime.companion.config import CompanionConfig, DriftModel

__all__ = ["Companion", "CompanionConfig", "DriftModel"]
