"""Do the recipes do what they say?"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from fastapi import BackgroundTasks, FastAPI, Request
from flask import Flask, request
from starlette.testclient import TestClient

import mlguard_fastapi
import mlguard_flask
from mlguard.cli import main
from mlguard.settings import load
from mlguard.testing import GuardTester
from tests.servers import ROOT, free_port, wait_until

PAGE = (ROOT / "docs" / "recipes.md").read_text()
README = (ROOT / "README.md").read_text()
FRAMEWORKS = ("FastAPI", "Flask")
KEYS: dict[str, Any] = {"api_keys": {}}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n")[1].split("\n## ")[0]


def service(framework: str) -> str:
    """The service of the README."""
    return blocks(README, "python")[FRAMEWORKS.index(framework)]


LINE = re.compile(r"^\| `(.*?)` \| (.*?) \| (\d+) \|$", re.MULTILINE)
SHAPES = LINE.findall(section("Bodies of every shape"))


def anything(framework: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    """A guarded service that answers whatever it is sent: its client, and its guard."""
    if framework == "FastAPI":
        app = FastAPI()

        @app.post("/predict")
        async def predict(request: Request) -> dict[str, bool]:
            await request.body()
            return {"fine": True}

        return TestClient(app), mlguard_fastapi.MLGuard(app, settings)
    wsgi = Flask(__name__)

    @wsgi.post("/predict")
    def predict_too() -> dict[str, bool]:
        request.get_data()
        return {"fine": True}

    guard = mlguard_flask.MLGuard(wsgi, settings)
    return wsgi.test_client(), guard


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("body", "written", "rows"), SHAPES, ids=[s[0][:40] for s in SHAPES])
def test_each_shape_is_read(framework: str, body: str, written: str, rows: str) -> None:
    """A request of the table is as many rows as it says, with the settings beside it."""
    model = tomllib.loads("\n".join(re.findall(r"`(.*?)`", written)))
    settings = {"models": [{"name": "m", "route": "/predict", **model}]}
    client, guard = anything(framework, settings)
    tester = GuardTester(guard)

    assert client.post("/predict", json=json.loads(body)).status_code == 200
    assert tester.metric("mlguard_inference_rows_total", model="m", version="1") == int(rows)
    assert tester.metric("mlguard_rows_unread_total", model="m", side="inputs") == 0


OTHERS = re.findall(
    r"^\| (query|form|CSV|files) `(.*?)`.*? \| (.*?) \| (\d+) \|$",
    section("Bodies of every shape"),
    re.MULTILINE,
)


def sent(kind: str, text: str, framework: str) -> dict[str, Any]:
    """What a test client takes of a request of the second table."""
    if kind == "query":
        return {"params" if framework == "FastAPI" else "query_string": text}
    if kind == "form":
        return {"data": dict(pair.split("=") for pair in text.split("&"))}
    if kind == "CSV":
        return {**body(framework, text.replace(";", "\n").encode()),
                "headers": {"Content-Type": "text/csv"}}  # fmt: skip
    if framework == "FastAPI":
        return {"files": [("file", (name, b"bytes")) for name in text.split()]}
    return {"data": {"file": [(io.BytesIO(b"bytes"), name) for name in text.split()]}}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize(("kind", "text", "written", "rows"), OTHERS, ids=[o[0] for o in OTHERS])
def test_what_is_no_json_is_read(
    framework: str, kind: str, text: str, written: str, rows: str
) -> None:
    """A request of the second table is as many rows as it says, with the settings beside it."""
    model = tomllib.loads("\n".join(re.findall(r"`(.*?)`", written)))
    settings = {"models": [{"name": "m", "route": "/predict", **model}]}
    client, guard = anything(framework, settings)
    tester = GuardTester(guard)

    assert client.post("/predict", **sent(kind, text, framework)).status_code == 200
    assert tester.metric("mlguard_inference_rows_total", model="m", version="1") == int(rows)
    assert tester.metric("mlguard_rows_unread_total", model="m", side="inputs") == 0


def test_all_shapes_are_tried() -> None:
    """No line of the table is passed over."""
    lines = [x for x in section("Bodies of every shape").splitlines() if x.startswith("| `")]

    assert len(SHAPES) == len(lines) > 10
    assert len(OTHERS) == 4


def guarded(framework: str, code: str, settings: dict[str, Any], **names: Any) -> tuple[Any, Any]:
    """Run a page's handler in a guarded app: its client, and its tester."""
    app: Any = FastAPI() if framework == "FastAPI" else Flask(__name__)
    adapter = mlguard_fastapi if framework == "FastAPI" else mlguard_flask
    names = {"app": app, "guard": adapter.MLGuard(app, settings), **names}
    exec(code, names)
    tester = GuardTester(names["guard"])
    return TestClient(app) if framework == "FastAPI" else app.test_client(), tester


def body(framework: str, text: bytes) -> dict[str, Any]:
    return {"content": text} if framework == "FastAPI" else {"data": text}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_rows_in_the_handler(framework: str) -> None:
    """Rows of a body that is no JSON are charged, timed and answered."""
    code = blocks(section("In the handler"), "python")[FRAMEWORKS.index(framework)]
    settings = {"models": [{"name": "iris"}], "quotas": {"rows": ["3/minute"]}}
    request_ = Request if framework == "FastAPI" else request
    client, tester = guarded(
        framework, code, settings, predict=len, Request=request_, request=request
    )

    sent = body(framework, b"1,2\n3,4\n")
    assert [client.put("/measurements", **sent).status_code for _ in range(2)] == [200, 429]
    assert tester.metric("mlguard_inference_rows_total", model="iris", version="1") == 2


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_work_after_the_answer(framework: str) -> None:
    """Who cannot pay is refused, and nothing of his is queued."""
    code = blocks(section("Work that goes on after the answer"), "python")
    settings = {"models": [{"name": "iris"}], "quotas": {"rows": ["3/minute"]}}
    done: list[int] = []
    with ThreadPoolExecutor(1) as pool:
        client, _ = guarded(
            framework,
            code[FRAMEWORKS.index(framework)],
            settings,
            predict=lambda rows: done.append(len(rows)),
            BackgroundTasks=BackgroundTasks,
            request=request,
            pool=pool,
        )
        rows = {"instances": [[1.0], [2.0]]}
        statuses = [client.post("/jobs", json=rows).status_code for _ in range(2)]

    assert statuses == [202, 429]
    assert done == [2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the settings of the README."""
    (tmp_path / "mlguard.toml").write_text(blocks(README, "toml")[0])
    return tmp_path


@contextmanager
def served(command: str, folder: Path, **options: Any) -> Iterator[str]:
    """Run a server as a page says, on a free port: its URL."""
    port = free_port()
    words = command.split()
    words += ["--port", str(port)] if words[0] == "uvicorn" else ["--bind", f"127.0.0.1:{port}"]
    # Newer versions of gunicorn keep a control socket at home, which all runs would share.
    environment = {**os.environ, "MLGUARD_SERVICE__FOLDER": str(folder), "HOME": str(folder)}
    environment |= options.pop("env", {})
    log = (folder / f"{port}.log").open("wb")
    server = subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=folder,
        env=environment,
        stdout=log,
        stderr=log,
        **options,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _answers(url), f"{command} answers")
        yield url
    finally:
        server.terminate()
        server.wait(60)
        log.close()


def _answers(url: str) -> bool:
    try:
        return httpx2.get(f"{url}/metrics", timeout=10, trust_env=False).status_code == 200
    except httpx2.TransportError:
        return False


SERVERS = blocks(section("Servers and their flags"), "sh")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_servers_start_as_they_are_said_to(folder: Path, framework: str) -> None:
    """The flags are the server's, and the guarded service answers."""
    (folder / "service.py").write_text(service(framework))
    command = SERVERS[FRAMEWORKS.index(framework)].strip()

    with served(command, folder) as url:
        refused = httpx2.post(f"{url}/predict", json={"instances": [[1]]}, trust_env=False)

    assert (refused.status_code, refused.json()["code"]) == (401, "key_missing")


def test_two_instances_count_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of one service on two ports, what one has counted the other knows."""
    monkeypatch.chdir(folder)
    (folder / "service.py").write_text(service("FastAPI"))
    assert main(["key", "create", "--subject", "alice"]) == 0
    headers = {"X-API-Key": capsys.readouterr().out.strip()}
    rows = {"instances": [[1.0], [2.0], [3.0]]}

    with served("uvicorn service:app", folder) as one, served("uvicorn service:app", folder) as two:
        told = [
            httpx2.post(f"{url}/predict", json=rows, headers=headers, trust_env=False).status_code
            for url in (one, two)
        ]

    assert told == [200, 429]


def _can_be_others() -> bool:
    try:
        run = subprocess.run([sys.executable, "-c", ""], user=54321, cwd="/", check=False)
    except (OSError, ValueError):
        return False
    return run.returncode == 0


class TestContainers:
    @pytest.fixture
    def pod(self) -> dict[str, Any]:
        (text,) = blocks(section("Containers"), "yaml")
        return yaml.safe_load(text)["spec"]["template"]["spec"]

    @pytest.fixture
    def dockerfile(self) -> str:
        (text,) = blocks(section("Containers"), "dockerfile")
        return text

    def test_the_root_is_read_only_but_for_where_workers_meet(
        self, pod: dict[str, Any], dockerfile: str
    ) -> None:
        """The one writable folder is the temporary one, of which the image says where it is."""
        (container,) = pod["containers"]
        (temporary,) = re.findall(r"^ENV TMPDIR=(.*)$", dockerfile, re.MULTILINE)

        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert [mount["mountPath"] for mount in container["volumeMounts"]] == [temporary]
        assert [v["name"] for v in pod["volumes"] if "emptyDir" in v] == ["tmp"]

    def test_the_user_is_nobody_special(self, pod: dict[str, Any], dockerfile: str) -> None:
        """Image and pod name the same user, who is not root."""
        user = pod["containers"][0]["securityContext"]["runAsUser"]

        assert user > 0
        assert f"USER {user}\n" in dockerfile

    def test_the_end_has_time(self, pod: dict[str, Any], dockerfile: str) -> None:
        """The pod is killed later than its server has let its requests end."""
        (graceful,) = re.findall(r'"--timeout-graceful-shutdown", "(\d+)"', dockerfile)

        assert pod["terminationGracePeriodSeconds"] > int(graceful)

    def test_probes_need_no_key(self, pod: dict[str, Any]) -> None:
        """What the probes ask is public."""
        settings = tomllib.loads(blocks(section("Containers"), "toml")[0])
        (container,) = pod["containers"]
        paths = {container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")}

        assert paths <= {*load(settings, environ={}).auth.public}

    def test_variables_are_settings(self, pod: dict[str, Any]) -> None:
        """Each variable of the pod that begins as ours do is a setting, and is taken."""
        values = {"MLGUARD_QUOTAS__STORE": "redis://user:secret@redis.example.com:6379/0"}
        env = {e["name"]: e.get("value") or values[e["name"]] for e in pod["containers"][0]["env"]}
        source = {"quotas": {"requests": ["1/minute"]}}

        settings = load(source, environ=env)

        assert (settings.service.name, settings.quotas.store) == (
            "iris",
            env["MLGUARD_QUOTAS__STORE"],
        )

    def test_the_environment_alone(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """With the names of models in the code, all else comes from variables."""
        exported = next(b for b in blocks(section("Containers"), "sh") if "export" in b)
        for name, value in re.findall(r"^export (\w+)=(.*)$", exported, re.MULTILINE):
            monkeypatch.setenv(name, value.replace("/run/secrets", str(tmp_path)))
        code = blocks(section("Containers"), "python")[0]
        app, names = FastAPI(), {}
        app.post("/predict")(lambda: None)
        exec(code, {"app": app, "MLGuard": mlguard_fastapi.MLGuard}, names)

        settings = names["guard"].service.settings
        assert settings.models[0].route == "/predict"
        assert [rate.text for rate in settings.quotas.rows] == ["1000/hour", "5000/day"]
        assert settings.quotas.store == "host://"

    @pytest.mark.skipif(not _can_be_others(), reason="another user cannot run this Python")
    def test_a_user_without_a_name_and_a_home(self, folder: Path) -> None:
        """Anybody serves, who can write to the temporary folder alone."""
        (folder / "service.py").write_text(service("FastAPI"))
        temporary = Path(f"/tmp/mlguard-test-{os.getpid()}")
        temporary.mkdir()
        os.chown(temporary, 54321, 54321)
        try:
            env = {"TMPDIR": str(temporary), "HOME": "/nowhere", "XDG_RUNTIME_DIR": ""}
            env["MLGUARD_SERVICE__FOLDER"] = str(temporary)
            copied = shutil.copytree(
                folder, temporary / "srv", ignore=shutil.ignore_patterns("*.log")
            )
            copied.chmod(0o555)
            with served("uvicorn service:app --workers 2", copied, env=env, user=54321) as url:
                page = httpx2.get(f"{url}/metrics", trust_env=False)
        finally:
            shutil.rmtree(temporary)

        assert 'mlguard_degraded{part="host"} 1' not in page.text


MOVES = re.findall(r"^\| `(/.*?)` \| `(/.*?)` \|$", section("From Flask to FastAPI"), re.MULTILINE)


@pytest.mark.parametrize(("flask", "fastapi"), MOVES)
def test_routes_are_respelt(flask: str, fastapi: str) -> None:
    """What Flask spells so, FastAPI spells so; with that the settings hold on both."""
    told = []
    for spelt, framework in ((flask, "Flask"), (fastapi, "FastAPI")):
        app: Any = FastAPI() if framework == "FastAPI" else Flask(__name__)
        app.post(spelt)(lambda **_: {"fine": True})
        adapter = mlguard_fastapi if framework == "FastAPI" else mlguard_flask
        model = {"name": "m", "route": spelt, "inputs": "rows"}
        guard = adapter.MLGuard(app, {"models": [model], "auth": KEYS})
        guard.check()
        told.append([route.shown for route in guard.routes() if route.shown == spelt])

    assert told == [[flask], [fastapi]]


def test_tests_of_ones_own_run(folder: Path) -> None:
    """The suite passes beside the service of the README."""
    (folder / "service.py").write_text(service("FastAPI"))
    (folder / "test_service.py").write_text(blocks(section("Tests of your own"), "python")[0])
    environment = {
        **os.environ,
        "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }

    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "2 passed" in run.stdout, run.stdout + run.stderr


def test_settings_of_the_page_are_valid() -> None:
    """Every TOML block of the page is a settings file."""
    for block in blocks(PAGE, "toml"):
        assert load(tomllib.loads(block), environ={}).service.name
