"""Is there one verdict over all hosts? Real workers on two hosts, a real Redis, two who judge."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from mlguard.cli import main
from tests.apps import iris
from tests.redis_servers import Redis
from tests.servers import Server, find, free_port, gunicorn, uvicorn, wait_until

WINDOW = 200
SHIFT = 2.0


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return iris.save_reference(tmp_path_factory.mktemp("reference") / "reference.parquet")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    find("redis-server")
    with Redis(tmp_path) as server:
        yield server


def judge(settings: Path) -> Server:
    """Run `mlguard drift serve` in a process of its own."""
    port = free_port()
    command = [sys.executable, "-c", "from mlguard.cli import main; raise SystemExit(main())"]
    command += ["drift", "serve", str(settings), "--listen", f"127.0.0.1:{port}"]
    return Server(
        command, port=port, ready="/metrics", cwd=settings.parent, env=iris.environment(settings)
    )


def send(services: list[Server], number: int, *, seed: int, shift: float = 0.0) -> None:
    """Send rows to both hosts by turns, each in a request of its own."""
    headers = iris.bearer()
    for index, row in enumerate(iris.rows(number, seed=seed, shift=shift).tolist()):
        service = services[index % len(services)]
        answer = service.ask("/predict", body={"instances": [row]}, headers=headers)
        assert answer.status == 200, answer


def total(judges: list[Server], name: str, **labels: str) -> float:
    """Add up a metric over all who judge."""
    found = 0.0
    for each in judges:
        for line in each.ask("/metrics").text.splitlines():
            if line.startswith(name) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                found += float(re.split(r"[} ]", line.partition(" # ")[0])[-1])
    return found


def checks(judges: list[Server]) -> float:
    return total(judges, "mlguard_drift_checks_total")


def test_each_window_has_one_verdict(reference: Path, redis: Redis, tmp_path: Path) -> None:
    """Whoever judges may be killed in the middle of a window: none is lost, none judged twice.

    One host has workers of FastAPI, the other of Flask.
    """
    drift = f'[drift]\nwindow = {WINDOW}\nstore = "{redis.url}"\n'
    settings = iris.write_settings(tmp_path, drift, model=f'reference = "{reference}"')
    with ExitStack() as running:
        more = {"cwd": tmp_path, "workers": 2, "env": iris.environment(settings)}
        services = [
            running.enter_context(uvicorn("tests.apps.fastapi_app:app", **more)),
            running.enter_context(gunicorn("tests.apps.flask_app:app", **more)),
        ]
        first = running.enter_context(judge(settings))
        send(services, WINDOW * 3 // 2, seed=1)
        wait_until(lambda: checks([first]) == 1, "the first window is judged")
        second = running.enter_context(judge(settings))
        both = [first, second]
        wait_until(lambda: total([second], "mlguard_drift_worker_up") == 1, "another is ready")
        assert checks([second]) == 0

        os.killpg(first.pid, signal.SIGKILL)
        send(services, WINDOW // 2, seed=2, shift=SHIFT)
        wait_until(lambda: checks([second]) == 2, "the second window is judged, whole")
        third = running.enter_context(judge(settings))
        both = [second, third]
        send(services, 2 * WINDOW, seed=3, shift=SHIFT)
        wait_until(lambda: checks(both) == 4, "all are judged")
        reasons = {"model": "iris", "reason": "distribution"}
        lasting = total(both, "mlguard_drift_episode", feature="petal_length", **reasons)
        others = total(both, "mlguard_drift_episode", **reasons)

        assert (lasting, others) == (1, 1)
        assert total(both, "mlguard_drift_window_rows") == WINDOW
        # The services say nothing of drift: nobody judges on their hosts.
        for service in services:
            assert "mlguard_drift_score" not in service.ask("/metrics").text
        (stream,) = redis.client().keys("mlguard:*:rows")
        assert redis.client().xlen(stream) == 0


@pytest.mark.parametrize(
    ("drift", "more", "said"),
    [
        pytest.param("", (), "drift.store is not set", id="no store"),
        pytest.param(
            'store = "redis://127.0.0.1:1"', ("--models", "x"), "no model 'x'", id="model"
        ),
        pytest.param(
            'store = "redis://127.0.0.1:1"', ("--listen", "here"), "--listen here", id="address"
        ),
    ],
)
def test_what_cannot_be_served(
    drift: str,
    more: tuple[str, ...],
    said: str,
    reference: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is one line that names what is wrong."""
    settings = iris.write_settings(
        tmp_path, f"[drift]\n{drift}\n", model=f'reference = "{reference}"'
    )
    for name, value in iris.environment(settings).items():
        monkeypatch.setenv(name, value)

    assert main(["drift", "serve", str(settings), *more]) == 1
    assert said in capsys.readouterr().err
