"""Where are the rows in a request, and the predictions in an answer?"""

from mlguard.bodies.described import NO_JSON, There
from mlguard.bodies.documents import is_json, parse
from mlguard.bodies.layout import Answered, BodyReading, Layout, PassingBody
from mlguard.bodies.rows import Rows
from mlguard.bodies.said import texts_at
from mlguard.bodies.sources import SourceLayout, SourceRequest

__all__ = [
    "NO_JSON",
    "Answered",
    "BodyReading",
    "Layout",
    "PassingBody",
    "Rows",
    "SourceLayout",
    "SourceRequest",
    "There",
    "is_json",
    "parse",
    "predicted",
    "texts_at",
]
