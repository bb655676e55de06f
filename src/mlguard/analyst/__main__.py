"""The analyst's process: `python -m mlguard.analyst`, its orders on standard input."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
from pathlib import Path
from threading import Event, Thread

from mlguard.analyst.config import AnalystConfig
from mlguard.analyst.process import Analysis
from mlguard.host.database import DatabaseFailed
from mlguard.host.folder import Folder
from mlguard.logs import LOGGER

_NICE = 10


def main() -> None:
    """Be the analyst of the workers that the orders on standard input name, if there is none."""
    stop = Event()
    # Ctrl-C reaches every process of a terminal; this one ends after the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # In a thread: the signal may come while the main thread holds the event's own lock.
    signal.signal(signal.SIGTERM, lambda *_: Thread(target=stop.set, daemon=True).start())
    if hasattr(os, "nice"):
        os.nice(_NICE)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s mlguard analyst[%(process)d] %(message)s"
    )
    LOGGER.setLevel(logging.INFO)
    order = json.load(sys.stdin)
    config, path = AnalystConfig.from_json(order["config"]), Path(order["file"])
    try:
        with Folder(path.parent).lock(f"analyst-{config.digest[:16]}") as is_first:
            if is_first:
                LOGGER.info("the analyst of %s is up", config.service)
                LOGGER.info("it ends: %s", Analysis(config, path).run(stop))
    except (OSError, DatabaseFailed) as error:
        LOGGER.error("the analyst cannot go on: %s", error)
    logging.shutdown()
    # Not by the interpreter's own way out: a check may be in the middle of native code.
    # And never with 3 or 4, which to a gunicorn that adopted us mean that a worker cannot boot.
    os._exit(0)


if __name__ == "__main__":
    main()
