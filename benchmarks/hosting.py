"""How does a real server run, on a core of its own where there is one?"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from benchmarks.callers import resident
from benchmarks.served import VARIABLE
from benchmarks.service import BODY
from benchmarks.turns import Unfit, say

ROOT = Path(__file__).resolve().parents[1]
READY_WITHIN = 60  # seconds
THREADS = 8
UVICORN = "uvicorn", "--factory", "benchmarks.served:fastapi", "--no-access-log"
GUNICORN = "gunicorn", "benchmarks.served:flask()", "--worker-class", "gthread"
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "uvicorn": (*UVICORN, "--log-level", "warning", "--port"),
    "gunicorn gthread": (
        *GUNICORN,
        *("--threads", str(THREADS), "--keep-alive", "75", "--log-level", "warning", "--bind"),
    ),
}


def cores() -> tuple[int | None, int | None]:
    """Choose a core for the server, and one for who loads it; None where there is only one."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    usable = sorted(os.sched_getaffinity(0))
    return (usable[0], usable[-1]) if len(usable) > 1 else (None, None)


class Served:
    """Runs a real server while it is entered.

    Args:
        server: One of `COMMANDS`.
        told: What `served` reads.
        workers: How many it has.
    """

    def __init__(self, server: str, told: Mapping[str, Any], workers: int = 1) -> None:
        self._server, self._told, self._number = server, told, workers
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])

    def __enter__(self) -> Self:
        address = str(self.port) if self._server == "uvicorn" else f"127.0.0.1:{self.port}"
        command = [sys.executable, "-m", *COMMANDS[self._server], address]
        command += ["--workers", str(self._number)]
        self._log = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, VARIABLE: json.dumps(self._told)},
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._log.close()

    def wait(self, token: str) -> None:
        """Wait until it answers.

        Raises:
            Unfit: It does not, or its process has ended.
        """
        deadline = time.monotonic() + READY_WITHIN
        while (status := self.status(token)) != 200:
            if time.monotonic() > deadline or self._process.poll() is not None:
                self._log.seek(0)
                log = self._log.read()[-3000:].decode(errors="replace")
                raise Unfit(f"{self._server} answers {status}; its log: {log}")
            time.sleep(0.1)

    def status(self, token: str) -> int:
        """Ask it once; 0 where nobody answers."""
        headers = {"Authorization": token, "Content-Type": "application/json"}
        url = f"http://127.0.0.1:{self.port}/predict"
        try:
            with urllib.request.urlopen(urllib.request.Request(url, BODY, headers)) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code
        except OSError:
            return 0

    def metrics(self) -> str:
        """Read its metrics; empty while it has none to show."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics") as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def wait_for_drift(self) -> None:
        """Wait until drift is being checked: starting must not share the machine with measuring."""
        deadline = time.monotonic() + READY_WITHIN
        # At the beginning of a line: what explains it begins with a 1 too.
        while "\nmlguard_drift_worker_up 1" not in self.metrics():
            if time.monotonic() > deadline:
                say("  drift is not being checked")
                return
            time.sleep(0.5)

    def resident(self) -> int:
        """Return the resident bytes of the worker."""
        return resident(self._worker())

    def workers(self) -> list[int]:
        """Find the processes that answer, where there are several."""
        commands = {
            p: Path(f"/proc/{p}/cmdline").read_bytes() for p in _children(self._process.pid)
        }
        return [pid for pid, command in commands.items() if b"resource_tracker" not in command]

    def loads(self, package: str) -> bool:
        """Say whether the worker has libraries of a package in its memory."""
        return f"/{package}/" in Path(f"/proc/{self._worker()}/maps").read_text()

    def pin(self, server: int | None, others: int | None) -> None:
        """Give the worker one core, and what stands beside it the other."""
        if server is None or others is None:
            return
        worker = self._worker()
        for pid in _family(self._process.pid):
            core = server if pid in (worker, self._process.pid) else others
            for task in _tasks(pid):
                with contextlib.suppress(OSError):
                    os.sched_setaffinity(task, {core})

    def _worker(self) -> int:
        """Find the process that answers: gunicorn's first child, uvicorn itself."""
        if self._server == "uvicorn":
            return self._process.pid
        return min(_children(self._process.pid), default=self._process.pid)


def _family(pid: int) -> Iterable[int]:
    yield pid
    for child in _children(pid):
        yield from _family(child)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{pid}/task/{task}/children").read_text()
            found += map(int, text.split())
    return found


def _tasks(pid: int) -> list[int]:
    try:
        return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return []
