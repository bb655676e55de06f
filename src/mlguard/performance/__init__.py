"""How well does the model do, with labels that come late, and without any?"""

from mlguard.performance.measure import measure
from mlguard.performance.task import Said, Task

__all__ = ["Said", "Task", "measure"]
