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
from tests.contract.client import OverSockets, metric, samples

WORKERS = 4
WINDOW = 200


class Service(OverSockets):
    """A guarded service with four workers, and where its companion's folder is."""

    def __init__(self, server: servers.Server, folder: Path) -> None:
        super().__init__(server.url)
        self.server = server
        self._folder = folder

    def predict(self, rows: list[list[float]]) -> int:
        body = json.dumps({"instances": rows}).encode()
        headers = [*iris.bearer().items(), ("Content-Type", "application/json")]
        return self.ask("POST", "/predict", headers=headers, body=body).status

    def companions(self) -> list[int]:
        """Process ids of this service's companions."""
        return [int(p.name) for p in Path("/proc").glob("[0-9]*") if self._is_companion(p)]

    def _is_companion(self, process: Path) -> bool:
        try:
            command = (process / "cmdline").read_bytes()
            return b"mlguard.runtime.companion" in command and (
                f"TMPDIR={self._folder}\0".encode() in (process / "environ").read_bytes()
            )
        except OSError:
            return False

    def is_up(self) -> bool:
        """Whether a scrape succeeds and the drift checks are ready."""
        if self.ask("GET", "/metrics").status != 200:
            return False
        return metric(self, "mlguard_drift_worker_up") == 1


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
    if not Path("/proc").is_dir():
        pytest.skip("needs /proc to find the companion")
    folder = tmp_path_factory.mktemp(request.param)
    iris.save_reference(folder / "reference.parquet")
    settings = iris.write_settings(
        folder, f"[drift]\nwindow = {WINDOW}", model='reference = "reference.parquet"'
    )
    env = {**iris.environment(settings), "TMPDIR": str(folder), "XDG_RUNTIME_DIR": ""}
    start = {"uvicorn": servers.uvicorn, "gunicorn": servers.gunicorn}[request.param]
    app = {"uvicorn": "tests.apps.fastapi_app:app", "gunicorn": "tests.apps.flask_app:app"}
    with start(app[request.param], cwd=folder, workers=WORKERS, env=env) as server:
        service = Service(server, folder)
        servers.wait_until(service.is_up, "the companion checks drift", within=180)
        yield service
        companions = service.companions()
    servers.wait_until(
        lambda: not [p for p in companions if Path(f"/proc/{p}").exists()],
        "the companion ends with its service",
    )


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


def test_there_is_one_window_and_one_verdict(service: Service) -> None:
    """Rows of all workers fill one window, whose verdict every scrape shows."""
    model = {"model": "iris", "version": "3"}
    checks = {**model, "result": "drift"}
    before = metric(service, "mlguard_drift_checks_total", **checks)
    rows = iris.rows(WINDOW + 100, seed=7, shift=2.0).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda row: service.predict([row]), rows)) == {200}
    servers.wait_until(
        lambda: metric(service, "mlguard_drift_checks_total", **checks) > before,
        "one window is compared",
    )
    found = samples(service)
    scores = {
        dict(labels)["feature"]: sample.value
        for (name, labels), sample in found.items()
        if name == "mlguard_drift_score"
    }

    assert metric(service, "mlguard_drift_detected", **model) == 1
    assert metric(service, "mlguard_drift_window_rows", **model) == WINDOW
    assert max(scores, key=scores.__getitem__) == "petal_length"
    assert len(service.companions()) == 1


def test_killing_the_companion_costs_no_request(service: Service) -> None:
    """Inference goes on, another companion comes, and no count is lost."""
    labels = {"model": "iris", "version": "3"}
    before = metric(service, "mlguard_inference_rows_total", **labels)
    (first,) = service.companions()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(service.predict, [[1.0, 2.0, 3.0, 4.0]]) for _ in range(100)]
        os.kill(first, signal.SIGKILL)
        asked += [pool.submit(service.predict, [[1.0, 2.0, 3.0, 4.0]]) for _ in range(200)]
        statuses = [a.result() for a in asked]
    servers.wait_until(
        lambda: service.ask("GET", "/metrics").status == 200, "another companion answers"
    )

    assert statuses == [200] * 300
    assert metric(service, "mlguard_inference_rows_total", **labels) == before + 300
    assert first not in service.companions()
