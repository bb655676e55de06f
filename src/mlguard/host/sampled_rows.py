"""How do sampled rows get from the workers to their analyst?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from mlguard.host.database import Database

Row: TypeAlias = tuple[str, str, object, Any]
"""Model, version, the values of one row, and what the model said of it, None where unknown."""

MAX_ROW = 64 * 2**10  # bytes
MAX_ROWS = 20_000  # that wait in the file, of all workers with the same settings
MAX_BYTES = 32 * 2**20

_PUT = f"""
INSERT INTO sampled (digest, size, row)
SELECT :digest, length(value), value FROM json_each(:rows)
WHERE key < {MAX_ROWS} - (SELECT count(*) FROM sampled WHERE digest = :digest)
    AND (SELECT total(size) FROM sampled WHERE digest = :digest) < {MAX_BYTES}
"""
_FIRST = "SELECT id, row FROM sampled WHERE digest = ? ORDER BY id LIMIT ?"
_TAKE = "DELETE FROM sampled WHERE digest = ? AND id BETWEEN ? AND ?"

FORGET = "DELETE FROM sampled"


class SampledRows:
    """The rows that wait in the file for the analyst of some settings.

    Args:
        database: The file.
        digest: Of the settings.
    """

    def __init__(self, database: Database, digest: str) -> None:
        self._database = database
        self._digest = digest

    def put(self, written: Sequence[str]) -> int:
        """Add rows that `write_row` wrote; return how many there was room for, the first ones.

        Raises:
            DatabaseFailed: The file cannot be written to; none was added.
        """
        # Each is a text in the text: what SQLite knows as JSON is less than what Python writes.
        return self._database.write(_PUT, {"digest": self._digest, "rows": json.dumps(written)})

    def take(self, most: int) -> list[Row]:
        """Take the oldest rows out of the file, at most so many: nobody ever gets them again.

        Raises:
            DatabaseFailed: The file cannot be read or written to; none was taken.
        """
        found = self._database.read(_FIRST, (self._digest, most))
        if not found:
            return []
        taken = self._database.write(_TAKE, (self._digest, found[0][0], found[-1][0]))
        if taken != len(found):  # another analyst has some of them: better lost than judged twice
            return []
        return [json.loads(text) for _, text in found]


def write_row(model: str, version: str, values: object, said: object = None) -> tuple[str, str]:
    """Return the row as JSON, and why it cannot be judged if it cannot."""
    try:
        row = json.dumps([model, version, values, said], separators=(",", ":"), default=_plain)
    except (TypeError, ValueError, RecursionError):
        return "", "unreadable"
    return row, "too_large" if len(row) > MAX_ROW else ""


def _plain(value: object) -> object:
    """Turn what JSON does not know, NumPy's numbers and arrays mostly, into what it knows."""
    tolist = getattr(value, "tolist", None)
    return tolist() if callable(tolist) else str(value)
