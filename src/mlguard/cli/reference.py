"""What did training look like? `mlguard reference`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlguard.cli import calibrate
from mlguard.errors import InvalidSettings, MissingExtra


def add(commands: Any) -> None:
    """Add the command to a parser."""
    reference = commands.add_parser("reference", help="what training looked like")
    actions = reference.add_subparsers(required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make a reference file of a table of training inputs")
    build.add_argument("data", type=Path, help="a .csv or .parquet file, one column a feature")
    build.add_argument("-o", "--output", type=Path, default=Path("reference.parquet"))
    build.add_argument(
        "--columns", nargs="+", help="the features, in the model's order; default: all"
    )
    build.add_argument("--categorical", nargs="+", default=(), metavar="COLUMN")
    build.set_defaults(run=_build)
    calibrate.add(actions)


def _build(options: argparse.Namespace) -> None:
    from mlguard.drift.reference import Reference

    reference = Reference.build(
        _table(options.data, options.columns), categorical=options.categorical
    )
    try:
        reference.save(options.output)
    except OSError as error:
        raise InvalidSettings(f"cannot be written: {error}", source=str(options.output)) from error
    print(f"{options.output}: {reference.rows} rows of {', '.join(reference.features)}")


def _table(path: Path, columns: list[str] | None) -> Any:
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("needs pandas: run `pip install 'mlguard-core[drift]'`") from error
    try:
        table = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
        return table if columns is None else table[columns]
    except (OSError, ValueError, KeyError) as error:
        raise InvalidSettings(f"cannot be read: {error}", source=str(path)) from error
