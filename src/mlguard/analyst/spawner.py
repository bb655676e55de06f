"""Who starts the process beside the workers, and when again?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from threading import Thread
from typing import IO, cast

from mlguard.analyst.config import CompanionConfig
from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.logs import LOGGER

FIRST_PAUSE = 0.2  # seconds
LONGEST_PAUSE = 5.0
_STABLE = 5.0  # seconds after which a companion that dies did not die of starting

# What spoils the companion: numbers kept in files, and warnings that make evidently unimportable.
_NOT_INHERITED = {"PROMETHEUS_MULTIPROC_DIR", "PYTHONWARNINGS"}


class Spawner:
    """Starts a companion where there is none: one worker at a time, later after each failure.

    Args:
        folder: Where the workers meet.
        config: What it is told.
        supervisor: Whose workers they are.
        module: What is run, where it is not the companion but another process of its kind.
        lock: Held by the worker whose turn it is.
        more: What else it is told.
    """

    def __init__(
        self,
        folder: Folder,
        config: CompanionConfig,
        supervisor: Process,
        *,
        module: str = "mlguard.analyst",
        lock: str = "spawn",
        more: Mapping[str, object] | None = None,
    ) -> None:
        self._folder = folder
        self._module = module
        self._lock = lock
        self._order = json.dumps(
            {
                "folder": str(folder.path),
                "supervisor": asdict(supervisor),
                "config": config.to_json(),
                **(more or {}),
            }
        ).encode()
        self._service = config.service
        self._not_inherited = _NOT_INHERITED | {name.upper() for name in config.secrets}
        self._child: subprocess.Popen[bytes] | None = None
        self._turn = ExitStack()
        self._pause = FIRST_PAUSE
        self._not_before = 0.0
        self._arrived = 0.0

    def ensure(self) -> None:
        """Start a companion, unless one is on its way or the last try was a moment ago."""
        self.reap()
        now = time.monotonic()
        if self._child is not None or now < self._not_before:
            return
        with ExitStack() as turn:
            if not turn.enter_context(self._folder.lock(self._lock)):
                return
            self._turn = turn.pop_all()
        if self._arrived and now - self._arrived > _STABLE:
            self._pause = FIRST_PAUSE
        self._not_before = now + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
        try:
            self._child = self._spawn()
        except OSError as error:
            LOGGER.warning("%s cannot be started: %s", self._module, error)
            self._turn.close()

    def arrived(self) -> None:
        """Say that a companion answers: the next worker may start one when it dies."""
        self._arrived = time.monotonic()
        self._turn.close()

    def reap(self) -> None:
        """Take note of a companion that ended, so that it leaves no zombie."""
        if self._child is not None and self._child.poll() is not None:
            self._child = None
            self._turn.close()

    def leave(self) -> None:
        """Let the companion live on without this worker."""
        self.reap()
        self._turn.close()
        if self._child is not None:
            Thread(target=self._child.wait, name="mlguard-reaper", daemon=True).start()
            self._child = None

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if k.upper() not in self._not_inherited}
        environment["DO_NOT_TRACK"] = "1"
        environment.setdefault("OMP_NUM_THREADS", "1")
        child = subprocess.Popen(  # noqa: S603 - ourselves
            # -P: a file in the working folder must not pass for a module. The name is for `ps`.
            [_python(), "-P", "-m", self._module, self._service],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        # One that ended at once does not read its order: `reap` will see.
        with suppress(BrokenPipeError), cast("IO[bytes]", child.stdin) as stdin:
            stdin.write(self._order)
        return child


def _python() -> str:
    """Return the interpreter; where a server embeds it, sys.executable is that server."""
    if "python" in Path(sys.executable or "").name.lower():
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")
