"""What does a model say of a row, and what may the truth of it be?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mlguard.drift.values import to_category, to_number

Kind: TypeAlias = Literal["classification", "regression"]

Said: TypeAlias = list[Any]
"""What a model said of one row, ready for JSON: its class and then its scores, or its number.

The scores of two classes are one, that of the last class; none stands where none is known.
"""

TWO = ("0", "1")
_DIGITS = 6  # of a score: more are only longer
NUMBERS = ("mae", "rmse")
SHARES = ("accuracy", "precision", "recall", "auc")


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is there for.

    Attributes:
        kind: Whether it names a class, or a number.
        classes: The classes, in the order of their scores; of two, the last is the positive one.
        threshold: The score from which a row is positive, where only scores are answered.
    """

    kind: Kind
    classes: tuple[str, ...] = TWO
    threshold: float = 0.5

    @property
    def metrics(self) -> tuple[str, ...]:
        """Name what its performance is measured in."""
        return NUMBERS if self.kind == "regression" else SHARES

    @property
    def is_binary(self) -> bool:
        """Whether it tells two classes apart."""
        return self.kind == "classification" and len(self.classes) == 2

    def said(self, prediction: Any, scores: Any = None) -> Said | None:
        """Read what a model answered of one row; None where it makes no sense.

        Args:
            prediction: A class or a number; anything else where the scores say the class.
            scores: The positive class's probability, or one of each class: in their order, or by
                their names. None where there are none.
        """
        if self.kind == "regression":
            return _number(prediction)
        shares = self._shares(scores)
        if shares is None:
            return None
        named = to_category(_single(prediction))
        if named not in self.classes:
            named = self._likeliest(shares)
        return None if named is None else [named, *[round(share, _DIGITS) for share in shares]]

    def truth(self, value: Any) -> str | float | None:
        """Read the truth of one row; None where it cannot be one."""
        if self.kind == "regression":
            number = _number(value)
            return None if number is None else float(number[0])
        named = to_category(value)
        return named if named in self.classes else None

    def _shares(self, scores: Any) -> list[float] | None:
        """Read probabilities: none of an answer without, None of what are none."""
        if scores is None:
            return []
        if hasattr(scores, "tolist"):
            scores = scores.tolist()
        if isinstance(scores, Mapping):
            by_class = {to_category(name): score for name, score in scores.items()}
            scores = [by_class.get(name) for name in self.classes]
        each = list(scores) if isinstance(scores, Sequence) else [scores]
        shares = [to_number(score) for score in each]
        if not all(0 <= share <= 1 for share in shares):
            return None
        if self.is_binary:
            return shares[-1:] if len(shares) in (1, 2) else None
        return shares if len(shares) == len(self.classes) else None

    def _likeliest(self, shares: Sequence[float]) -> str | None:
        if not shares:
            return None
        if self.is_binary:
            return self.classes[shares[0] >= self.threshold]
        return self.classes[max(range(len(shares)), key=shares.__getitem__)]


def _single(value: Any) -> Any:
    """Take a list of one value as that value: an output of one column."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _number(value: Any) -> Said | None:
    number = to_number(_single(value))
    return [number] if math.isfinite(number) else None
