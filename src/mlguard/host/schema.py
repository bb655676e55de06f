"""What stands in the file? Tables of counters, revocations and workers."""

NUMBER = 2
"""Of this schema; a file with another number has another name."""

SCHEMA = f"""\
-- What is counted. Of a window: its bucket, what is used of that and of the one before, and what
-- was used of its limit in the last window, which is told to the debit that began this one, by its
-- token. Of a sum: `current`. Of what is in flight: `current` units of one holder. Past its time,
-- by the clock that all processes of a host share, a counter is nothing.
CREATE TABLE IF NOT EXISTS counter (
    key TEXT NOT NULL,
    holder TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    current INTEGER NOT NULL,
    previous INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    token INTEGER NOT NULL,
    last INTEGER NOT NULL,
    last_amount INTEGER NOT NULL,
    until REAL NOT NULL,
    PRIMARY KEY (key, holder)
) WITHOUT ROWID;

-- What is said once: since which start of the machine the clock runs.
CREATE TABLE IF NOT EXISTS said (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT OR IGNORE INTO said VALUES ('boot', '');
CREATE TRIGGER IF NOT EXISTS began AFTER UPDATE ON said WHEN new.name = 'boot'
BEGIN
    DELETE FROM counter WHERE until < 1e17;
    DELETE FROM instance;
    DELETE FROM lease;
END;

-- Sampled rows on their way to the analyst of the workers with these settings: model, version and
-- values as JSON. An id is never given again.
CREATE TABLE IF NOT EXISTS sampled (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    digest TEXT NOT NULL,
    size INTEGER NOT NULL,
    row TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS sampled_of ON sampled (digest, id, size);

-- What the analyst of these settings said last, by the clock that all processes of a host share;
-- before when nobody may start another, and for how long that will be the next time.
CREATE TABLE IF NOT EXISTS analyst (
    digest TEXT PRIMARY KEY,
    process TEXT NOT NULL,
    beat REAL NOT NULL,
    is_ready INTEGER NOT NULL,
    not_before REAL NOT NULL,
    pause REAL NOT NULL,
    families TEXT NOT NULL
);

-- The workers that it is there for.
CREATE TABLE IF NOT EXISTS analysed (
    digest TEXT NOT NULL,
    process TEXT NOT NULL,
    beat REAL NOT NULL,
    PRIMARY KEY (digest, process)
) WITHOUT ROWID;

-- What is revoked, as JSON; NULL is for ever. Whatever says something new has a new, larger id.
CREATE TABLE IF NOT EXISTS revocation (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE,
    issued REAL NOT NULL,
    until REAL
);

-- What is kept of calls until their labels come: which version said what of each row, and the
-- truths, as JSON. An id begins with the call's time; `labelled` is when the truths came.
CREATE TABLE IF NOT EXISTS call (
    id TEXT PRIMARY KEY,
    model TEXT NOT NULL,
    size INTEGER NOT NULL,
    told TEXT NOT NULL,
    truths TEXT,
    labelled REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS call_size ON call (id, size);
CREATE INDEX IF NOT EXISTS call_labelled ON call (model, labelled) WHERE labelled IS NOT NULL;

-- The workers of one supervisor: who asked them last, by the clock, and what those that are gone
-- have counted. Who adds some of them up says which, in the same statement, and of which version.
CREATE TABLE IF NOT EXISTS instance (
    name TEXT PRIMARY KEY,
    asked INTEGER NOT NULL,
    seen REAL NOT NULL,
    version INTEGER NOT NULL,
    departed TEXT NOT NULL,
    gone TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS worker (
    name TEXT PRIMARY KEY,
    instance TEXT NOT NULL,
    answered INTEGER NOT NULL,
    families TEXT NOT NULL
);
CREATE TRIGGER IF NOT EXISTS departed AFTER UPDATE OF departed ON instance
BEGIN
    DELETE FROM worker WHERE name IN (SELECT value FROM json_each(new.gone));
END;
CREATE TRIGGER IF NOT EXISTS ended AFTER DELETE ON instance
BEGIN
    DELETE FROM worker WHERE instance = old.name;
END;

-- What one worker does for all, until when it may.
CREATE TABLE IF NOT EXISTS lease (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    until REAL NOT NULL
) WITHOUT ROWID;

PRAGMA user_version={NUMBER};
"""
