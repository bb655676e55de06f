"""What does a value say: which number, which category, or nothing?"""

from __future__ import annotations

import math
import numbers
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from mlguard.messages import MAX_CATEGORY_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from mlguard.drift.profile import Feature

_PLAIN_NUMBERS = {float, int, bool}


def to_number(value: object) -> float:
    """Read one numeric value; NaN where it is missing or junk (strings, lists, null).

    A string is junk even if it spells a number: a model that was trained on numbers fails on it.
    Integers beyond the range of a float are infinite.
    """
    if isinstance(value, float):
        return float(value)
    plain = _plain(value)
    if not _is_number(plain):
        return math.nan
    try:
        return float(plain)
    except OverflowError:
        return math.inf if plain > 0 else -math.inf
    except ValueError:
        return math.nan


def to_category(value: object) -> str | None:
    """Read one category in its text form; None where it is missing or junk.

    `1`, `1.0`, `True` and `"1"` are one category, as JSON, NumPy and CSV files turn each into
    the other. Text is taken as it stands, and cut at 256 characters.
    """
    plain = _plain(value)
    if isinstance(plain, str):
        return _text(plain)
    if isinstance(plain, numbers.Integral):
        whole = int(plain)
        return hex(whole) if abs(whole) > 1 << 128 else str(whole)
    if not _is_number(plain):
        return None
    number = to_number(plain)
    if math.isnan(number):
        return None
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)


def read(feature: Feature, values: Iterable[object]) -> NDArray[np.float64]:
    """Read a column as floats: numbers, or the category's rank in the reference; NaN is missing.

    A category that the reference does not have ranks after the last one.
    """
    if feature.kind == "numeric":
        return read_numbers(values)
    return _read_ranks(feature, values)


def read_numbers(values: Iterable[object]) -> NDArray[np.float64]:
    """Read a column of numbers; NaN is missing."""
    import numpy as np

    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        return values
    values = list(values)
    if _PLAIN_NUMBERS.issuperset(map(type, values)):
        try:
            return np.array(values, dtype=np.float64)
        except OverflowError:
            pass
    return np.array([to_number(value) for value in values], dtype=np.float64)


def _read_ranks(feature: Feature, values: Iterable[object]) -> NDArray[np.float64]:
    import numpy as np

    known: dict[str | None, float] = {None: math.nan}
    known.update((category, rank) for rank, (category, _) in enumerate(feature.categories))
    unseen = len(feature.categories)
    found = [
        known[value]
        if isinstance(value, str) and value in known
        else known.get(to_category(value), unseen)
        for value in values
    ]
    return np.array(found, dtype=np.float64)


def _text(value: str) -> str:
    """Cut the text, and make it encodable: JSON may carry half of a surrogate pair."""
    value = value[:MAX_CATEGORY_LENGTH]
    return str(value) if value.isascii() else value.encode("utf-8", "replace").decode()


def _is_number(value: object) -> bool:
    return isinstance(value, numbers.Real | Decimal)


def _plain(value: Any) -> Any:
    """Unwrap a NumPy scalar; leave everything else."""
    is_scalar = type(value).__module__ == "numpy" and getattr(value, "ndim", 1) == 0
    return value.item() if is_scalar else value
