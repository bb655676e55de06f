"""Who judges the rows of all hosts? `mlguard drift serve`."""

from __future__ import annotations

import argparse
import logging
import os
import signal
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from mlguard.errors import InvalidSettings
from mlguard.logs import LOGGER
from mlguard.metrics import expose

if TYPE_CHECKING:
    from mlguard.metrics import Family

_PATIENCE = 10.0  # seconds for which a client of the metrics is waited for


def add(actions: Any) -> None:
    """Add the action to a parser."""
    serve = actions.add_parser(
        "serve",
        help="judge the rows of all hosts, which come through the Redis of drift.store",
        description="Several may run: each model is judged by one of them at a time.",
    )
    serve.add_argument("settings", type=Path, nargs="?", default=Path("mlguard.toml"))
    serve.add_argument("--models", nargs="+", default=(), metavar="MODEL", help="default: all")
    serve.add_argument(
        "--listen",
        default="127.0.0.1:9464",
        metavar="HOST:PORT",
        help="where /metrics answers (default: %(default)s)",
    )
    serve.set_defaults(run=_serve)


def _serve(options: argparse.Namespace) -> None:
    from mlguard.analyst.config import AnalystConfig
    from mlguard.analyst.serving import Serving
    from mlguard.redis.rows import RowStreams
    from mlguard.settings import load

    settings = load(options.settings)
    if settings.drift is None or settings.drift.store is None:
        raise InvalidSettings(
            "drift.store is not set: workers send their rows to nobody",
            source=str(options.settings),
        )
    config = AnalystConfig.of(settings)
    known = sorted({model.name for model in config.models})
    if strange := set(options.models) - set(known):
        raise InvalidSettings(
            f"no model {min(strange)!r} has a reference; valid: {', '.join(known)}",
            source=str(options.settings),
        )
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s mlguard drift %(message)s")
    LOGGER.setLevel(logging.INFO)
    os.environ["DO_NOT_TRACK"] = "1"
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # In a thread: the signal may come while the main thread holds the event's own lock.
        signal.signal(number, lambda *_: Thread(target=stop.set, daemon=True).start())
    serving = Serving(
        config, RowStreams(settings.drift.store, settings.service.name), options.models
    )
    with _exposing(options.listen, serving.families) as server:
        LOGGER.info("metrics at http://%s:%d/metrics", *server.server_address[:2])
        Thread(target=server.serve_forever, name="mlguard-metrics", daemon=True).start()
        serving.run(stop)


def _exposing(listen: str, families: Callable[[], list[Family]]) -> ThreadingHTTPServer:
    """Listen for who asks for the metrics."""

    class Handler(BaseHTTPRequestHandler):
        timeout = _PATIENCE

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            said, text = expose(families(), self.headers.get("Accept", ""))
            self.send_response(200)
            self.send_header("Content-Type", said)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            """Say nothing of each scrape."""

    host, _, port = listen.rpartition(":")
    try:
        return ThreadingHTTPServer((host.strip("[]"), int(port)), Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise InvalidSettings(f"--listen {listen}: {error}") from error
