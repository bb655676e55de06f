"""How well does the model do, with labels that come late, and without any?"""

from mlguard.performance.labels import MOST_ROWS, MOST_VALUES, CallStore, KeptCall
from mlguard.performance.measure import measure
from mlguard.performance.task import Said, Task

__all__ = ["MOST_ROWS", "MOST_VALUES", "CallStore", "KeptCall", "Said", "Task", "measure"]
