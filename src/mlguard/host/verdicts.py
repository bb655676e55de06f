"""What did the analyst last say, and which workers is it there for?"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from mlguard.host.database import Database
from mlguard.host.processes import Process

LATE = 10.0  # seconds without a sign of life
_PAUSE = 5.0  # seconds in which one is started; twice that after each that died of it
_LONGEST_PAUSE = 60.0

_CLAIM = f"""
INSERT INTO analyst VALUES (:digest, '', 0, 0, :now + {_PAUSE}, {2 * _PAUSE}, '[]')
ON CONFLICT (digest) DO UPDATE SET
    not_before = :now + pause, pause = min(2 * pause, {_LONGEST_PAUSE})
WHERE process = :process AND NOT not_before BETWEEN :now AND :now + {_LONGEST_PAUSE}
"""
_BEGIN = f"""
INSERT INTO analyst VALUES (?, ?, ?, 0, 0, {_PAUSE}, '[]')
ON CONFLICT (digest) DO UPDATE SET
    process = excluded.process, beat = excluded.beat, is_ready = 0
"""
_SAY = f"""
UPDATE analyst SET
    beat = :now, is_ready = :is_ready, families = coalesce(:families, families),
    not_before = CASE WHEN :families IS NULL THEN not_before ELSE 0 END,
    pause = CASE WHEN :families IS NULL THEN pause ELSE {_PAUSE} END
WHERE digest = :digest AND process = :process
"""
_END = "UPDATE analyst SET process = '', is_ready = 0 WHERE digest = ? AND process = ?"
_READ = "SELECT process, beat, is_ready, families FROM analyst WHERE digest = ?"
_ATTEND = """
INSERT INTO analysed VALUES (?, ?, ?)
ON CONFLICT (digest, process) DO UPDATE SET beat = excluded.beat
"""
_LEAVE = "DELETE FROM analysed WHERE digest = ? AND process = ?"
_WORKERS = "SELECT digest, process, beat FROM analysed"
_WAITS = "SELECT 1 FROM sampled WHERE digest = ? LIMIT 1"
_FORGET = [
    f"DELETE FROM {table} WHERE digest <> ? AND digest NOT IN (SELECT digest FROM analysed)"
    for table in ("sampled", "analyst")
]


class Said(NamedTuple):
    """What stands in the file about an analyst.

    Attributes:
        process: Which process it is, as `Process.text`; "" where none began, or it ended.
        is_there: Whether that still runs, as far as can be seen from here.
        is_late: Whether it has given no sign of life for ten seconds.
        is_ready: Whether it said that its checks are ready to run.
        families: Its metrics, as JSON.
    """

    process: str = ""
    is_there: bool = False
    is_late: bool = True
    is_ready: bool = False
    families: str = "[]"

    @property
    def is_up(self) -> bool:
        """Whether rows are being judged."""
        return self.is_there and self.is_ready and not self.is_late


class Verdicts:
    """What the analyst of some settings and its workers tell each other in the file.

    All raise DatabaseFailed where the file cannot be read or written to.

    Args:
        database: The file.
        digest: Of the settings.
        timer: The clock that all processes of a host share, in seconds.
    """

    def __init__(
        self, database: Database, digest: str, timer: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._digest = digest
        self._timer = timer

    # ---- a worker's side

    def attend(self) -> None:
        """Say that this worker lives."""
        self._database.write(_ATTEND, (self._digest, Process.mine().text, self._timer()))

    def leave(self) -> None:
        """Say that this worker has no more rows."""
        self._database.write(_LEAVE, (self._digest, Process.mine().text))

    def read(self) -> Said:
        """Return what the analyst said last."""
        found = self._database.read(_READ, (self._digest,))
        if not found:
            return Said()
        process, beat, is_ready, families = found[0]
        is_there = bool(process) and self._lives(process, beat)
        return Said(process, is_there, self._is_late(beat), bool(is_ready), families)

    def has_rows(self) -> bool:
        """Say whether rows wait for the analyst."""
        return bool(self._database.read(_WAITS, (self._digest,)))

    def claim(self, process: str) -> bool:
        """Try to get the turn to start the analyst that follows this one; say whether it is ours.

        One of the workers gets it, and the next one later after each that died before its checks
        could run.
        """
        values = {"digest": self._digest, "process": process, "now": self._timer()}
        return self._database.write(_CLAIM, values) > 0

    # ---- the analyst's side

    def begin(self) -> str:
        """Be the analyst from now on; return the metrics of the last one, as JSON."""
        self._workers()
        for forget in _FORGET:
            self._database.write(forget, (self._digest,))
        self._database.write(_BEGIN, (self._digest, Process.mine().text, self._timer()))
        return self.read().families

    def say(self, *, is_ready: bool, families: str | None) -> bool:
        """Give a sign of life, and the metrics as JSON where they are new.

        Returns:
            Whether this process still is the analyst.
        """
        values = {
            "now": self._timer(),
            "is_ready": is_ready,
            "families": families,
            "digest": self._digest,
            "process": Process.mine().text,
        }
        return self._database.write(_SAY, values) > 0

    def has_workers(self) -> bool:
        """Say whether any worker lives."""
        return self._digest in self._workers()

    def end(self) -> None:
        """Be the analyst no longer."""
        self._database.write(_END, (self._digest, Process.mine().text))

    def _workers(self) -> set[str]:
        """Return the settings of all workers that live, and forget the others."""
        living = set()
        for digest, process, beat in self._database.read(_WORKERS):
            if self._lives(process, beat):
                living.add(digest)
            else:
                self._database.write(_LEAVE, (digest, process))
        return living

    def _lives(self, text: str, beat: float) -> bool:
        process = Process.read(text)
        if process.space == Process.mine().space:
            return process.runs()
        return not self._is_late(beat)

    def _is_late(self, beat: float) -> bool:
        return not 0 <= self._timer() - beat < LATE
