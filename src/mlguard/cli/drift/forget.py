"""What is kept of rows, and how does it go? `mlguard drift forget`."""

from __future__ import annotations

import argparse
from contextlib import closing
from typing import TYPE_CHECKING, Any

from mlguard.cli.terminal import say
from mlguard.cli.token.options import add_settings
from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.folder import Folder
from mlguard.host.sampled_rows import FORGET
from mlguard.ledger import StoreUnavailable
from mlguard.settings import Settings, load

if TYPE_CHECKING:
    from mlguard.analyst.config import AnalystConfig

_PATIENCE = 2.0  # seconds: an operator waits longer than a request


def add(actions: Any) -> None:
    """Add the action to a parser."""
    forget = actions.add_parser(
        "forget",
        help="delete the rows that wait to be judged, the reports and what they remember",
        description="Rows of a window that is being filled are in the memory of whoever judges "
        "them, and go with its verdict, after drift.max_age, or when it ends.",
    )
    add_settings(forget)
    forget.set_defaults(run=_forget)


def _forget(options: argparse.Namespace) -> None:
    from mlguard.analyst.config import AnalystConfig

    settings = load(options.settings, named=())
    if settings.drift is None:
        raise InvalidSettings("drift is checked of no model", source=settings.source)
    config = AnalystConfig.of(settings)
    try:
        rows = _rows_here(settings)
        if settings.drift.store:
            rows += _rows_over_hosts(settings.drift.store, config)
        files = _files(config)
    except (DatabaseFailed, StoreUnavailable, OSError) as error:
        raise MLGuardError(f"not all is forgotten: {error}") from error
    say(f"{rows} rows and {files} files are gone")


def _rows_here(settings: Settings) -> int:
    rows = 0
    for folder in Folder.used(settings.meeting, settings.folder):
        with closing(Database(folder.database, wait=_PATIENCE)) as database:
            rows += database.write(FORGET)
    return rows


def _rows_over_hosts(store: str, config: AnalystConfig) -> int:
    from mlguard.redis.rows import RowStreams

    with closing(RowStreams(store, config.service)) as streams:
        return sum(streams.forget(model.name, model.version) for model in config.models)


def _files(config: AnalystConfig) -> int:
    """Delete the reports, and what they remember of earlier windows."""
    reports = [path for model in config.models if (path := config.report_of(model))]
    files = [file for path in reports for file in (path, path.with_suffix(".history"))]
    there = [file for file in files if file.exists()]
    for file in there:
        file.unlink()
    return len(there)
