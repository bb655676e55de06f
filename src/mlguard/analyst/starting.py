"""How is the analyst's process started?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mlguard.analyst.config import AnalystConfig

# What spoils the analyst: numbers kept in files, and warnings that make evidently unimportable.
_NOT_INHERITED = {"PROMETHEUS_MULTIPROC_DIR", "PYTHONWARNINGS"}


def start(config: AnalystConfig, path: Path) -> subprocess.Popen[bytes]:
    """Start it for the workers that meet in a file; an OSError says why it cannot be."""
    spoiling = _NOT_INHERITED | {name.upper() for name in config.secrets}
    environment = {k: v for k, v in os.environ.items() if k.upper() not in spoiling}
    environment["DO_NOT_TRACK"] = "1"
    environment.setdefault("OMP_NUM_THREADS", "1")
    # Not a pipe: writing more than it holds would wait for the analyst.
    with tempfile.TemporaryFile(dir=path.parent) as order:
        order.write(json.dumps({"config": config.to_json(), "file": str(path)}).encode())
        order.seek(0)
        return subprocess.Popen(  # noqa: S603 - ourselves
            # -P: a file in the working folder must not pass for a module. The name is for `ps`.
            [python(), "-P", "-m", "mlguard.analyst", config.service],
            env=environment,
            stdin=order,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )


def python() -> str:
    """Return the interpreter; where a server embeds it, sys.executable is that server."""
    if "python" in Path(sys.executable or "").name.lower():
        return sys.executable
    return str(Path(sys.exec_prefix) / "bin" / "python3")
