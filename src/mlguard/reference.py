"""What did training look like?"""

from mlguard.drift.profile import Feature
from mlguard.drift.reference import Reference

__all__ = ["Feature", "Reference"]
