"""Which process is that, and does it still run?"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """One run of a process: a later one that is given the same id is another.

    Attributes:
        pid: Its id.
        started: When, in clock ticks since boot; "" where the platform does not tell.
        space: Whose processes these are: a container cannot see those of another.
    """

    pid: int
    started: str
    space: str = ""

    @classmethod
    def of(cls, pid: int) -> Process:
        """Return the process that has this id now."""
        return cls(pid, _stat(pid)[1], _space())

    @classmethod
    def mine(cls) -> Process:
        """Return this process."""
        return cls.of(os.getpid())

    @classmethod
    def read(cls, text: str) -> Process:
        """Read what `text` wrote."""
        pid, started, space = text.split("-")
        return cls(int(pid), started, space)

    @property
    def text(self) -> str:
        """The process in one word."""
        return f"{self.pid}-{self.started}-{self.space}"

    def is_gone(self) -> bool:
        """Say whether it has ended, as far as can be seen from here."""
        return self.space == _space() and not self.runs()

    def runs(self) -> bool:
        """Say whether it still runs; one that only waits to be reaped does not."""
        state, started = _stat(self.pid)
        if started or self.started:
            return started == self.started and state not in "ZX"
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            return True
        except OSError:
            return False
        return True


def _stat(pid: int) -> tuple[str, str]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return fields[0].decode(), fields[19].decode()
    except (OSError, IndexError):
        return "", ""


def _space() -> str:
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def boot() -> str:
    """Return what differs between two starts of this machine; "" where it does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def supervisor() -> Process:
    """Return the process that started this worker and its siblings; a lone worker is its own."""
    # What multiprocessing has started has imported it.
    process = sys.modules.get("multiprocessing.process")
    parent = process.parent_process() if process else None
    if parent is not None and parent.pid is not None:
        return Process.of(parent.pid)
    if "gunicorn.arbiter" in sys.modules:
        return Process.of(os.getppid())
    if (uwsgi := sys.modules.get("uwsgi")) is not None:
        return Process.of(uwsgi.masterpid() or os.getpid())
    return Process.of(os.getpid())
