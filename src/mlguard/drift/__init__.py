"""Do the inputs still look alike?"""

from mlguard.drift.calibration import Calibration
from mlguard.drift.check import check
from mlguard.drift.reference import Reference
from mlguard.drift.verdict import FeatureVerdict, Verdict

__all__ = ["Calibration", "FeatureVerdict", "Reference", "Verdict", "check"]
