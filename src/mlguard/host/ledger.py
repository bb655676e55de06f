"""How do all workers of a host count in one file?"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

from mlguard import forks
from mlguard.chance import CHANCE
from mlguard.host import statements
from mlguard.host.database import Connection, Database, DatabaseFailed
from mlguard.host.processes import Process, boot
from mlguard.ledger import (
    FLIGHT,
    LIFETIME,
    WINDOW,
    Change,
    ChangesUnmade,
    Entry,
    Limit,
    Line,
    Order,
    Receipt,
    StoreUnavailable,
)
from mlguard.ledger.counters import Window, left, looked
from mlguard.logs import LOGGER
from mlguard.recent import Recent

HOLD = 30.0  # seconds
HOMELESS = "lifetimes need host:///a/folder/that/outlives/reboots"
_FOR_EVER = 1e18
_SWEPT = 2000  # counters looked at together
_TOGETHER = 500  # changes made by one statement
_REMEMBERED = 20_000  # counters
_RACED = 0.001  # seconds until a debit fits that was refused by what has changed since
_LAST = "~"  # is behind all that a key holds
_KINDS = list(statements.KINDS)
_JOINED = 60  # counters read together
_PREFIX = 32  # characters of a key, before its suffix

Row: TypeAlias = tuple[Any, ...]
"""Where counters stand: `statements.READ` numbers of each, one after another."""


class HostLedger:
    """A worker's way to the counters of its service on this host.

    A debit is one statement, and another one tells what is left: see `Database` for why. Its clock
    is the one that all processes of a host share, and no operator sets.

    Args:
        database: The file.
        is_lasting: Whether it outlives reboots, as lifetimes must.
        timer: The clock, in seconds.
        hold: Seconds for which what is in flight counts without a sign of life.

    Attributes:
        database: The file.
    """

    def __init__(
        self,
        database: Database,
        *,
        is_lasting: bool,
        timer: Callable[[], float] = time.monotonic,
        hold: float = HOLD,
    ) -> None:
        self.database = database
        self._is_lasting = is_lasting
        self._timer = timer
        self._hold = hold
        self._holder = ""
        database.on_new(self.restore)
        self._seen: Recent[tuple[str, ...], tuple[float, Row]] = Recent(_REMEMBERED)
        self._swept = ""
        self._is_unsynced = False
        self.after_fork(in_child=True)
        forks.watch(self)

    def before_fork(self) -> None:
        """Do nothing: the database does."""

    def after_fork(self, *, in_child: bool) -> None:
        """Hold what is in flight under a name of this process's own."""
        if in_child:
            self._holder = f"{Process.mine().text}.{secrets.token_hex(4)}"

    def start(self) -> None:
        """Have the file ready; blocks for a moment."""
        with _in_plain_words():
            self.database.write(statements.BOOT, (boot(),))

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""
        if changes:
            self.apply(changes)
        try:
            return self._debit(order, waits=True)
        except DatabaseFailed as error:
            raise _unavailable(str(error), has_changed=bool(changes)) from None

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop: in a thread where it must wait."""
        rounds = self._rounds(changes)
        has_changed = False
        if len(rounds) <= 1:
            try:
                self._settle(rounds, waits=False)
                has_changed = bool(rounds)
                return self._debit(order, waits=False)
            except DatabaseFailed as error:
                if not error.is_busy:
                    raise _unavailable(str(error), has_changed=has_changed) from None
        try:
            return await asyncio.to_thread(self.debit, order, () if has_changed else changes)
        except StoreUnavailable as error:
            raise _unavailable(str(error), has_changed=has_changed) from None

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether a debit would be made."""
        with _in_plain_words():
            if changes:
                self._settle(self._rounds(changes), waits=True)
            else:
                self.database.write(statements.debit(1), self._asked(_PROBE, 0.0, 1))

    def complaint(self, *, lifetime: bool) -> str | None:
        """Say what makes the file unfit.

        Args:
            lifetime: Whether something is counted that must never be forgotten.
        """
        return HOMELESS if lifetime and not self._is_lasting else None

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used; blocks."""
        prefix = _prefix(tag, account)
        with _in_plain_words():
            rows = self.database.read(statements.ALL_OF, (prefix, prefix + _LAST))
        now = self._timer()
        held: dict[str, int] = {}
        found = []
        for key, bucket, current, previous, amount, until in rows:
            kind, seconds, field = _named(key)
            if kind == FLIGHT:
                held[field] = held.get(field, 0) + (current if until > now else 0)
                continue
            used = float(current)
            if kind == WINDOW:
                cells = array("q", (0, bucket, current, previous, amount))
                used = Window(cells, 0, Limit(field, amount, seconds), now).used
            found.append(Entry(field, used, amount, seconds, kind))
        return [*found, *(Entry(field, units, 0, 0, FLIGHT) for field, units in held.items())]

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""
        prefix = _prefix(tag, account)
        with _in_plain_words():
            self.database.write(statements.FORGET, (prefix, prefix + _LAST, lifetime))

    def close(self) -> None:
        """Give back what is in flight here."""
        with contextlib.suppress(DatabaseFailed):
            self.database.write(statements.DROP, (self._holder,))

    def look_after(self) -> None:
        """Forget what is past, and what was in flight in workers that are gone; blocks briefly.

        Raises:
            DatabaseFailed: The file cannot be read or written.
        """
        for (holder,) in self.database.read(statements.HOLDERS):
            if Process.read(holder.rpartition(".")[0]).is_gone():
                self.database.write(statements.DROP, (holder,))
        following = self.database.read(statements.NEXT, (self._swept, _SWEPT))
        until = following[0][0] if following else _LAST
        self.database.write(statements.SWEEP, (self._swept, until, self._timer()))
        self._swept = until if following else ""

    def sync(self) -> None:
        """Have what was charged for ever survive the power; an OSError where it may not.

        To be called at least every 50 ms; does nothing where nothing was charged.
        """
        if self._is_unsynced:
            self._is_unsynced = False
            self.database.sync()

    def restore(self) -> None:
        """Count on in a new file, from what this worker has read of the old one."""
        now = self._timer()
        seen: dict[str, tuple[float, Row]] = {}
        for keys, (read_at, row) in self._seen.items():
            for number, key in enumerate(keys):
                at = number * statements.READ
                if _named(key)[0] != FLIGHT and row[at] is not None:
                    found = read_at, row[at : at + statements.READ - 1]
                    seen[key] = max(seen.get(key, found), found)
        restored = 0
        with self.database.lend() as connection:
            for key, (_, stand) in seen.items():
                kind, seconds, _ = _named(key)
                until = _until(kind, seconds, stand[0])
                if until > now:
                    restored += 1
                    connection.write(statements.RESTORE, (key, "", *stand, until))
        LOGGER.warning("%d counters were written anew, from memory", restored)

    def _debit(self, order: Order, *, waits: bool) -> Receipt:
        now, token = self._timer(), CHANCE.getrandbits(62) | 1
        lines = order.lines
        if not lines:
            return Receipt((), now)
        asked = self._asked(order, now, token)
        with self.database.lend(waits=waits) as connection:
            is_admitted = connection.write(statements.debit(len(lines)), asked) > 0
            if self._is_lasting:
                self._is_unsynced |= any(line.limit.kind == LIFETIME for line in lines)
            try:
                row = self._read(connection, asked)
            except sqlite3.Error:
                if not is_admitted:
                    raise
                # It is charged, which must be said.
                unread = (None,) * (len(lines) * statements.READ)
                _, row = self._seen.get(_keys(asked)) or (now, unread)
            if not is_admitted and _is_behind(order, row, now):
                connection.write(statements.begin(len(lines)), asked)
                row = self._read(connection, asked)
        return _receipt(order, row, now, is_admitted=is_admitted)

    def _asked(self, order: Order, now: float, token: int) -> list[Any]:
        asked: list[Any] = [now, token]
        for account, limit, cost in order.lines:
            key, holder, kind = self._counter(order.tag, account, limit)
            bucket, until = self._when(limit, now)
            asked += (key, holder, kind, limit.seconds, limit.amount, cost, bucket, until)
        return asked

    def _read(self, connection: Connection, asked: Sequence[Any]) -> Row:
        """Read where the counters of a debit stand."""
        row: Row = ()
        keys, kinds = _keys(asked), tuple(asked[4 :: statements.ASKED])
        for at in range(0, len(keys), _JOINED):
            some = slice(at, at + _JOINED)
            values = (asked[0], asked[1], *keys[some])
            row += connection.read(statements.reading(kinds[some]), values)[0]
        self._seen.put(keys, (asked[0], row))
        return row

    def _rounds(self, changes: Sequence[Change]) -> list[list[Sequence[Any]]]:
        """Write changes down, each round with one of a counter at most."""
        now = self._timer()
        rounds: list[dict[tuple[str, str], Sequence[Any]]] = []
        for change in changes:
            written = self._written(change, now)
            counter = (written[0], written[1])
            for one in rounds:
                if counter not in one and len(one) < _TOGETHER:
                    one[counter] = written
                    break
            else:
                rounds.append({counter: written})
        return [list(one.values()) for one in rounds]

    def _settle(self, rounds: Sequence[Sequence[Sequence[Any]]], *, waits: bool) -> None:
        with self.database.lend(waits=waits) as connection:
            for changes in rounds:
                if blank := [change for change in changes if change[4] > 0 or change[7]]:
                    connection.write(statements.blank(len(blank)), list(chain(*blank)))
                connection.write(statements.settle(len(changes)), list(chain(*changes)))
                self._is_unsynced |= self._is_lasting

    def _written(self, change: Change, now: float) -> Sequence[Any]:
        limit = change.limit
        bucket, until = self._when(limit, now)
        since, _ = self._when(limit, change.since)
        counter = self._counter(change.tag, change.account, limit)
        return (*counter, limit.amount, change.extra, bucket, since, change.is_grant, until)

    def _counter(self, tag: str, account: str, limit: Limit) -> tuple[str, str, int]:
        holder = self._holder if limit.kind == FLIGHT else ""
        return _key(tag, account, limit), holder, statements.KINDS[limit.kind]

    def _when(self, limit: Limit, now: float) -> tuple[int, float]:
        """Return the bucket of a moment, and until when a counter of it is worth keeping."""
        if limit.kind == FLIGHT:
            return 0, now + self._hold
        bucket = int(now // limit.seconds) if limit.kind == WINDOW else 0
        return bucket, _until(limit.kind, limit.seconds, bucket)


_PROBE = Order("", (Line("", Limit("", 1, 1), 0),))


@lru_cache(_REMEMBERED)
def _prefix(tag: str, account: str) -> str:
    """Return what the keys of an account begin with: no name of a caller stands in the file."""
    names = [name.encode("utf-8", "surrogatepass") for name in (tag, account)]
    digest = hashlib.blake2b(digest_size=16)
    for name in names:
        digest.update(b"%d:" % len(name) + name)
    return digest.hexdigest()


def _key(tag: str, account: str, limit: Limit) -> str:
    return _prefix(tag, account) + _suffix(limit.kind, limit.seconds, limit.field)


@lru_cache(4096)
def _suffix(kind: str, seconds: int, field: str) -> str:
    return f":{statements.KINDS[kind]}:{seconds}:{json.dumps(field)}"


def _named(key: str) -> tuple[str, int, str]:
    """Read what `_suffix` wrote: a kind, seconds and a field."""
    _, kind, seconds, field = key[_PREFIX:].split(":", 3)
    return _KINDS[int(kind)], int(seconds), json.loads(field)


def _until(kind: str, seconds: int, bucket: int) -> float:
    """Tell until when a window or a sum is worth keeping."""
    return float((bucket + 3) * seconds) if kind == WINDOW else _FOR_EVER


def _keys(asked: Sequence[Any]) -> tuple[str, ...]:
    return tuple(asked[2 :: statements.ASKED])


def _is_behind(order: Order, row: Row, now: float) -> bool:
    """Say whether a window has ended, and none has begun since."""
    return any(
        limit.kind == WINDOW and bucket is not None and bucket < now // limit.seconds
        for (_, limit, _), bucket in zip(order.lines, row[:: statements.READ], strict=True)
    )


def _receipt(order: Order, row: Row, now: float, *, is_admitted: bool) -> Receipt:
    readings, ended = [], []
    for number, (_, limit, cost) in enumerate(order.lines):
        at = number * statements.READ
        current, wanted = row[at + 1] or 0, 0 if is_admitted else cost
        if limit.kind == WINDOW:
            readings.append(looked(limit, row[at] or 0, current, row[at + 2] or 0, now, wanted))
            if row[at + 4]:
                ended.append((number, row[at + 4]))
        else:
            readings.append(left(limit, current, wanted))
    receipt = Receipt(tuple(readings), now, tuple(ended))
    if not is_admitted and receipt.is_admitted:  # what has changed since makes room for it
        readings[0] = readings[0]._replace(wait=_RACED)
        return receipt._replace(readings=tuple(readings))
    return receipt


@contextlib.contextmanager
def _in_plain_words(*, has_changed: bool = False) -> Iterator[None]:
    try:
        yield
    except DatabaseFailed as error:
        raise _unavailable(str(error), has_changed=has_changed) from None


def _unavailable(reason: str, *, has_changed: bool) -> StoreUnavailable:
    """Say that there was no debit, and whether the changes that came with it were made."""
    return ChangesUnmade(reason, ()) if has_changed else StoreUnavailable(reason)
