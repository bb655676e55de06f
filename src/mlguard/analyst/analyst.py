"""What does a worker hold of its analyst?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Thread

from mlguard import forks
from mlguard.analyst.config import AnalystConfig
from mlguard.analyst.queue import Drop, QueuedRow, RowQueue
from mlguard.analyst.starting import start
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.processes import Process
from mlguard.host.sampled_rows import SampledRows
from mlguard.host.verdicts import LATE, Said, Verdicts
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.metrics import Family, Numbers

HUNG = 60.0  # seconds without a sign of life, while rows wait


class Analyst:
    """A worker's way to the one process beside the workers with its settings on this host.

    Fails open: without an analyst inference goes on, and drift checks pause. Any thread may offer
    rows or ask for the metrics; one looks after the rest.

    Args:
        config: What the analyst is told.
        database: The workers' file.
        on_up: Told by each look whether rows are being judged.
        on_restart: Told that this worker starts an analyst in the place of another.
        on_drop: Told of rows that are lost after `offer`.
        timer: The clock that all processes of a host share, in seconds.
    """

    def __init__(
        self,
        config: AnalystConfig,
        database: Database,
        *,
        on_up: Callable[[bool], None] = lambda _: None,
        on_restart: Callable[[], None] = lambda: None,
        on_drop: Drop = lambda *_: None,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config = config
        self._database = database
        self._rows = SampledRows(database, config.digest)
        self._verdicts = Verdicts(database, config.digest, timer)
        self._on_up = on_up
        self._on_restart = on_restart
        self._queue = RowQueue(on_drop)
        self._timer = timer
        self._log = RateLimitedLog()
        self._families: list[Family] = []
        self._begin()
        forks.watch(self)

    def _begin(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._was_there = self._was_up = False
        self._looked = self._hangs_since = 0.0

    def before_fork(self) -> None:
        """Do nothing: the database does."""

    def after_fork(self, *, in_child: bool) -> None:
        """Have nothing of the parent's in a child: neither rows nor a process."""
        if in_child:
            if self._child is not None:
                self._child.returncode = 0  # the parent waits for it
            self._queue.forget()
            self._begin()

    def offer(self, model: str, version: str, values: object, said: object = None) -> bool:
        """Queue a row, and what was said of it; False where it is lost, as too many wait."""
        return self._queue.offer(model, version, values, said)

    def look_after(self) -> None:
        """Hand over what was offered, and see to it that an analyst runs.

        To be called about once a second, by one thread; it never waits for the analyst.
        """
        is_up = False
        try:
            said = self._verdicts.read()
            is_up = said.is_up
            self._keep_running(said)  # first: the analyst may be who holds the file
            self._verdicts.attend()
            self._queue.hand_on(self._put)
        except DatabaseFailed as error:
            is_up = is_up and error.is_busy
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
            self._families = json.loads(said.families)
        up = Numbers()
        up.set("mlguard_drift_worker_up", to=said.is_up)
        return [*self._families, *up.families()]

    def close(self) -> None:
        """Hand over the last rows; the analyst ends some seconds after its last worker."""
        with suppress(DatabaseFailed):
            self._queue.hand_on(self._put)
            self._verdicts.leave()
        self._reap()
        if self._child is not None:
            Thread(target=self._child.wait, name="mlguard-reaper", daemon=True).start()
            self._child = None

    def _put(self, rows: Sequence[QueuedRow]) -> Sequence[QueuedRow]:
        return rows[self._rows.put([row.written for row in rows]) :]

    def _keep_running(self, said: Said) -> None:
        self._reap()
        if said.is_there:
            self._was_there = True
            self._end_if_hung(said)
        elif self._child is None and self._verdicts.claim(said.process):
            self._start(self._database.path)
        self._looked = self._timer()

    def _start(self, path: Path | None) -> None:
        if path is None:  # nobody has said yet where the file is
            return
        if self._was_there:
            self._on_restart()
        try:
            self._child = start(self._config, path)
        except OSError as error:
            LOGGER.warning("the analyst cannot be started: %s", error)

    def _reap(self) -> None:
        """Take note of one that ended, so that it leaves no zombie."""
        if self._child is not None and self._child.poll() is not None:
            # One that finds another at work leaves at once, and was none.
            self._was_there |= self._child.returncode != 0
            self._child = None

    def _end_if_hung(self, said: Said) -> None:
        now = self._timer()
        # Where this process was stopped itself, the analyst may have been too.
        was_away = now - self._looked > LATE
        are_waiting = self._queue or self._verdicts.has_rows()
        if was_away or not said.is_late or not are_waiting:
            self._hangs_since = now
        elif now - self._hangs_since > HUNG and (process := Process.read(said.process)).runs():
            LOGGER.warning("the analyst hangs: it is killed, and another is started")
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)
