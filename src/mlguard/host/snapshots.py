"""How does a scrape of one worker speak for all workers of its instance?

Each writes its numbers into the file, whenever one of them asks and once a second. Those of workers
that are gone are added up, in one statement that does nothing where another worker was faster.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Sequence
from threading import Lock

from mlguard.host.database import Database, Row
from mlguard.host.processes import Process
from mlguard.logs import RateLimitedLog
from mlguard.metrics import Family, merge

PATIENCE = 0.5  # seconds for which a scrape waits for the other workers
_LOOK = 0.005  # seconds
_LEFT = 2**62  # has answered all that will be asked
_FORGOTTEN = 3600.0  # seconds after which an instance is gone that cannot be seen from here
_ALIVE = 60.0
_SHARE = 100  # a snapshot nobody asked for takes a hundredth of the time between two
_LASTING = ("counter", "histogram", "summary")

_BEGIN = """
INSERT INTO instance VALUES (:instance, 0, :now, :version, :departed, '[]')
ON CONFLICT (name) DO UPDATE SET
    version = excluded.version, departed = excluded.departed, gone = '[]'
WHERE version < excluded.version
"""
_ASK = """
INSERT INTO instance VALUES (:instance, :number, :now, 0, '[]', '[]')
ON CONFLICT (name) DO UPDATE SET asked = max(asked, excluded.asked), seen = excluded.seen
"""
_WRITE = """
INSERT INTO worker VALUES (:name, :instance, :answered, :families)
ON CONFLICT (name) DO UPDATE SET
    instance = excluded.instance, answered = excluded.answered, families = excluded.families
"""
_ADD_UP = """
UPDATE instance SET departed = :departed, gone = :gone, version = version + 1
WHERE name = :instance AND version = :version
"""
_ALL = """
SELECT name, families FROM worker WHERE instance = ?1 AND name <> ?2
UNION ALL SELECT '', departed FROM instance WHERE name = ?1
"""
_OTHERS = """
SELECT 1 FROM worker WHERE instance = ?1 AND name <> ?2
UNION ALL SELECT 1 FROM instance WHERE name = ?1 AND departed <> '[]'
"""
_THESE = (
    "SELECT name, families, answered FROM worker WHERE name IN (SELECT value FROM json_each(?))"
)


class Snapshots:
    """A worker's numbers beside those of its siblings. Threads may share it.

    Args:
        database: The file.
        snapshot: Returns this worker's numbers.
        on_lost: Told how many siblings this worker found gone that had not said goodbye.
    """

    def __init__(
        self,
        database: Database,
        snapshot: Callable[[], list[Family]],
        on_lost: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._database = database
        self._snapshot = snapshot
        self._on_lost = on_lost
        self._log = RateLimitedLog()
        self._writing = Lock()
        self.name = ""
        self._version, self._departed = 0, "[]"
        self.instance = ""

    def start(self, instance: Process) -> None:
        """Be a worker of this supervisor, in this process; a DatabaseFailed where that fails."""
        mine, self.instance = Process.mine().text, instance.text
        if _process(self.name) != mine:  # who starts again in a process goes on
            self.name = f"{mine}.{secrets.token_hex(4)}"
            self._version, self._departed = 0, "[]"
        self._writing = Lock()
        self._answered, self._said_alive = 0, 0.0
        self.renew()

    def renew(self) -> None:
        """Be in a new file, with what is remembered of workers that are gone."""
        self._database.write(_BEGIN, self._values(version=self._version, departed=self._departed))
        self._written, self._not_before = "", 0.0
        self.write()

    def write(self, asked: int = 0) -> None:
        """Write this worker's numbers, where they are others than before, or asked for."""
        if asked or time.monotonic() >= self._not_before:
            self._write(asked)

    def _write(self, asked: int) -> list[Family]:
        """Write this worker's numbers, and return them."""
        with self._writing:
            began = time.monotonic()
            number = max(asked, self._answered)
            families, text = self._families()
            if text != self._written or number != self._answered:
                self._database.write(_WRITE, self._values(answered=number, families=text))
                self._answered, self._written = number, text
            self._not_before = time.monotonic() + _SHARE * (time.monotonic() - began)
            return families

    def answer(self, asked: int) -> None:
        """Write them where they were asked for since the last time."""
        if asked > self._answered:
            self.write(asked)

    def collect(self) -> list[Family]:
        """Ask all workers, and return the sum; one that does not answer counts as last seen.

        Raises:
            DatabaseFailed: The file cannot be read or written.
        """
        if not self._has_others():
            return self._write(0)  # for those that come when this one is gone
        number = time.monotonic_ns()
        self._database.write(_ASK, self._values(number=number))
        found = [self._write(number)]
        deadline = time.monotonic() + PATIENCE
        while self._are_silent(number) and time.monotonic() < deadline:
            time.sleep(_LOOK)
        for name, text in self._database.read(_ALL, (self.instance, self.name)):
            families = json.loads(text)
            found.append(_lasting(families) if name and _is_gone(name) else families)
        return merge(found)

    def collect_alone(self) -> list[Family] | None:
        """Return this worker's numbers where nobody else has any; None where others do.

        Raises:
            DatabaseFailed: The file cannot be read.
        """
        return None if self._has_others() else self._snapshot()

    def look_after(self) -> None:
        """Add up the workers that are gone, and forget instances that are."""
        now = time.monotonic()
        if now - self._said_alive > _ALIVE:
            self._database.write(_ASK, self._values(number=0))
            self._said_alive = now
        if gone := [name for name in self.workers() if _is_gone(name)]:
            self._add_up(gone)
        for (version,) in self._read_instance("version"):
            if version != self._version:
                for found in self._read_instance("version, departed"):
                    self._version, self._departed = found
        for name, seen in self._database.read("SELECT name, seen FROM instance"):
            if self._has_ended(name, now - seen):
                self._database.write("DELETE FROM instance WHERE name = ?", (name,))

    def workers(self, instance: str = "") -> list[str]:
        """Return the names of all workers of an instance, this one's without a name."""
        sql = "SELECT name FROM worker WHERE instance = ?"
        return [name for (name,) in self._database.read(sql, (instance or self.instance,))]

    @property
    def is_alone(self) -> bool:
        """Whether this worker has no siblings: its own numbers are then the instance's."""
        return self.instance == _process(self.name)

    def close(self) -> None:
        """Write the last numbers, for which nobody will ask again; a lone worker's leave with it.

        So those of another service that this process may make are not added to them.
        """
        if self.is_alone:
            self._database.write("DELETE FROM worker WHERE name = ?", (self.name,))
        else:
            self.write(_LEFT)

    def _add_up(self, gone: Sequence[str]) -> None:
        for version, departed in self._read_instance("version, departed"):
            found = self._database.read(_THESE, (json.dumps(gone),))
            theirs = [_lasting(json.loads(families)) for _, families, _ in found]
            departed = json.dumps(merge([json.loads(departed), *theirs]))
            names = json.dumps([name for name, _, _ in found])
            values = self._values(version=version, departed=departed, gone=names)
            lost = sum(answered < _LEFT for _, _, answered in found)
            if self._database.write(_ADD_UP, values) and lost:
                self._on_lost(lost)

    def _read_instance(self, columns: str) -> list[Row]:
        sql = f"SELECT {columns} FROM instance WHERE name = ?"
        return self._database.read(sql, (self.instance,))

    def _has_others(self) -> bool:
        """Say whether there are numbers of others: of workers, or of those that are gone."""
        return bool(self._database.read(_OTHERS, (self.instance, self.name)))

    def _are_silent(self, number: int) -> bool:
        """Say whether a worker that runs has not answered."""
        sql = "SELECT name FROM worker WHERE instance = ? AND answered < ?"
        silent = self._database.read(sql, (self.instance, number))
        return any(not _is_gone(name) for (name,) in silent)

    def _has_ended(self, instance: str, silence: float) -> bool:
        if Process.read(instance).space != Process.read(self.instance).space:
            return silence > _FORGOTTEN
        return _is_gone(instance) and all(map(_is_gone, self.workers(instance)))

    def _families(self) -> tuple[list[Family], str]:
        """Return this worker's numbers, and the same for the file."""
        try:
            families = self._snapshot()
            return families, json.dumps(families)
        except Exception as error:  # noqa: BLE001 - a user's collector; the others' numbers go on
            self._log.warning("collect", "this worker's numbers cannot be read: %r", error)
            text = self._written or "[]"
            return json.loads(text), text

    def _values(self, **more: object) -> dict[str, object]:
        return {"name": self.name, "instance": self.instance, "now": time.monotonic(), **more}


def instances(database: Database) -> int:
    """Tell how many instances of the service run, whose workers will read what is written."""
    found = database.read("SELECT DISTINCT name, instance FROM worker WHERE answered < ?", (_LEFT,))
    return len({instance for name, instance in found if not _is_gone(name)})


def _process(name: str) -> str:
    return name.rpartition(".")[0]


def _is_gone(name: str) -> bool:
    """Say whether a worker, or an instance, is gone."""
    return Process.read(_process(name) or name).is_gone()


def _lasting(snapshot: list[Family]) -> list[Family]:
    return [family for family in snapshot if family["type"] in _LASTING]
