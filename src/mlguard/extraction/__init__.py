"""Are they copying the model?"""

try:
    import numpy as _numpy  # noqa: F401 - all of this room needs it
except ImportError as error:  # pragma: no cover - proven in a process of its own
    from mlguard.errors import MissingExtra

    message = "extraction needs numpy: pip install 'mlguard-core[extraction]'"
    raise MissingExtra(message) from error

from mlguard.extraction.monitor import ExtractionMonitor
from mlguard.extraction.verdict import ExtractionVerdict, Kind, Signal
from mlguard.extraction.verdict import ExtractionVerdict as Verdict

__all__ = ["ExtractionMonitor", "ExtractionVerdict", "Kind", "Signal", "Verdict"]
