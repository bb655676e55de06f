"""What does a worker hold of its analyst?"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

from mlguard import forks
from mlguard.analyst.config import AnalystConfig
from mlguard.analyst.starter import Starter
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.folder import Folder
from mlguard.host.rows import Rows, write_row
from mlguard.host.verdicts import Said, Verdicts
from mlguard.logs import LOGGER, Seldom
from mlguard.metrics import Family, Numbers

MAX_QUEUED = 10_000  # rows
_TOGETHER = 2**20  # bytes of rows, beyond which a statement writes no more


class Analyst:
    """A worker's way to the one process beside the workers with its settings on this host.

    Fails open: without an analyst inference goes on, and drift checks pause. Any thread may offer
    rows or ask for the metrics; one looks after the rest.

    Args:
        config: What the analyst is told.
        folder: Where the workers meet.
        database: Their file.
        on_up: Told by each look whether rows are being judged.
        on_restart: Told that this worker starts an analyst in the place of another.
        on_drop: Told the model, version, reason and count of rows lost after `offer`.
        timer: The clock that all processes of a host share, in seconds.
    """

    def __init__(
        self,
        config: AnalystConfig,
        folder: Folder,
        database: Database,
        *,
        on_up: Callable[[bool], None] = lambda _: None,
        on_restart: Callable[[], None] = lambda: None,
        on_drop: Callable[[str, str, str, int], None] = lambda *_: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rows = Rows(database, config.digest)
        self._verdicts = Verdicts(database, config.digest, timer)
        self._starter = Starter(config, folder, self._verdicts, on_restart)
        self._on_up = on_up
        self._on_drop = on_drop
        self._timer = timer
        self._log = Seldom()
        self._queue: deque[tuple[str, str, str]] = deque()
        self._families: list[Family] = []
        self._was_up = False
        forks.watch(self)

    def before_fork(self) -> None:
        """Do nothing: the database does."""

    def after_fork(self, *, in_child: bool) -> None:
        """Have nothing of the parent's in a child: neither rows nor a process."""
        if in_child:
            self._queue = deque()
            self._starter.forked()

    def offer(self, model: str, version: str, values: object) -> bool:
        """Queue a row; False where it is lost, as too many wait."""
        if len(self._queue) >= MAX_QUEUED:
            return False
        written, trouble = write_row(model, version, values)
        if trouble:
            self._on_drop(model, version, trouble, 1)
        else:
            self._queue.append((model, version, written))
        return True

    def look_after(self) -> None:
        """Hand over what was offered, and see to it that an analyst runs.

        To be called about once a second, by one thread; it never waits for the analyst.
        """
        is_up = False
        try:
            self._hand_over()
            self._verdicts.attend()
            said = self._verdicts.read()
            self._starter.look(said, self._timer())
            is_up = said.is_up
        except DatabaseFailed as error:
            self._log.warning("file", "no rows reach the analyst: %s", error)
        if self._was_up and not is_up:
            LOGGER.warning("the analyst is away: drift checks pause, inference goes on")
        self._was_up = is_up
        self._on_up(is_up)

    def families(self) -> list[Family]:
        """Return what the analyst last wrote, and whether it is up."""
        said = Said()
        with suppress(DatabaseFailed):
            said = self._verdicts.read()
            self._families = said.families
        up = Numbers()
        up.set("mlguard_drift_worker_up", to=said.is_up)
        return [*self._families, *up.families()]

    def close(self) -> None:
        """Hand over the last rows; the analyst ends some seconds after its last worker."""
        with suppress(DatabaseFailed):
            self._hand_over()
            self._verdicts.leave()
        self._starter.leave()

    def _hand_over(self) -> None:
        while rows := self._next():
            try:
                kept = self._rows.put([written for _, _, written in rows])
            except DatabaseFailed:
                self._queue.extendleft(reversed(rows))
                raise
            for model, version, _ in rows[kept:]:
                self._on_drop(model, version, "busy", 1)

    def _next(self) -> list[tuple[str, str, str]]:
        rows, size = [], 0
        while self._queue and size < _TOGETHER:
            rows.append(self._queue.popleft())
            size += len(rows[-1][2])
        return rows
