"""Whom is a drift check compared with? Each says which columns of a window drift."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from scipy.stats import chi2_contingency, ks_2samp

from mlguard.drift import Reference, check

Judge = Callable[[pd.DataFrame], Iterable[str]]
ALPHA = 0.05
REFERENCE_ROWS = 10_000
NANNYML = "NANNYML_PYTHON"
"""A variable that names the interpreter of an environment with nannyml and statsmodels."""


def mlguard(reference: Reference) -> Judge:
    """Judge by mlguard, a window at a time."""
    return lambda window: check(reference, window).drifted


def evidently(known: pd.DataFrame) -> Judge:
    """Judge each column by the test and the threshold that evidently chooses; missing is dropped.

    It is called without its preset, which takes 10 to 50 times as long for the same scores.
    """
    from evidently.legacy.calculations.stattests import get_stattest
    from evidently.legacy.core import ColumnType

    sampled = _sampled(known)

    def judge(window: pd.DataFrame) -> Iterable[str]:
        for name in sampled.columns.intersection(window.columns):
            ours, theirs = sampled[name].dropna(), window[name].dropna()
            is_number = pd.api.types.is_float_dtype(ours) or ours.nunique() > 20
            is_number = is_number and pd.api.types.is_numeric_dtype(ours)
            kind = ColumnType.Numerical if is_number else ColumnType.Categorical
            if len(ours) and len(theirs):
                found = get_stattest(ours, theirs, kind, None)(ours, theirs, kind, None)
                if found.drifted:
                    yield name

    return judge


def half_of_columns(known: pd.DataFrame) -> Judge:
    """Judge as evidently does a data set: where half of the columns drift."""
    judge, needed = evidently(known), len(known.columns) / 2

    def of_half(window: pd.DataFrame) -> Iterable[str]:
        found = list(judge(window))
        return found if len(found) >= needed else []

    return of_half


def kolmogorov_smirnov(known: pd.DataFrame) -> Judge:
    """Judge by Kolmogorov and Smirnov, or chi-square, at 5 % divided by the number of columns."""
    sampled = _sampled(known)
    least = ALPHA / len(sampled.columns)

    def judge(window: pd.DataFrame) -> Iterable[str]:
        for name in sampled.columns.intersection(window.columns):
            ours, theirs = sampled[name].dropna(), window[name].dropna()
            if len(theirs) and _chance(ours, theirs) < least:
                yield name

    return judge


def _chance(ours: pd.Series, theirs: pd.Series) -> float:
    if pd.api.types.is_numeric_dtype(ours) and not pd.api.types.is_bool_dtype(ours):
        return float(ks_2samp(ours, theirs, method="asymp").pvalue)
    counts = pd.DataFrame({"a": ours.value_counts(), "b": theirs.value_counts()}).fillna(0)
    counts = counts[counts.sum(axis=1) > 0]  # a categorical type counts what is not there
    return float(chi2_contingency(counts).pvalue) if len(counts) > 1 else 1.0


def _sampled(known: pd.DataFrame) -> pd.DataFrame:
    return known.sample(min(len(known), REFERENCE_ROWS), random_state=0)


_PROGRAM = """
import sys
import pandas as pd
from nannyml import UnivariateDriftCalculator
folder, rows = sys.argv[1], int(sys.argv[2])
known, traffic = (pd.read_parquet(f"{folder}/{name}.parquet") for name in ("known", "traffic"))
calculator = UnivariateDriftCalculator(column_names=list(known.columns), chunk_size=rows)
found = calculator.fit(known).calculate(traffic).filter(period="analysis").to_df()
alerts = found.loc[:, [column for column in found.columns if column[-1] == "alert"]].astype(bool)
for row in alerts.itertuples(index=False):
    print("\\t".join({name[0] for name, is_alert in zip(alerts.columns, row) if is_alert}))
"""


def nannyml(
    known: pd.DataFrame, windows: Sequence[pd.DataFrame], rows: int
) -> list[list[str]] | None:
    """Judge many windows by NannyML's univariate drift; None where it is not there.

    It takes packages that ours do not go with, so that it runs in an environment of its own.
    """
    python = os.environ.get(NANNYML)
    if python is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        _plain(known).to_parquet(f"{folder}/known.parquet")
        _plain(pd.concat(windows)).to_parquet(f"{folder}/traffic.parquet")
        done = subprocess.run(
            [python, "-W", "ignore", "-c", _PROGRAM, folder, str(rows)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONPATH": "", "NML_DISABLE_USAGE_LOGGING": "1"},
            cwd=Path(folder),
        )
    lines = done.stdout.split("\n")[: len(windows)]
    return [line.split("\t") if line else [] for line in lines]


def _plain(frame: pd.DataFrame) -> Any:
    return frame.select_dtypes(exclude=["datetimetz", "datetime"]).reset_index(drop=True)
