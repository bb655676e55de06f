"""Who starts the analyst's process, and when again?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread

from mlguard.analyst.config import AnalystConfig
from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.host.verdicts import LATE, Said, Verdicts
from mlguard.logs import LOGGER

HUNG = 60.0  # seconds
# What spoils the analyst: numbers kept in files, and warnings that make evidently unimportable.
_NOT_INHERITED = {"PROMETHEUS_MULTIPROC_DIR", "PYTHONWARNINGS"}


class Starter:
    """Starts the analyst where there is none, one worker at a time, and ends one that hangs.

    Args:
        config: What it is told.
        folder: Where the workers meet.
        verdicts: Says whose turn it is.
        on_restart: Told that one is started in the place of another.
    """

    def __init__(
        self,
        config: AnalystConfig,
        folder: Folder,
        verdicts: Verdicts,
        on_restart: Callable[[], None],
    ) -> None:
        self._folder = folder
        self._verdicts = verdicts
        self._on_restart = on_restart
        self._service = config.service
        self._order = json.dumps({"config": config.to_json(), "folder": str(folder.path)}).encode()
        self._not_inherited = _NOT_INHERITED | {name.upper() for name in config.secrets}
        self._child: subprocess.Popen[bytes] | None = None
        self.forked()

    def forked(self) -> None:
        """Be in a process that has started nothing."""
        if self._child is not None:
            self._child.returncode = 0  # it is the parent's, who waits for it
        self._child = None
        self._had_one = False
        self._looked = self._hangs_since = 0.0

    def look(self, said: Said, now: float) -> None:
        """See to it that one runs; to be called about once a second.

        Args:
            said: What stands in the file.
            now: By the clock that all processes of a host share.

        Raises:
            DatabaseFailed: The file cannot be read or written to.
        """
        self._reap()
        if said.is_there:
            self._had_one = True
            self._end_if_hung(said, now)
        elif self._child is None and self._verdicts.claim(said.process):
            if self._had_one:
                self._on_restart()
            try:
                self._child = self._spawn()
            except OSError as error:
                LOGGER.warning("the analyst cannot be started: %s", error)
        self._looked = now

    def leave(self) -> None:
        """Let the analyst live on without this worker."""
        self._reap()
        if self._child is not None:
            Thread(target=self._child.wait, name="mlguard-reaper", daemon=True).start()
            self._child = None

    def _reap(self) -> None:
        """Take note of one that ended, so that it leaves no zombie."""
        if self._child is not None and self._child.poll() is not None:
            # One that finds another at work leaves at once, and was none.
            self._had_one |= self._child.returncode != 0
            self._child = None

    def _end_if_hung(self, said: Said, now: float) -> None:
        # Where this process was stopped itself, the analyst may have been too.
        was_away = now - self._looked > LATE
        if was_away or not said.is_late or not self._verdicts.has_rows():
            self._hangs_since = now
        elif now - self._hangs_since > HUNG and (process := Process.read(said.process)).runs():
            LOGGER.warning("the analyst hangs: it is killed, and another is started")
            with suppress(OSError):
                os.kill(process.pid, signal.SIGKILL)

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k.upper() not in self._not_inherited}
        environment["DO_NOT_TRACK"] = "1"
        environment.setdefault("OMP_NUM_THREADS", "1")
        # Not a pipe: writing more than it holds would wait for the analyst.
        with tempfile.TemporaryFile(dir=self._folder.path) as order:
            order.write(self._order)
            order.seek(0)
            return subprocess.Popen(  # noqa: S603 - ourselves
                # -P: a file in the working folder must not pass for a module. The name is for `ps`.
                [_python(), "-P", "-m", "mlguard.analyst", self._service],
                env=environment,
                stdin=order,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )


def _python() -> str:
    """Return the interpreter; where a server embeds it, sys.executable is that server."""
    if "python" in Path(sys.executable or "").name.lower():
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")
