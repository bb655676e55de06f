"""What do handlers give `guard.inference`? The same flowers, in every kind that is taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, Field, RootModel

from tests.apps.iris import FEATURES

Flowers = Sequence[Sequence[float]]


class Flower(BaseModel):
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


class Aliased(BaseModel):
    sl: float = Field(alias="sepal_length")
    sw: float = Field(alias="sepal_width")
    pl: float = Field(alias="petal_length")
    pw: float = Field(alias="petal_width")


class Flowering(RootModel[list[Flower]]):
    pass


@dataclass
class Plain:
    sepal_length: float
    sepal_width: float
    petal_length: float
    petal_width: float


@dataclass(frozen=True, slots=True)
class Slotted:
    petal_width: float
    petal_length: float
    sepal_width: float
    sepal_length: float


def frame(flowers: Flowers) -> pd.DataFrame:
    return pd.DataFrame(flowers, columns=list(FEATURES))


def named(flowers: Flowers) -> list[dict[str, float]]:
    return [dict(zip(FEATURES, flower, strict=True)) for flower in flowers]


SEVERAL: dict[str, Callable[[Flowers], Any]] = {
    "lists": list,
    "tuples": lambda flowers: tuple(map(tuple, flowers)),
    "dicts": named,
    "array": np.array,
    "frame": frame,
    "frame in another order": lambda flowers: frame(flowers)[list(reversed(FEATURES))],
    "frame of other names": lambda flowers: pd.DataFrame(flowers),
    "dict of columns": lambda flowers: frame(flowers).to_dict("list"),
    "dict of arrays": lambda flowers: {name: np.array(c) for name, c in frame(flowers).items()},
    "dict of series": lambda flowers: dict(frame(flowers).set_index(np.arange(7, 9)).items()),
    "models": lambda flowers: [Flower(**flower) for flower in named(flowers)],
    "models with aliases": lambda flowers: [Aliased(**flower) for flower in named(flowers)],
    "a root model": lambda flowers: Flowering([Flower(**flower) for flower in named(flowers)]),
    "dataclasses": lambda flowers: [Plain(**flower) for flower in named(flowers)],
    "slotted dataclasses": lambda flowers: [Slotted(**flower) for flower in named(flowers)],
    "series": lambda flowers: [row for _, row in frame(flowers).iterrows()],
    "a series of lists": lambda flowers: pd.Series(list(flowers), index=[7, 7]),
    "values of a dict": lambda flowers: dict(enumerate(flowers)).values(),
}
"""Two flowers, as two rows."""

ONE: dict[str, Callable[[Flowers], Any]] = {
    "a dict": lambda flowers: named(flowers)[0],
    "a list": lambda flowers: flowers[0],
    "a 1-d array": lambda flowers: np.array(flowers[0]),
    "a series": lambda flowers: frame(flowers).iloc[0],
    "a series of other names": lambda flowers: pd.Series(flowers[0]),
    "a model": lambda flowers: Flower(**named(flowers)[0]),
    "model_dump": lambda flowers: Flower(**named(flowers)[0]).model_dump(),
    "a dataclass": lambda flowers: Plain(**named(flowers)[0]),
}
"""The first flower, as one row."""

UNREADABLE: dict[str, Callable[[Flowers], Any]] = {
    "bytes": lambda _: b"\x89PNG",
    "objects": lambda _: [object()],
    "sets": lambda _: [{1.0, 2.0}],
}
"""One row each, that nothing can be sampled of."""

ALL = SEVERAL | ONE | UNREADABLE
