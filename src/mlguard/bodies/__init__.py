"""Where are the rows in a request, and the predictions in an answer?"""

from mlguard.bodies.described import NO_JSON, There
from mlguard.bodies.documents import is_json, parse
from mlguard.bodies.layout import Answered, BodyReading, Layout
from mlguard.bodies.rows import Rows
from mlguard.bodies.texts import texts_at

__all__ = [
    "NO_JSON",
    "Answered",
    "BodyReading",
    "Layout",
    "Rows",
    "There",
    "is_json",
    "parse",
    "predicted",
    "texts_at",
]
