"""How does a command read a table of rows, and write one?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"cannot be read: {error}", source=str(path)) from error


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
