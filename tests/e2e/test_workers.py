"""Are four workers one service?"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests import servers
from tests.apps import iris
from tests.contract.client import OverSockets, metric

WORKERS = 4
ROW = [1.0, 2.0, 3.0, 4.0]


class Service(OverSockets):
    """A guarded service with four workers."""

    def __init__(self, server: servers.Server) -> None:
        super().__init__(server.url)
        self.server = server

    def predict(self, rows: list[list[float]]) -> int:
        body = json.dumps({"instances": rows}).encode()
        headers = [*iris.bearer().items(), ("Content-Type", "application/json")]
        return self.ask("POST", "/predict", headers=headers, body=body).status

    def workers(self) -> list[int]:
        """Process ids of the workers: what was started by the process that was."""
        children = Path(f"/proc/{self.server.pid}/task/{self.server.pid}/children").read_text()
        return [int(pid) for pid in children.split() if _is_worker(int(pid))]


def _is_worker(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline").read_bytes()
    return b"resource_tracker" not in command


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("uvicorn", marks=pytest.mark.xdist_group("workers uvicorn")),
        pytest.param("gunicorn", marks=pytest.mark.xdist_group("workers gunicorn")),
    ],
)
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp(request.param)
    settings = iris.write_settings(folder)
    env = {**iris.environment(settings), "TMPDIR": str(folder), "XDG_RUNTIME_DIR": ""}
    start = {"uvicorn": servers.uvicorn, "gunicorn": servers.gunicorn}[request.param]
    app = {"uvicorn": "tests.apps.fastapi_app:app", "gunicorn": "tests.apps.flask_app:app"}
    with start(app[request.param], cwd=folder, workers=WORKERS, env=env) as server:
        yield Service(server)


def test_counts_are_exact_whichever_worker_answers(service: Service) -> None:
    """After 300 requests over four workers every scrape says 300 more."""
    labels = {"model": "iris", "version": "3"}
    before = metric(service, "mlguard_inference_rows_total", **labels)
    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: service.predict([[1.0, 2.0, 3.0, 4.0]] * 2), range(300)))
    scrapes = [metric(service, "mlguard_inference_rows_total", **labels) for _ in range(12)]

    assert statuses == [200] * 300
    assert scrapes == [before + 600] * 12
    assert metric(service, "http_server_active_requests") == 0


def test_killed_workers_cost_no_count(service: Service) -> None:
    """Workers are killed, and others stay: what a scrape has told once is never told less."""
    labels = {"model": "iris", "version": "3"}
    before = metric(service, "mlguard_inference_rows_total", **labels)
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: service.predict([ROW]), range(200)))
    assert metric(service, "mlguard_inference_rows_total", **labels) == before + 200
    killed = set(service.workers()[:2])
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    servers.wait_until(
        lambda: len(set(service.workers()) - killed) == WORKERS, "they are replaced", within=60
    )

    assert statuses == [200] * 200
    assert metric(service, "mlguard_inference_rows_total", **labels) == before + 200


def test_two_servers_on_two_ports_count_together(tmp_path: Path) -> None:
    """Two servers of one service on a host, of either framework, are one to its callers."""
    settings = iris.write_settings(tmp_path)
    env = {
        **iris.environment(settings),
        "TMPDIR": str(tmp_path),
        "XDG_RUNTIME_DIR": "",
        "MLGUARD_QUOTAS__STORE": "host://",
        "MLGUARD_QUOTAS__ROWS": "5/hour",
    }
    with (
        servers.uvicorn("tests.apps.fastapi_app:app", cwd=tmp_path, env=env) as one,
        servers.gunicorn("tests.apps.flask_app:app", cwd=tmp_path, env=env) as other,
    ):
        asked = [Service(server).predict([ROW] * 2) for server in (one, other, one, other)]

    assert asked == [200, 200, 429, 429]
