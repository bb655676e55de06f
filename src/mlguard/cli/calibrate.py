"""What are a model's scores worth? `mlguard reference calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlguard.cli import tables
from mlguard.cli.terminal import say
from mlguard.errors import InvalidReference, InvalidSettings
from mlguard.performance.task import TWO, Task


def add(actions: Any) -> None:
    """Add the action to a parser."""
    calibrate = actions.add_parser(
        "calibrate",
        help="learn what a model's scores are worth, from rows with truths",
        description="Rows that the model was not trained on: with the scores that it gives them, "
        "and their truths. The file is for `models[].calibration`.",
    )
    calibrate.add_argument("data", type=Path, help="a .csv or .parquet file")
    calibrate.add_argument("--truth", required=True, metavar="COLUMN")
    calibrate.add_argument(
        "--scores",
        required=True,
        nargs="+",
        metavar="COLUMN",
        help="the probability of the last of two classes, or one of each class in their order",
    )
    calibrate.add_argument("--classes", nargs="+", default=TWO, help="default: 0 1")
    calibrate.add_argument(
        "--threshold", type=float, default=0.5, help="as in the settings; default: %(default)s"
    )
    calibrate.add_argument("-o", "--output", type=Path, default=Path("calibration.json"))
    calibrate.set_defaults(run=_calibrate)


def _calibrate(options: argparse.Namespace) -> None:
    from mlguard.performance.calibration import ScoreCalibration

    if len(options.classes) < 2 or len(set(options.classes)) < len(options.classes):
        raise InvalidReference("--classes: must be two or more, each another one")
    task = Task("classification", tuple(options.classes), options.threshold)
    table = tables.read(options.data)
    try:
        scores, truths = table[options.scores].to_numpy().tolist(), table[options.truth].tolist()
    except KeyError as error:
        raise InvalidSettings(f"has no column {error}", source=str(options.data)) from error
    learned = ScoreCalibration.fit(task, scores, truths)
    try:
        learned.save(options.output)
    except OSError as error:
        raise InvalidSettings(f"cannot be written: {error}", source=str(options.output)) from error
    say(f"{options.output}: learned from {learned.rows} of {len(truths)} rows")
