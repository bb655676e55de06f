"""How does a command read a table of rows, and write one?"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlguard.cli.terminal import lasting
from mlguard.drift.hashing import LEAST
from mlguard.errors import InvalidSettings, MissingExtra


def read(path: Path) -> Any:
    """Read a .csv or .parquet file.

    Raises:
        InvalidSettings: It cannot be read.
        MissingExtra: pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtra("needs pandas: run `pip install 'mlguard-core[drift]'`") from error
    try:
        with lasting(f"reading {path}"):
            return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"cannot be read: {error}", source=str(path)) from error


def add_key(command: Any) -> None:
    """Add the option that names the key of categories."""
    text = "the variable with the key with which texts are hashed, as in drift.category_key_env"
    command.add_argument("--category-key-env", metavar="VARIABLE", help=text)


def key_of(variable: str | None) -> bytes | None:
    """Fetch that key.

    Raises:
        InvalidSettings: The variable holds none.
    """
    key = os.fsencode(os.environ.get(variable, "")) if variable else None
    if key is not None and len(key) < LEAST:
        raise InvalidSettings(f"--category-key-env {variable}: it must hold at least {LEAST} bytes")
    return key


def write(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Write columns of texts; the first is to the left, the others to the right."""
    lines = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
