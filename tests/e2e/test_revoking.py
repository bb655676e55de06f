"""Is a revoked token refused by all workers, on all hosts, within a second, and after a restart?"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import servers
from tests.contract.client import SECRET, SETTINGS, token

ASKED = 60  # requests: enough to meet each of four workers
WITHIN = 1.0  # seconds
LOADED = 10  # times what asking takes: the busier the machine, the later all know

SERVERS = [
    pytest.param(servers.uvicorn, "tests.apps.served_fastapi:app", id="FastAPI"),
    pytest.param(servers.gunicorn, "tests.apps.served_flask:app", id="Flask"),
]


def _own_temporary_folder() -> Iterator[Path]:
    """Make a folder of a short path: what a host has for itself."""
    path = Path(tempfile.mkdtemp(prefix="h"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


host = pytest.fixture(_own_temporary_folder, name="host")
other_host = pytest.fixture(_own_temporary_folder, name="other_host")


class Twin:
    """A service of several workers."""

    def __init__(
        self,
        serve: Callable[..., servers.Server],
        app: str,
        folder: Path,
        tmp: Path,
        workers: int = 4,
        **auth: Any,
    ) -> None:
        name = f"twin-{folder.name}"[:60]
        settings = {
            "service": {"name": name},
            "models": [{"name": "own"}, {"name": "sum"}],
            "auth": {**SETTINGS["auth"], "max_age": 3600, **auth},
        }
        self._settings = settings
        self._env = {
            "TWIN_SETTINGS": json.dumps(settings), "TWIN": "extended", "TWIN_SECRET": SECRET,
            "TMPDIR": str(tmp), "XDG_RUNTIME_DIR": "",
        }  # fmt: skip
        (tmp / "logs").mkdir(exist_ok=True)
        self.server = serve(app, cwd=tmp / "logs", workers=workers, env=self._env)

    def command(self, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `mlguard token revoke` on this host."""
        toml = folder / "mlguard.toml"
        auth = self._settings["auth"]
        lines = [f'service = {{ name = "{self._settings["service"]["name"]}" }}', "[auth]"]
        lines += [f"{k} = {json.dumps(v)}" for k, v in auth.items() if k != "public"]
        toml.write_text("\n".join(lines))
        mlguard = str(Path(sys.executable).with_name("mlguard"))
        command = [mlguard, "token", "revoke", "--settings", str(toml)]
        return subprocess.run(
            [*command, *arguments],
            env={**os.environ, **self._env},
            capture_output=True,
            text=True,
            timeout=servers.LONG,
            check=False,
        )

    def job(self, app: str, call: str) -> subprocess.CompletedProcess[str]:
        """Call the guard in a process of its own on this host, which serves nothing."""
        module = app.partition(":")[0]
        guard = "app.state.mlguard" if "fastapi" in module else "app.extensions['mlguard']"
        return subprocess.run(
            [sys.executable, "-c", f"from {module} import app; {guard}.{call}"],
            env={**os.environ, **self._env},
            cwd=servers.ROOT,
            capture_output=True,
            text=True,
            timeout=servers.LONG,
            check=False,
        )

    def learns(self, text: str) -> None:
        """Wait until each worker refuses this token: a second, and what the asking takes."""
        began = asked = time.monotonic()

        def is_known() -> bool:
            nonlocal asked
            asked = time.monotonic()
            return self.asked(text) == [401] * ASKED

        servers.wait_until(is_known, "all workers know")
        assert asked - began < WITHIN + LOADED * (time.monotonic() - asked)

    def asked(self, text: str) -> list[int]:
        """Ask with this token until each worker has been met."""
        headers = {"Authorization": f"Bearer {text}"}
        return [self.server.ask("/me", headers=headers).status for _ in range(ASKED)]


def own(subject: str, jti: str) -> str:
    return token(subject, jti=jti)


@pytest.mark.parametrize(("serve", "app"), SERVERS)
def test_all_workers_know_within_a_second(
    serve: Callable[..., servers.Server], app: str, tmp_path: Path, host: Path
) -> None:
    """What is revoked is refused by each worker a second later, and after a restart."""
    one, two, three = (secrets.token_hex(8) for _ in range(3))
    tokens = [own("alice", one), own("bob", two), own("carol", three)]
    twin = Twin(serve, app, tmp_path, host)
    with twin.server as server:
        assert all(twin.asked(text) == [200] * ASKED for text in tokens)
        headers = {"Authorization": f"Bearer {own('operator', 'own')}"}
        assert server.ask(f"/revoke?jti={one}", headers=headers).status == 200
        twin.learns(tokens[0])
        said = twin.command(tmp_path, "--subject", "bob")
        twin.learns(tokens[1])
        others = twin.asked(tokens[2])
        text = own("dora", "any")
        job = twin.job(app, 'revoke(subject="dora", issuer="https://login.example.com/")')
        twin.learns(text)

    assert said.returncode == 0, said.stderr
    assert "on this host: 1 of its instances runs" in said.stdout
    assert others == [200] * ASKED
    assert job.returncode == 0, job.stderr
    again = Twin(serve, app, tmp_path, host, workers=1)
    with again.server:
        assert [set(again.asked(text)) for text in tokens] == [{401}, {401}, {200}]


def test_all_hosts_know_through_the_store(tmp_path: Path, host: Path, other_host: Path) -> None:
    """Two services that share a Redis and nothing else share what is revoked."""
    port = servers.free_port()
    program = servers.find("redis-server")
    redis = subprocess.Popen(
        [program, "--port", str(port), "--save", "", "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
    )
    try:
        store = {"revocation_store": f"redis://127.0.0.1:{port}/0"}
        here = Twin(servers.uvicorn, "tests.apps.served_fastapi:app", tmp_path, host, 2, **store)
        there = Twin(
            servers.gunicorn, "tests.apps.served_flask:app", tmp_path, other_host, 2, **store
        )
        text, later = own("alice", secrets.token_hex(8)), own("bob", secrets.token_hex(8))
        with here.server, there.server:
            assert here.asked(text) == there.asked(text) == [200] * ASKED
            said = here.command(tmp_path, text)
            servers.wait_until(lambda: set(there.asked(text)) == {401}, "the other host knows")
            redis.kill()
            redis.wait()
            here.command(tmp_path, later)

            assert "told the other hosts" in said.stdout
            here.learns(text)
            here.learns(later)
            assert there.asked(later) == [200] * ASKED
            servers.wait_until(
                lambda: (
                    'mlguard_degraded{part="revocations"} 1' in here.server.ask("/metrics").text
                ),
                "the missing store is told",
            )
            assert 'mlguard_degraded{part="revocations"} 1' in there.server.ask("/metrics").text
    finally:
        redis.kill()
        redis.wait()
