"""Do all workers, on all hosts, know within a second which API keys hold?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.contract.client import SETTINGS
from tests.redis_servers import Redis

ASKED = 40  # requests: enough to meet each of four workers
WITHIN = 1.0  # seconds
LOADED = 10  # times what asking takes: the busier the machine, the later all know

SERVERS = [
    pytest.param(servers.uvicorn, "tests.apps.served_fastapi:app", id="FastAPI"),
    pytest.param(servers.gunicorn, "tests.apps.served_flask:app", id="Flask"),
]


@pytest.fixture(params=["file", "Redis"])
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    if request.param == "file":
        yield {"file": str(tmp_path / "keys.json")}
        return
    with Redis(tmp_path) as redis:
        yield {"store": redis.url}


class Service:
    """A service of four workers whose callers have keys."""

    def __init__(self, serve: Any, app: str, tmp: Path, kept: dict[str, str]) -> None:
        self._settings = tmp / "mlguard.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in kept.items()]
        name = f"keys-{tmp.name}"[:60]
        text = ["[service]", f'name = "{name}"', "[auth.api_keys]", *lines]
        self._settings.write_text("\n".join(text))
        settings = {
            "service": {"name": name},
            "models": [{"name": "own"}, {"name": "sum"}],
            "auth": {"public": ["/health"], "api_keys": kept},
            "quotas": SETTINGS["quotas"] | {"requests": ["100000/hour"], "store": "memory://"},
        }
        env = {"TWIN_SETTINGS": json.dumps(settings), "TMPDIR": tempfile.mkdtemp(prefix="k")}
        self.server = serve(app, cwd=tmp, workers=4, env=env)

    def key(self, *arguments: str) -> str:
        """Run `mlguard key`, and return what it shows."""
        mlguard = str(Path(sys.executable).with_name("mlguard"))
        command = [mlguard, "key", *arguments, "--settings", str(self._settings)]
        done = subprocess.run(
            command,
            env=os.environ,
            capture_output=True,
            text=True,
            timeout=servers.LONG,
            check=True,
        )
        return done.stdout.strip()

    def asked(self, key: str, times: int = ASKED) -> set[int]:
        """Ask with a key until each worker has been met."""
        return {self.server.ask("/me", headers={"X-API-Key": key}).status for _ in range(times)}

    def become(self, key: str, statuses: set[int]) -> None:
        """Wait until each worker answers so: a second, and what the asking takes."""
        began = asked = time.monotonic()

        def are_so() -> bool:
            nonlocal asked
            asked = time.monotonic()
            return self.asked(key) == statuses

        servers.wait_until(are_so, "all workers know")
        assert asked - began < WITHIN + LOADED * (time.monotonic() - asked)


@pytest.mark.parametrize(("serve", "app"), SERVERS)
def test_all_workers_know_within_a_second(
    serve: Callable[..., servers.Server], app: str, tmp_path: Path, kept: dict[str, str]
) -> None:
    """A new key holds, a rotated one loses no request, a revoked one admits none."""
    service = Service(serve, app, tmp_path, kept)
    with service.server:
        old = service.key("create", "--subject", "alice")
        service.become(old, {200})
        statuses: set[int] = set()
        stop = threading.Event()

        def use_the_old_one() -> None:
            while not stop.is_set():
                statuses.update(service.asked(old, 1))

        user = threading.Thread(target=use_the_old_one)
        user.start()
        new = service.key("rotate", old, "--grace-hours", "1")
        service.become(new, {200})
        stop.set()
        user.join()
        assert statuses == {200}

        service.key("revoke", old)
        service.become(old, {401})
        assert service.asked(new) == {200}


def test_keys_hold_while_redis_is_away(tmp_path: Path) -> None:
    """What is known goes on, a gauge says so, and what came meanwhile is learned after."""
    with Redis(tmp_path) as redis:
        kept = {"store": redis.url}
        service = Service(servers.uvicorn, "tests.apps.served_fastapi:app", tmp_path, kept)
        with service.server as server:
            key = service.key("create", "--subject", "alice")
            service.become(key, {200})
            redis.pause()

            def is_told(state: int) -> bool:
                return f'mlguard_degraded{{part="api_keys"}} {state}' in server.ask("/metrics").text

            servers.wait_until(lambda: is_told(1), "the store that is away is told")
            assert service.asked(key) == {200}
            redis.go_on()
            servers.wait_until(lambda: is_told(0), "the store is back")
            service.key("revoke", key)
            service.become(key, {401})
