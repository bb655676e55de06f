"""Which label did the model give each row?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

UNKNOWN = -1
_LABELS = 1 << 40


def labels_of(answers: Any, rows: int) -> NDArray[np.int64]:
    """Return a number for each row's label; -1 where there is none, as in regression.

    An answer is a label, a probability of the second of two classes, or one of each class.
    """
    found = np.full(rows, UNKNOWN, np.int64)
    if answers is None:
        return found
    if hasattr(answers, "tolist"):
        answers = answers.tolist()
    if not isinstance(answers, list | tuple):
        return found
    for at, answer in enumerate(answers[:rows]):
        found[at] = _label(answer)
    return found


def _label(answer: Any) -> int:
    if isinstance(answer, list | tuple) and len(answer) == 1:
        answer = answer[0]
    if isinstance(answer, list | tuple):
        try:
            return max(range(len(answer)), key=answer.__getitem__, default=UNKNOWN)
        except TypeError:
            return UNKNOWN
    if isinstance(answer, float) and not answer.is_integer():
        return int(answer >= 0.5) if 0 <= answer <= 1 else UNKNOWN
    if isinstance(answer, float) and math.isfinite(answer):
        answer = int(answer)
    return hash(answer) % _LABELS if isinstance(answer, str | int) else UNKNOWN
