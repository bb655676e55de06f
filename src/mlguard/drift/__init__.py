"""Do the inputs still look alike?"""

from mlguard.drift.check import Calibration, FeatureVerdict, Verdict, check
from mlguard.drift.reference import Reference

__all__ = ["Calibration", "FeatureVerdict", "Reference", "Verdict", "check"]
