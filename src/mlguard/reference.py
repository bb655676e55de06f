"""What did training look like?"""

from mlguard.drift.reference import Feature, Reference

__all__ = ["Feature", "Reference"]
