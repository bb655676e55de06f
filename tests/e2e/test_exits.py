"""What is lost when a worker leaves?"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.apps import iris
from tests.servers import OTLPReceiver, Server, gunicorn, uvicorn, wait_until

ROWS = {"instances": [[1.0, 2.0, 3.0, 4.0]]}
frameworks = pytest.mark.parametrize(
    ("serve", "app"),
    [
        pytest.param(uvicorn, "tests.apps.fastapi_app:app", id="fastapi-uvicorn"),
        pytest.param(gunicorn, "tests.apps.flask_app:app", id="flask-gunicorn"),
    ],
)


def answered(server: Server, count: int) -> None:
    statuses = [
        server.ask("/predict", body=ROWS, headers=iris.bearer()).status for _ in range(count)
    ]
    assert statuses == [200] * count


def rows(server: Server) -> float:
    """The rows that /metrics speaks of; -1 where it does not answer."""
    text = server.ask("/metrics").body.decode()
    lines = [v for v in text.splitlines() if v.startswith("mlguard_inference_rows_total{")]
    return float(lines[0].split()[-1]) if lines else -1


@frameworks
def test_a_graceful_stop_loses_no_span(serve: type[Server], app: str, tmp_path: Path) -> None:
    """What was answered right before SIGTERM is with the collector afterwards."""
    with OTLPReceiver() as receiver:
        settings = iris.write_settings(tmp_path, f'[tracing]\nendpoint = "{receiver.url}"')
        with serve(app, cwd=tmp_path, env=iris.environment(settings)) as server:
            answered(server, 20)
            os.killpg(server.pid, signal.SIGTERM)
            wait_until(lambda: server.ask("/health", timeout=1).status == 0, "the server has gone")
        names = [s["name"] for s in receiver.spans]

    assert names.count("POST /predict") == 20
    assert names.count("inference iris") == 20


def test_recycled_workers_keep_their_counts(tmp_path: Path) -> None:
    """Workers that gunicorn replaces (SIGHUP) leave their numbers behind."""
    settings = iris.write_settings(tmp_path)
    app = "tests.apps.flask_app:app"
    with gunicorn(app, cwd=tmp_path, workers=2, env=iris.environment(settings)) as server:
        wait_until(lambda: rows(server) == 0, "it answers")
        for _ in range(3):
            answered(server, 20)
            os.kill(server.pid, signal.SIGHUP)
        wait_until(lambda: rows(server) == 60, "the replaced workers' rows are in /metrics")
        answered(server, 5)

        assert rows(server) == 65
