"""What is one debit, and what its correction, in SQL? One statement each, in autocommit mode.

They do what `mlguard.ledger.counters` does: the same state machine of tests proves both. Numbers of
buckets come from Python, so that a moment falls into the same one everywhere.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import count

from mlguard.ledger import FLIGHT, LIFETIME, WINDOW
from mlguard.ledger.counters import MOST

KINDS = {WINDOW: 0, LIFETIME: 1, FLIGHT: 2}

_LINE = ("key", "holder", "kind", "seconds", "amount", "cost", "bucket", "until")
ASKED = len(_LINE)  # values of each line
_CHANGE = ("key", "holder", "kind", "amount", "extra", "bucket", "since", "is_grant", "until")


_DEBIT = f"""
WITH LINE,
counted AS MATERIALIZED (
    SELECT
        line.*,
        coalesce(counter.bucket < line.bucket, 0) AS begins,
        max(line.bucket, coalesce(counter.bucket, line.bucket)) AS at,
        CASE WHEN counter.bucket >= line.bucket THEN counter.current ELSE 0 END AS current,
        CASE
            WHEN counter.bucket >= line.bucket THEN counter.previous
            WHEN counter.bucket = line.bucket - 1 THEN counter.current
            ELSE 0
        END AS previous,
        max(0, coalesce(counter.current, 0)) AS last,
        coalesce(counter.amount, line.amount) AS last_amount
    FROM line LEFT JOIN counter ON counter.key = line.key AND counter.holder = line.holder
),
beyond AS (
    SELECT 1 FROM counted WHERE amount < cost + CASE kind
        WHEN {KINDS[WINDOW]} THEN current + previous
            * CASE WHEN at > bucket THEN 1.0 ELSE 1 - (?1 - at * seconds) / seconds END
        WHEN {KINDS[LIFETIME]} THEN current
        ELSE current + (
            SELECT coalesce(sum(other.current), 0) FROM counter AS other
            WHERE other.key = counted.key AND other.holder <> counted.holder
                AND other.until > ?1
        )
    END
)
INSERT INTO counter
    (key, holder, bucket, current, previous, amount, token, last, last_amount, until)
SELECT
    key, holder, at, min(current + cost, {MOST}), previous,
    CASE WHEN begins OR kind = {KINDS[LIFETIME]} THEN amount ELSE last_amount END,
    CASE WHEN begins THEN ?2 ELSE 0 END, last, last_amount, until
FROM counted WHERE NOT EXISTS (SELECT 1 FROM beyond)
ON CONFLICT (key, holder) DO UPDATE SET
    last = CASE WHEN excluded.token THEN excluded.last ELSE last END,
    last_amount = CASE WHEN excluded.token THEN excluded.last_amount ELSE last_amount END,
    token = CASE WHEN excluded.token THEN excluded.token ELSE token END,
    bucket = excluded.bucket,
    current = excluded.current,
    previous = excluded.previous,
    amount = excluded.amount,
    until = excluded.until
"""

_BEGIN = """
WITH LINE
UPDATE counter SET
    token = ?2,
    last = max(0, counter.current),
    last_amount = counter.amount,
    previous = CASE counter.bucket WHEN line.bucket - 1 THEN counter.current ELSE 0 END,
    current = 0,
    bucket = line.bucket,
    amount = line.amount,
    until = line.until
FROM line
WHERE counter.key = line.key AND counter.holder = line.holder AND counter.bucket < line.bucket
"""

_BLANK = """
WITH CHANGE
INSERT OR IGNORE INTO counter
SELECT key, holder, bucket, 0, 0, amount, 0, 0, amount, until FROM change
"""

_SETTLE = f"""
WITH CHANGE,
begun AS MATERIALIZED (
    SELECT
        change.*,
        change.kind = {KINDS[WINDOW]} AND (change.extra > 0 OR change.is_grant)
            AND change.bucket > counter.bucket AS begins,
        counter.bucket AS was_at, counter.current AS was, counter.previous AS was_before
    FROM change JOIN counter ON counter.key = change.key AND counter.holder = change.holder
),
counted AS MATERIALIZED (
    SELECT
        begun.*,
        CASE WHEN begins THEN bucket ELSE was_at END AS at,
        CASE WHEN begins THEN 0 ELSE was END AS current,
        CASE
            WHEN NOT begins THEN was_before
            WHEN was_at = bucket - 1 THEN was
            ELSE 0
        END AS previous,
        CASE kind WHEN {KINDS[WINDOW]} THEN 2 * amount ELSE {MOST} END AS most
    FROM begun
)
UPDATE counter SET
    token = CASE WHEN counted.begins THEN 0 ELSE counter.token END,
    bucket = counted.at,
    current = CASE
        WHEN counted.kind = {KINDS[FLIGHT]} AND counted.is_grant
            THEN max(0, min(counted.extra, {MOST}))
        WHEN counted.kind = {KINDS[FLIGHT]} THEN max(0, counted.current + counted.extra)
        WHEN counted.is_grant
            THEN max(-{MOST}, min(counted.current + counted.extra, {MOST}))
        WHEN counted.extra > 0
            THEN max(counted.current, min(counted.current + counted.extra, counted.most))
        WHEN counted.at <= counted.since
            THEN max(min(0, counted.current), counted.current + counted.extra)
        ELSE counted.current
    END,
    previous = CASE
        WHEN NOT counted.is_grant AND counted.extra <= 0 AND counted.at = counted.since + 1
            THEN max(min(0, counted.previous), counted.previous + counted.extra)
        ELSE counted.previous
    END,
    amount = CASE
        WHEN counted.begins OR counted.kind = {KINDS[LIFETIME]} THEN counted.amount
        ELSE counter.amount
    END,
    until = CASE
        WHEN counted.begins OR counted.kind = {KINDS[FLIGHT]} THEN counted.until
        ELSE counter.until
    END
FROM counted WHERE counter.key = counted.key AND counter.holder = counted.holder
"""


@lru_cache(64)
def debit(lines: int) -> str:
    """Charge every line, or none: the time, a token of this debit's own, and each line's values."""
    return _DEBIT.replace("LINE", _table("line", _LINE, lines, 2))


@lru_cache(64)
def begin(lines: int) -> str:
    """Begin the windows of a refused debit for which it is time; takes what `debit` takes."""
    return _BEGIN.replace("LINE", _table("line", _LINE, lines, 2))


@lru_cache(64)
def blank(changes: int) -> str:
    """Make the counters that debts and grants are written to: each change's values."""
    return _BLANK.replace("CHANGE", _table("change", _CHANGE, changes, 0))


@lru_cache(64)
def settle(changes: int) -> str:
    """Correct counters, each once: each change's values."""
    return _SETTLE.replace("CHANGE", _table("change", _CHANGE, changes, 0))


def _table(name: str, columns: Sequence[str], rows: int, before: int) -> str:
    """Return a table of values, which stand behind so many others."""
    numbers = count(before + 1)
    values = [f"({','.join(f'?{next(numbers)}' for _ in columns)})" for _ in range(rows)]
    return f"{name} ({','.join(columns)}) AS MATERIALIZED (VALUES {','.join(values)})"


READ = 5  # columns of each line


@lru_cache(256)
def reading(kinds: tuple[int, ...]) -> str:
    """Read the counters of a debit's lines in one row, by their kinds: at most 60, as SQLite joins.

    Takes the time, the debit's token and the keys. Of each line come its bucket, what is used of
    that and of the one before, its limit, and what share of it the last window had used where this
    debit began another; of what is in flight, what all hold together.

    Each further row would have the thread wait for the interpreter once more.
    """
    columns, joins = [], []
    for number, kind in enumerate(kinds):
        key, name = f"?{number + 3}", f"c{number}"
        if kind == KINDS[FLIGHT]:
            columns.append(
                f"0, (SELECT coalesce(sum(current), 0) FROM counter WHERE key = {key}"
                " AND until > ?1), 0, 0, NULL"
            )
            continue
        joins.append(f"LEFT JOIN counter AS {name} ON {name}.key = {key} AND {name}.holder = ''")
        columns.append(
            f"{name}.bucket, {name}.current, {name}.previous, {name}.amount,"
            f" CASE {name}.token WHEN ?2 THEN 1.0 * {name}.last / {name}.last_amount END"
        )
    return f"SELECT {','.join(columns)} FROM (SELECT 1) {' '.join(joins)}"


ALL_OF = """
SELECT key, bucket, current, previous, amount, until
FROM counter WHERE key >= ? AND key < ?
"""
FORGET = """
DELETE FROM counter WHERE key >= ? AND key < ? AND holder = ''
    AND (until < 1e17 OR ?)
"""
DROP = "DELETE FROM counter WHERE holder = ? AND holder <> ''"
HOLDERS = "SELECT DISTINCT holder FROM counter WHERE holder <> ''"
NEXT = "SELECT key FROM counter WHERE key > ? ORDER BY key LIMIT 1 OFFSET ?"
SWEEP = "DELETE FROM counter WHERE key > ? AND key <= ? AND until < ?"
RESTORE = """
INSERT INTO counter VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0, 0, ?6, ?7)
ON CONFLICT (key, holder) DO UPDATE SET
    current = max(current, excluded.current),
    previous = max(previous, excluded.previous)
WHERE bucket = excluded.bucket
"""
"""Lets a counter stand where several remember it, at least as high as anybody does."""

BOOT = "UPDATE said SET value = ?1 WHERE name = 'boot' AND value <> ?1"
