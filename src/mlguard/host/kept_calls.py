"""Where do calls wait for their labels, and labels for whoever measures? In the workers' file."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mlguard.call_ids import first_id
from mlguard.host.database import Database
from mlguard.performance import KeptCall
from mlguard.performance.labels import Found, Labelled

MAX_BYTES = 256 * 2**20  # of what was said, in the file
_TOGETHER = 100  # calls in one statement, which holds the file
_STEPS = 100  # of which each forgets some, at a time

_KEEP = """
INSERT OR IGNORE INTO call (id, model, size, told)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'),
    length(json_extract(value, '$[2]')), json_extract(value, '$[2]')
FROM json_each(:calls)
"""
_FIND = """
SELECT id, model, told, truths IS NOT NULL
FROM call WHERE id IN (SELECT value FROM json_each(?))
"""
_LABEL = "UPDATE call SET truths = ?, labelled = ? WHERE id = ? AND truths IS NULL"
_RECENT = """
SELECT told, truths FROM call
WHERE model = ? AND labelled IS NOT NULL ORDER BY labelled DESC LIMIT ?
"""
_SIZE = "SELECT count(*), total(size) FROM call"
_FORGET = "DELETE FROM call WHERE id IN (SELECT id FROM call WHERE id < ? ORDER BY id LIMIT ?)"
_LAST = "g"  # stands after every id


class HostCalls:
    """The calls of a service on this host; all raise DatabaseFailed where the file fails.

    Args:
        database: The file.
        most: Calls that are kept at most.
        retention: Seconds for which they are kept.
    """

    def __init__(self, database: Database, *, most: int, retention: float) -> None:
        self._database = database
        self._most = most
        self._retention = retention

    def keep(self, calls: Sequence[KeptCall]) -> None:
        """Write calls down."""
        for start in range(0, len(calls), _TOGETHER):
            some = calls[start : start + _TOGETHER]
            # Each is a text in the text: what SQLite knows as JSON is less than what Python writes.
            written = [[c.id, c.model, _written([c.version, c.said])] for c in some]
            self._database.write(_KEEP, {"calls": json.dumps(written)})

    def find(self, ids: Sequence[str]) -> dict[str, Found]:
        """Return what is kept of calls; nothing of those that are not."""
        rows = self._database.read(_FIND, (json.dumps(list(ids)),))
        return {
            call_id: Found(KeptCall(call_id, model, *json.loads(told)), bool(is_labelled))
            for call_id, model, told, is_labelled in rows
        }

    def label(self, call: KeptCall, truths: Sequence[object], now: float) -> bool:
        """Write the truths of a call down; False where others were first."""
        return self._database.write(_LABEL, (_written(truths), now, call.id)) > 0

    def recent(self, model: str, most: int) -> list[Labelled]:
        """Return the calls of a model that were labelled last, the newest first."""
        rows = self._database.read(_RECENT, (model, most))
        read = [(json.loads(told), json.loads(truths)) for told, truths in rows]
        return [Labelled(version, said, truths) for (version, said), truths in read]

    def forget(self, now: float) -> bool:
        """Forget calls that are too old, then the oldest where there are too many, step by step.

        Returns:
            False where that would take long, and is to be gone on with.
        """
        oldest = first_id(now - self._retention)
        for _ in range(_STEPS):
            forgotten = self._database.write(_FORGET, (oldest, _TOGETHER))
            forgotten += self._database.write(_FORGET, (_LAST, self._surplus()))
            if not forgotten:
                return True
        return False

    def _surplus(self) -> int:
        """Tell how many of the oldest calls must go, at most so many at a time."""
        ((count, size),) = self._database.read(_SIZE)
        surplus = count // 10 + 1 if size > MAX_BYTES else count - self._most
        return int(max(0, min(surplus, _TOGETHER)))

    def close(self) -> None:
        """Do nothing: the file is its owner's."""


def _written(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
