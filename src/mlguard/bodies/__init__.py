"""Where are the rows in a request, and the predictions in an answer?"""

from mlguard.bodies.documents import is_json, parse
from mlguard.bodies.layout import Answered, Layout, Reading
from mlguard.bodies.tables import Rows

__all__ = ["Answered", "Layout", "Reading", "Rows", "is_json", "parse"]
