"""How are the two services started, and how do they surely stop?"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parents[2]
WORKERS = 2
PATIENCE = 60.0  # seconds until a service must answer
GRACE = 10.0  # seconds until one that should stop is killed
LOG_LINES = 25


class ServiceFailed(Exception):
    """A service did not start, or died; the message ends with what it last said."""


@dataclass(slots=True)
class Service:
    """One of the twins under its production server.

    Attributes:
        name: The service's name in its settings.
        framework: For people.
        command: What runs it.
        environment: What its process finds in the environment, beyond the usual.
        port: Where it listens.
        log: What it says.
        mark: Found in the environment of all its processes and of no other.
    """

    name: str
    framework: str
    command: Sequence[str]
    environment: dict[str, str]
    port: int
    log: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it in a session of its own: a Ctrl-C in the terminal reaches only the demo."""
        environment = {**_plain_environment(), **self.environment, "DEMO_MARK": self.mark}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait for its first answer; raises ServiceFailed."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.check_alive()
            try:
                if httpx2.get(f"{self.url}/health", timeout=5, trust_env=False).status_code == 200:
                    return
            except httpx2.TransportError:
                time.sleep(0.2)
        raise ServiceFailed(f"{self.name} did not answer within {PATIENCE:.0f} s:\n{self._tail()}")

    def check_alive(self) -> None:
        """Raise ServiceFailed where it has ended."""
        if self.process is not None and self.process.poll() is not None:
            code = self.process.returncode
            raise ServiceFailed(f"{self.name} ended with code {code}:\n{self._tail()}")

    def ask_to_stop(self) -> None:
        """Tell its supervisor to end; returns at once."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def stop(self) -> None:
        """Wait until all its processes are gone, and kill what lingers."""
        if self.process is None:
            return
        self.ask_to_stop()
        deadline = time.monotonic() + GRACE
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(GRACE)
        for pid in _marked(self.mark):  # the analyst, which waits ten seconds for other workers
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while (self.process.poll() is None or _marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pid in _marked(self.mark):
            os.kill(pid, signal.SIGKILL)
        self.process = None

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:]
        return "\n".join(f"  | {line}" for line in lines) or "  | (it said nothing)"


def twins(
    folder: Path, host: Path, secret: str, receiver: str, ports: Sequence[int]
) -> list[Service]:
    """Describe both services; both read examples/mlguard.toml and differ in few overrides.

    Args:
        folder: Where model, reference, reports and logs are.
        host: Where the workers of each meet.
        secret: What tokens are signed with.
        receiver: Where spans go.
        ports: Where the two listen, if those are free; 0 takes any.
    """
    log = ("--log-level", "warning")
    fastapi = [sys.executable, "-m", "uvicorn", "examples.fastapi_service:app", *log]
    flask = [sys.executable, "-m", "gunicorn", "examples.flask_service:app", *log]
    flask += ["--worker-class", "gthread", "--threads", "8", "--keep-alive", "30"]
    ports = _ports(*ports)
    return [
        Service(
            name=f"diabetes-{framework.lower()}",
            framework=framework,
            command=[*command, "--workers", str(WORKERS), *binding],
            environment={
                "JWT_SECRET": secret,
                "MODEL": str(folder / "model.joblib"),
                "MLGUARD_SERVICE__NAME": f"diabetes-{framework.lower()}",
                "MLGUARD_SERVICE__FOLDER": str(host),
                "MLGUARD_MODELS__DIABETES__REFERENCE": str(folder / "reference.parquet"),
                "MLGUARD_DRIFT__REPORT": str(folder / f"drift-{framework.lower()}.html"),
                "MLGUARD_TRACING__ENDPOINT": receiver,
                "OMP_NUM_THREADS": "1",
            },
            port=port,
            log=folder / f"{framework.lower()}.log",
        )
        for framework, command, port, binding in [
            ("FastAPI", fastapi, ports[0], ["--port", str(ports[0]), "--no-access-log"]),
            ("Flask", flask, ports[1], ["--bind", f"127.0.0.1:{ports[1]}"]),
        ]
    ]


def _plain_environment() -> dict[str, str]:
    """Leave out what would configure the services behind the demo's back."""
    foreign = ("MLGUARD_", "OTEL_", "GUNICORN_", "UVICORN_", "WEB_CONCURRENCY")
    return {name: value for name, value in os.environ.items() if not name.startswith(foreign)}


def _ports(*wanted: int) -> list[int]:
    """Take the wanted ports, or free ones where they are taken."""
    listeners = [socket.socket() for _ in wanted]
    try:
        for listener, port in zip(listeners, wanted, strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


def _marked(mark: str) -> list[int]:
    """Find the living processes that carry the mark; elsewhere than on Linux there are none."""
    wanted = f"DEMO_MARK={mark}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found
