"""How is the file opened that the workers of a host meet in, and what if it fails?

SQLite in WAL mode. No lock of the file is held while Python runs: each call of `write` is one
statement in autocommit mode, which takes the lock and gives it back inside SQLite. A transaction of
several calls would hold it while its thread waits for the interpreter, and all workers with it.
"""

from __future__ import annotations

import contextlib
import math
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from threading import Condition
from typing import Any, TypeAlias

from mlguard import forks
from mlguard.host.mounts import is_remote
from mlguard.host.schema import NUMBER, SCHEMA
from mlguard.logs import LOGGER

Row: TypeAlias = tuple[Any, ...]
Values: TypeAlias = Sequence[Any] | Mapping[str, Any]

_MOMENT = 0.000_05  # seconds until a statement is tried again
_SOON = 3  # times, before SQLite waits
_PAUSE = 3  # milliseconds that SQLite waits for others before it gives up: 1, then 2
_FREELY_GROWN = 4_000  # pages of the log, after which whoever writes moves them into the file
_OPENING = 5000  # milliseconds in which a new file is made by one of several workers
_RETRY = 0.005  # seconds
_FORKING = 1.0  # seconds to wait, before a fork, for the statements that run
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_WORDS = {
    sqlite3.SQLITE_BUSY: "others hold it for too long",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened",
    sqlite3.SQLITE_CORRUPT: "it is damaged",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_IOERR: "the disk fails, or is full",
    sqlite3.SQLITE_NOTADB: "it is damaged",
    sqlite3.SQLITE_PERM: "it may not be written to",
    sqlite3.SQLITE_READONLY: "it may not be written to",
}


class DatabaseFailed(Exception):
    """The file could not be read or written; nothing was changed.

    Attributes:
        is_busy: Whether others held it for too long, and nothing else is wrong.
    """

    def __init__(self, reason: str, *, is_busy: bool = False) -> None:
        super().__init__(reason)
        self.is_busy = is_busy


class Connection:
    """A connection to the file, of one thread at a time; each statement is one of autocommit mode.

    Args:
        made: By sqlite3.
        wait: Seconds to wait at most while others hold the file; 0 never blocks. SQLite waits,
            without the interpreter, so that a worker which is slow itself gives up no sooner than
            it has waited for a quarter of that.
    """

    def __init__(self, made: sqlite3.Connection, wait: float) -> None:
        self.made = made
        self._wait = wait
        self._least = _SOON + math.ceil(1000 * wait / _PAUSE / 4)

    def write(self, sql: str, values: Values = ()) -> int:
        """Run a statement that writes, and tell how many rows it changed."""
        before = self.made.total_changes
        self._run(sql, values)
        return self.made.total_changes - before

    def read(self, sql: str, values: Values = ()) -> list[Row]:
        """Run a statement that reads, which hardly ever waits for anybody."""
        return self._run(sql, values).fetchall()

    def _run(self, sql: str, values: Values) -> sqlite3.Cursor:
        try:
            return self.made.execute(sql, values)
        except sqlite3.OperationalError as error:
            if not self._wait or not _is_busy(error):
                raise
            return self._run_when_free(sql, values)

    def _run_when_free(self, sql: str, values: Values) -> sqlite3.Cursor:
        """Try again: soon at first, as most statements of others take some microseconds."""
        until, tries = time.monotonic() + self._wait, 0
        try:
            while True:
                tries += 1
                if tries <= _SOON:
                    time.sleep(_MOMENT)
                elif tries == _SOON + 1:
                    self.made.execute(f"PRAGMA busy_timeout={_PAUSE}")
                try:
                    return self.made.execute(sql, values)
                except sqlite3.OperationalError as error:
                    is_over = tries >= self._least and time.monotonic() >= until
                    if is_over or not _is_busy(error):
                        raise
        finally:
            if tries > _SOON:
                self.made.execute("PRAGMA busy_timeout=0")


class Database:
    """A process's way to the file. Threads may share it; making one opens nothing.

    Connections are used by one thread at a time. All are closed before this process forks, as one
    that a child inherits may neither be used there nor be closed.

    Args:
        path: The file; its folder must be there. None until `move` says where.
        wait: Seconds to wait at most while others hold the file.
        is_lasting: Whether what is written is to survive the power, as far as it was synced.
    """

    def __init__(self, path: Path | None = None, *, wait: float, is_lasting: bool = False) -> None:
        self.path = path
        self._wait = wait
        self._is_lasting = is_lasting
        self._on_new: list[Callable[[], None]] = []
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._changed = Condition()
        self._free: tuple[deque[Connection], ...] = (deque(), deque())
        self._used = 0
        self._is_forking = False
        self._inode: tuple[int, int] | None = None
        self._known: tuple[int, int] | None = None  # what all that is remembered was written to

    def move(self, path: Path) -> None:
        """Be at this path from now on: a server may give up root after it was made."""
        if path != self.path:
            self.close()
            self.path = path

    def on_new(self, write_anew: Callable[[], None]) -> None:
        """Have something written anew where the file is made anew that this process knew."""
        self._on_new.append(write_anew)

    def write(self, sql: str, values: Values = (), *, waits: bool = True) -> int:
        """Run one statement that writes, and tell how many rows it changed.

        Args:
            sql: The statement.
            values: Its values.
            waits: Whether to wait where others hold the file; without, it never blocks.

        Raises:
            DatabaseFailed: It could not be run; nothing was changed.
        """
        with self.lend(waits=waits) as connection:
            return connection.write(sql, values)

    def read(self, sql: str, values: Values = ()) -> list[Row]:
        """Run one statement that reads, which waits for nobody.

        Raises:
            DatabaseFailed: It could not be run.
        """
        with self.lend() as connection:
            return connection.read(sql, values)

    def look_after(self) -> None:
        """Notice a file that was swept away, and move the log into the file; blocks for a moment.

        To be called about once a second, by one thread.

        Raises:
            DatabaseFailed: There is no file, and none can be made.
        """
        if self._inode is not None and _inode(self.path) != self._inode:
            LOGGER.warning("%s is gone: it is made anew", self.path)
            self.close()
        with self.lend() as connection:
            connection.read("PRAGMA wal_checkpoint(PASSIVE)")
        if self._known != self._inode:
            for write_anew in self._on_new:
                write_anew()
        self._known = self._inode

    def sync(self) -> None:
        """Have what is written survive the power; an OSError where it may not."""
        if self.path is None:
            return
        # SQLite keeps no lock on its log, so closing it ends none.
        log = os.open(self.path.with_name(self.path.name + "-wal"), os.O_RDONLY)
        try:
            os.fsync(log)
        finally:
            os.close(log)

    def close(self) -> None:
        """Let go of the file; who asks again opens it again."""
        with self._changed:
            self._close()

    def before_fork(self) -> None:
        """Close all connections, and open no other until the process has forked."""
        with self._changed:
            self._is_forking = True
            self._changed.wait_for(lambda: not self._used, _FORKING)
            self._close()

    def after_fork(self, *, in_child: bool) -> None:
        """Open connections again."""
        if in_child:
            self._begin()
            return
        with self._changed:
            self._is_forking = False
            self._changed.notify_all()

    @contextlib.contextmanager
    def lend(self, *, waits: bool = True) -> Iterator[Connection]:
        """Lend a connection, for statements in autocommit mode and nothing else.

        One whose statement failed is not used again.

        Args:
            waits: Whether to wait where others hold the file; without, it never blocks.

        Raises:
            DatabaseFailed: The file could not be opened, read or written.
        """
        free = self._free[waits]
        with self._changed:
            if self._is_forking:
                self._changed.wait_for(lambda: not self._is_forking)
            self._used += 1
            connection = free.pop() if free else None
            inode = self._inode
        try:
            if connection is None:
                inode = _inode(self.path)  # of what may turn out to be damaged
                connection, inode = self._open(waits=waits)
            yield connection
        except sqlite3.Error as error:
            failed = _failed(self.path or Path(), error)
            if connection is not None and not failed.is_busy:
                connection.made.close()
                connection = None
            if _code(error) in _DAMAGED:
                self._set_aside(inode)
            raise failed from None
        finally:
            with self._changed:
                self._used -= 1
                if self._is_forking:
                    self._changed.notify_all()
                if connection is not None:
                    if inode == self._inode and not self._is_forking:
                        free.append(connection)
                    else:
                        connection.made.close()

    def _open(self, *, waits: bool) -> tuple[Connection, tuple[int, int] | None]:
        if self.path is None:
            raise DatabaseFailed("there is no folder for it")
        if is_remote(self.path.parent):
            raise DatabaseFailed(
                f"{self.path}: it lies on a network file system, where workers cannot share it: "
                "name a local folder"
            )
        _make(self.path)
        connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            self._prepare(connection)
            connection.execute("PRAGMA busy_timeout=0")
        except BaseException:
            connection.close()
            raise
        inode = _inode(self.path)
        with self._changed:
            self._inode = self._inode or inode
            self._known = self._known or inode
        return Connection(connection, self._wait if waits else 0.0), inode

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.execute(f"PRAGMA busy_timeout={_OPENING}")
        level = "NORMAL" if self._is_lasting else "OFF"
        if connection.execute("PRAGMA user_version").fetchone() != (NUMBER,):
            _one_of_us(lambda: connection.execute("PRAGMA journal_mode=WAL").fetchone())
            _one_of_us(lambda: connection.executescript(SCHEMA))
        connection.execute(f"PRAGMA synchronous={level}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_FREELY_GROWN}")
        connection.execute("PRAGMA trusted_schema=OFF")

    def _set_aside(self, inode: tuple[int, int] | None) -> None:
        """Move a damaged file out of the way, so that a new one is made."""
        if inode is None or self.path is None or _inode(self.path) != inode:
            return  # another worker has done so
        self.close()
        aside = self.path.with_suffix(".damaged")
        with contextlib.suppress(OSError):
            self.path.replace(aside)
            for end in ("-wal", "-shm"):
                self.path.with_name(self.path.name + end).unlink(missing_ok=True)
            LOGGER.error("%s is damaged: it is made anew; the old one is %s", self.path, aside)

    def _close(self) -> None:
        self._inode = None
        for free in self._free:
            while free:
                free.pop().made.close()


def _make(path: Path) -> None:
    """Make the file where it is missing, so that only this user can open it."""
    # Exclusively, as closing a file that is in use would end the locks that SQLite has on it.
    with contextlib.suppress(OSError):  # opening it says what is wrong
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _one_of_us(act: Callable[[], object]) -> None:
    """Do what only one worker can do at a time, and SQLite does not always wait for."""
    deadline = time.monotonic() + _OPENING / 1000
    while True:
        try:
            act()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY)
        else:
            return


def _inode(path: Path | None) -> tuple[int, int] | None:
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found else None


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _is_busy(error: sqlite3.Error) -> bool:
    return _code(error) == sqlite3.SQLITE_BUSY


def _failed(path: Path, error: sqlite3.Error) -> DatabaseFailed:
    words = _WORDS.get(_code(error), str(error))
    return DatabaseFailed(f"{path}: {words}", is_busy=_is_busy(error))
