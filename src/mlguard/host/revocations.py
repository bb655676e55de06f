"""How does every worker of a host know what one of them revoked, and the next service too?"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Mapping
from itertools import islice
from threading import Lock

from mlguard.host.database import Database
from mlguard.logs import RateLimitedLog
from mlguard.revocations import MAX_ENTRIES, Key, Revocation, Revocations

_AT_ONCE = 2000  # written in one go
_TIDY = 60.0  # seconds

_SAVE = """
INSERT OR REPLACE INTO revocation (key, issued, until)
SELECT :key, max(:issued, coalesce(old.issued, 0.0)), CASE
    WHEN :until IS NULL OR (old.id IS NOT NULL AND old.until IS NULL) THEN NULL
    ELSE max(:until, coalesce(old.until, 0.0))
END
FROM (SELECT 1) LEFT JOIN revocation AS old ON old.key = :key
WHERE old.id IS NULL OR old.issued < :issued
    OR (old.until IS NOT NULL AND (:until IS NULL OR old.until < :until))
"""
_NEWS = "SELECT id, key, issued, until FROM revocation WHERE id > ? ORDER BY id"
NEWEST = "(SELECT max(id) FROM revocation)"
"""The id of what was revoked last, which is cheap to ask for."""


class RevocationTable:
    """What is revoked, in this worker's memory and in the file. Threads may share it.

    Attributes:
        revision: Changes with every entry.

    Args:
        database: The file.
        known: What this worker refuses.
    """

    def __init__(self, database: Database, known: Revocations) -> None:
        self._database = database
        self._known = known
        self._log = RateLimitedLog()
        self._begin()

    def _begin(self) -> None:
        self._lock = Lock()
        self._unsaved: dict[Key, Revocation] = {}
        self._newest = 0
        self._tidied = 0.0
        self.revision = 0

    def start(self) -> None:
        """Know what stands in the file, in this process; a DatabaseFailed where that fails."""
        self._lock = Lock()
        self._newest = 0
        self.read()

    def learn(self, revocations: Iterable[Revocation]) -> int:
        """Refuse what is not past, from now on; return how many there was no room for.

        The file has it after the next `save`.
        """
        return self._learn(revocations, is_new_to_file=True)

    def read(self, newest: int | None = None) -> None:
        """Learn what others wrote, where the newest id is not the one that was read last."""
        if newest is not None and newest == self._newest:
            return
        if newest is not None and newest < self._newest:  # another file
            self._newest = 0
        rows = self._database.read(_NEWS, (self._newest,))
        self._learn((r for _, *row in rows if (r := _read(*row))), is_new_to_file=False)
        if rows:
            self._newest = rows[-1][0]

    def save(self) -> bool:
        """Write what the file does not know, and what is past no longer; say whether all is.

        Raises:
            DatabaseFailed: It cannot be written, and is kept for the next time.
        """
        with self._lock:
            some = list(islice(self._unsaved.items(), _AT_ONCE))
        for key, revocation in some:
            self._database.write(_SAVE, _written(revocation))
            with self._lock:
                if self._unsaved.get(key) is revocation:
                    del self._unsaved[key]
        if some:  # the power may go: a file that cannot be synced is one that cannot be written
            with contextlib.suppress(OSError):
                self._database.sync()
        if time.monotonic() - self._tidied > _TIDY:
            self._tidied = time.monotonic()
            self._database.write("DELETE FROM revocation WHERE until <= ?", (time.time(),))
        return not self._unsaved

    def renew(self) -> None:
        """Have all that is known written into a new file."""
        self._newest = 0
        with self._lock:
            self._unsaved = {r.key: r for r in self._known}

    @property
    def is_full(self) -> bool:
        """Whether there is no room for more."""
        return len(self._known) >= MAX_ENTRIES

    def missing_from(self, stored: Mapping[Key, Revocation]) -> list[Revocation]:
        """Return what is revoked and not stored elsewhere, or stored otherwise."""
        now = time.time()
        return [r for r in self._known if not r.is_past(now) and stored.get(r.key) != r]

    def _learn(self, revocations: Iterable[Revocation], *, is_new_to_file: bool) -> int:
        with self._lock:
            news, refused = self._known.learn(revocations, time.time())
            self.revision += bool(news)
            if is_new_to_file:
                self._unsaved |= {r.key: r for r in news if r.key in self._known}
        if refused:
            self._log.warning("full", "%d revocations do not hold here: no room", refused)
        return refused


def _written(revocation: Revocation) -> dict[str, object]:
    # JSON, as a name may hold what is no UTF-8.
    key = json.dumps(revocation.key)
    return {"key": key, "issued": float(revocation.before), "until": revocation.until}


def _read(key: str, issued: float, until: float | None) -> Revocation | None:
    with contextlib.suppress(ValueError, TypeError):
        kind, issuer, name = json.loads(key)
        return Revocation(issuer, **{kind: name}, before=issued, until=until)
    return None
