"""How do labels that somebody has in a file reach their calls? `mlguard feedback import`."""

from __future__ import annotations

import argparse
import csv
import json
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mlguard.app.feedback import kept_in_redis
from mlguard.cli.groups import group
from mlguard.cli.terminal import lasting, say
from mlguard.cli.token.options import add_settings
from mlguard.errors import InvalidSettings, MissingExtra, MLGuardError
from mlguard.guard import tasks_of
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.folder import Folder
from mlguard.host.kept_calls import HostCalls
from mlguard.ledger import StoreUnavailable
from mlguard.performance import CallStore
from mlguard.performance.labels import LABELLED, UNKNOWN, Label, join, label_of
from mlguard.settings import FeedbackSettings, Settings, load

_PATIENCE = 2.0  # seconds: an operator waits longer than a request
_TOGETHER = 1000
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][-+]?\d+)?")


def add(commands: Any) -> None:
    """Add the command to a parser."""
    actions = group(commands, "feedback", "the truths of what was predicted")
    reads = actions.add_parser(
        "import",
        help="join labels with the calls that they are about",
        description="Write them where the service keeps its calls, whether or not it runs: into "
        "its file on this host, as its user, or into the Redis that it counts in, its password in "
        "MLGUARD_QUOTAS__STORE.",
    )
    reads.add_argument(
        "file",
        type=Path,
        help="a .csv with the columns call_id and truth, one line a row; else JSON lines like "
        '{"call_id": "...", "truths": [1, 0]}',
    )
    add_settings(reads)
    reads.set_defaults(run=_import)


def _import(options: argparse.Namespace) -> None:
    settings = load(options.settings, named=())
    feedback = settings.feedback
    if feedback is None:
        raise InvalidSettings("labels need the table [feedback]", source=settings.source)
    labels = list(_labels(options.file))
    counts: Counter[str] = Counter()
    with ExitStack() as stack, lasting("joining labels with their calls"):
        try:
            for result, number in _joined(settings, feedback, labels, stack):
                counts[result] += number
        except (DatabaseFailed, StoreUnavailable, MissingExtra) as error:
            raise MLGuardError(f"calls cannot be read or labelled: {error}") from error
    say(f"{counts[LABELLED]} of {counts.total()} labels joined with their calls")
    for result, number in sorted(counts.items()):
        if result != LABELLED:
            say(f"{result}: {number}")
    if not counts[LABELLED]:
        raise MLGuardError(f"no label of {options.file} belongs to a call that waits for it")


def _joined(
    settings: Settings, feedback: FeedbackSettings, labels: Sequence[Label], stack: ExitStack
) -> Iterator[tuple[str, int]]:
    """Join labels wherever the service keeps calls; tell what became of how many."""
    stores = list(_stores(settings, feedback, stack))
    tasks, retention = tasks_of(settings), float(feedback.retention)
    for start in range(0, len(labels), _TOGETHER):
        some: Sequence[Label] = labels[start : start + _TOGETHER]
        for number, store in enumerate(stores, 1):
            found = list(join(store, tasks, some, now=time.time(), retention=retention))
            some = [each.label for each in found if each.result == UNKNOWN]
            is_last = number == len(stores)
            for label, result, _, _ in found:
                if is_last or result != UNKNOWN:
                    yield result, len(label.truths)


def _stores(
    settings: Settings, feedback: FeedbackSettings, stack: ExitStack
) -> Iterator[CallStore]:
    """Open where the service keeps calls; on a host there may be several such places."""
    service = settings.service.name
    if settings.quotas is not None and settings.shares_redis:
        store = kept_in_redis(service, feedback, settings.quotas)
        stack.callback(store.close)
        yield store
        return
    folders = Folder.used(settings.meeting, settings.folder)
    if not folders:
        raise MLGuardError(
            f"no call of a service named {service!r} was ever kept on this host as this user: "
            "import as the user who runs it, on its host"
        )
    for folder in folders:
        database = Database(folder.database, wait=_PATIENCE)
        stack.callback(database.close)
        yield HostCalls(database, most=feedback.max_calls, retention=float(feedback.retention))


def _labels(path: Path) -> Iterator[Label]:
    """Read a file of labels.

    Raises:
        InvalidSettings: Names the line that is none.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            yield from _of_table(lines) if path.suffix == ".csv" else _of_lines(lines)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSettings(f"cannot be read as labels: {error}", source=str(path)) from error


def _of_table(lines: Iterable[str]) -> Iterator[Label]:
    """Read one truth a line; those of one call stand in the order of its rows."""
    rows = csv.DictReader(lines)
    if not {"call_id", "truth"} <= set(rows.fieldnames or ()):
        raise ValueError("it has no columns call_id and truth")
    truths: dict[str, list[Any]] = {}
    for row in rows:
        truths.setdefault(row["call_id"] or "", []).append(_value(row["truth"] or ""))
    return (label_of(call_id, each) for call_id, each in truths.items())


def _of_lines(lines: Iterable[str]) -> Iterator[Label]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield _of_line(number, line)


def _of_line(number: int, line: str) -> Label:
    try:
        document = json.loads(line)
        return label_of(document["call_id"], document.get("truths", document.get("truth")))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        text = f'line {number} is not like {{"call_id": "...", "truths": [1, 0]}}'
        raise ValueError(text) from None


def _value(text: str) -> object:
    """Read a cell: nothing, a number, or a class."""
    if not text.strip():
        return None
    return float(text) if _NUMBER.fullmatch(text.strip()) else text
