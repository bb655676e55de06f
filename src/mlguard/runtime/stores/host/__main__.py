"""The ledger process: `python -m mlguard.runtime.stores.host`, its orders on standard input."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.logs import LOGGER
from mlguard.runtime.stores.host.server import serve


def main() -> None:
    """Serve the workers that the orders on standard input name."""
    # Ctrl-C reaches every process of a terminal; this one ends after the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s mlguard ledger[%(process)d] %(message)s"
    )
    LOGGER.setLevel(logging.INFO)
    try:
        order = json.load(sys.stdin)
    except ValueError:  # the worker was gone before it could say what to do
        return
    try:
        asyncio.run(_serve(order))
    except OSError as error:
        LOGGER.error("the host's ledger cannot go on: %s", error)
    logging.shutdown()
    # Never with 3 or 4, which to a gunicorn that adopted us mean that a worker cannot boot.
    os._exit(0)


async def _serve(order: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await serve(
        json.loads(order["config"])["service"],
        Folder(Path(order["folder"])),
        Process(**order["supervisor"]),
        stop,
        path=Path(order["path"]) if order["path"] else None,
    )


if __name__ == "__main__":
    main()
