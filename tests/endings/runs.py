"""How do many servers run beside each other, each once for all tests that ask?"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

from tests import servers
from tests.contract.client import SECRET, SETTINGS
from tests.endings.service import Collector, Service

T = TypeVar("T")

BESIDE = 4  # servers at once: most of their time they wait


class Runs(Generic[T]):
    """What was found out about each server, in threads beside each other.

    Args:
        names: What will be asked for.
        run: Runs one.
    """

    def __init__(self, names: Iterable[str], run: Callable[[str], T]) -> None:
        self._pool = ThreadPoolExecutor(BESIDE)
        self._told: frozenset[str] = frozenset()
        self._runs: dict[str, Future[T]] = {n: self._pool.submit(run, n) for n in names}

    def __getitem__(self, name: str) -> T:
        error = self._runs[name].exception(900)
        if error is not None:
            # One line in place of a traceback for each test of it; the first tells the log.
            whole, self._told = name not in self._told, self._told | {name}
            pytest.fail(f"{name}: {error!s:.{5000 if whole else 200}}", pytrace=False)
        return self._runs[name].result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def settings(endpoint: str, **tables: Any) -> dict[str, Any]:
    """One model on a route, one in a handler, one slot a caller."""
    return {
        "service": {"name": "endings", "host_file": False},
        "models": [
            {
                "name": "sum", "version": "3", "route": "/predict",
                "inputs": "instances", "outputs": "predictions",
            },
            {"name": "own"},
        ],
        "auth": {**SETTINGS["auth"], "public": ["/health"]},
        "quotas": {"concurrency": 1, "unmatched_per_client": "off"},
        "tracing": {"endpoint": endpoint},
        **tables,
    }  # fmt: skip


@contextmanager
def serving(
    start: Callable[..., servers.Server],
    app: str,
    *,
    folder: Path,
    collector: Collector,
    said: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    prefix: str = "",
    is_drained: bool = True,
) -> Iterator[Service]:
    """Serve a guarded app; on leaving, all that it has to export is there.

    Args:
        start: Starts the server; see `tests.servers`.
        app: What it serves, named module:app.
        folder: Where it runs; not there yet.
        collector: Where its spans go.
        said: Its settings.
        env: Variables that the app reads.
        prefix: What stands before each path.
        is_drained: Whether to wait for what has ended before the server is told to end.
    """
    folder.mkdir()
    gates = folder / "gates"
    gates.mkdir()
    path = folder / "settings.json"
    path.write_text(json.dumps(said or settings(collector.url)))
    variables = {
        "ENDINGS_SETTINGS": str(path),
        "ENDINGS_GATES": str(gates),
        "TWIN_SECRET": SECRET,
        "TMPDIR": str(folder),
        **(env or {}),
    }
    server = start(app, cwd=folder, env=variables)
    server.__enter__()
    try:
        service = Service(server, collector, gates, prefix)
        # Whoever looked whether it serves may have left before it did.
        servers.wait_until(
            lambda: service.scrape().one("http_server_active_requests") == 0, "nobody asks yet"
        )
        yield service
        if is_drained:
            service.exported()
    finally:
        server.stop()
