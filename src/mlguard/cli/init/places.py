"""Where do the rows and predictions of a model stand, as far as one example tells?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_ROWS = (
    "instances",
    "inputs",
    "rows",
    "records",
    "samples",
    "features",
    "data",
    "dataframe_records",
    "dataframe_split",
    "examples",
    "texts",
    "sentences",
    "documents",
    "images",
    "input",
    "x",
    "X",
)
_ANSWERS = (
    "predictions",
    "prediction",
    "outputs",
    "predicted",
    "y_pred",
    "results",
    "result",
    "output",
    "labels",
    "label",
    "classes",
    "predicted_class",
    "class_name",
    "class",
    "category",
    "species",
    "sentiment",
    "price",
    "value",
    "embeddings",
    "detections",
    "scores",
    "score",
    "probabilities",
    "probability",
    "choices",
    "text",
)
"""Names under which services are used to answer, the likeliest first."""
_WORDS = frozenset({"form", "query", "files", "csv"})
"""What `inputs` takes for something else than a key."""


class Place(NamedTuple):
    """Where rows stand.

    Attributes:
        keys: The keys that lead there; none for the whole body.
        shape: As in the settings.
        features: The names of a row's values, where the example has them.
        width: Values in a row of which nobody says the names; 0 where there are none.
        doubt: What the example does not tell, "" where it tells all.
        protocol: In place of the keys.
    """

    keys: tuple[str, ...] = ()
    shape: str = "auto"
    features: tuple[str, ...] = ()
    width: int = 0
    doubt: str = ""
    protocol: str = ""

    @property
    def inputs(self) -> str:
        """The place, as the settings write it."""
        return written(self.keys)

    def below(self, key: str) -> Place:
        """Return the same place as one of an object around it."""
        return self._replace(keys=(key, *self.keys))


def written(keys: Sequence[str]) -> str:
    """Write a place: keys joined by dots, else a JSON Pointer (RFC 6901)."""
    first = next(iter(keys), "")
    is_plain = all(key and "." not in key and key != "$" for key in keys)
    if is_plain and not first.startswith("/") and first not in _WORDS:
        return ".".join(keys)
    return "".join("/" + key.replace("~", "~0").replace("/", "~1") for key in keys)


def rows_in(value: Any) -> Place | None:
    """Find the rows in an example of a body; None where there is nothing that could be one."""
    if isinstance(value, list):
        return _in_list(value)
    if isinstance(value, Mapping):
        return _in_object(value)
    return None if value is None else Place(shape="row")


def _in_list(items: Sequence[Any]) -> Place | None:
    if not items:
        return None
    if all(isinstance(item, Mapping) for item in items):
        first = items[0]
        return Place(shape="rows", features=tuple(first) if _are_scalars(first.values()) else ())
    if all(isinstance(item, list) for item in items):
        if not all(map(_are_scalars, items)):
            return Place(shape="rows", doubt="whether its nested lists are one row or several")
        widths = {len(item) for item in items}
        return Place(shape="rows", width=widths.pop() if len(widths) == 1 else 0)
    if all(isinstance(item, str) for item in items):
        return Place(shape="rows")
    return Place(shape="row", width=len(items)) if _are_scalars(items) else Place(shape="rows")


def _in_object(said: Mapping[str, Any]) -> Place | None:
    if _are_tensors(said.get("inputs")):
        return Place(protocol="v2")
    if not said:
        return None
    columns = said.get("columns")
    if isinstance(columns, list) and isinstance(said.get("data"), list):
        return Place(("data",), "rows", tuple(map(str, columns)))
    if _are_scalars(said.values()):
        return _one_record(said)
    lists = {key: value for key, value in said.items() if isinstance(value, list)}
    lengths = {len(value) for value in lists.values()}
    if len(lists) == len(said) > 1 and len(lengths) == 1 and all(map(_are_scalars, lists.values())):
        return Place(shape="columns", features=tuple(said))
    holding = [key for key, value in said.items() if isinstance(value, list | Mapping) and value]
    likely = [key for key in _ROWS if key in holding] or (holding if len(holding) == 1 else [])
    if likely and not _are_turns(said[likely[0]]):
        found = rows_in(said[likely[0]])
        return found and found.below(likely[0])
    return Place(shape="row", doubt="which members of the body are the model's features")


def _one_record(said: Mapping[str, Any]) -> Place:
    """See one record in an object of scalars: all of them are features, or a text is."""
    if len(said) == 1:
        ((key, value),) = said.items()
        if isinstance(value, str):
            return Place((key,), "row")
    return Place(shape="row", features=tuple(said))


def _are_scalars(values: Any) -> bool:
    return not any(isinstance(value, list | Mapping) for value in values)


def _are_tensors(value: Any) -> bool:
    if not isinstance(value, list) or not value:
        return False
    return all(isinstance(v, Mapping) and {"shape", "datatype", "data"} <= {*v} for v in value)


def _are_turns(value: Any) -> bool:
    """Tell the turns of a conversation, which are one record."""
    return isinstance(value, list) and all(isinstance(v, Mapping) and "role" in v for v in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def answers_in(value: Any, rows: int = 0) -> tuple[str, ...] | None:
    """Find the predictions in an example of an answer: the keys that lead there.

    Args:
        value: The answer.
        rows: How many rows were asked, 0 where unknown.

    Returns:
        None where several members could be they.
    """
    if not isinstance(value, Mapping):
        return None if value is None else ()
    likely = [key for key in _ANSWERS if key in value]
    as_many = [k for k in likely if isinstance(value[k], list) and len(value[k]) == rows > 1]
    telling = [k for k, v in value.items() if _is_number(v)]  # of one beside texts
    likely = likely or (telling if len(telling) == 1 else [])
    chosen = next(iter(as_many or likely or value), "")
    if not (likely or len(value) == 1):
        within = [k for k, v in value.items() if isinstance(v, Mapping) and answers_in(v, rows)]
        return (within[0], *(answers_in(value[within[0]], rows) or ())) if within else None
    inner = value[chosen]
    deeper = answers_in(inner, rows) if isinstance(inner, Mapping) else ()
    return (chosen, *(deeper or ()))
