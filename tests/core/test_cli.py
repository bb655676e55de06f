"""What can an operator do from a shell?"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import numpy as np
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from jose import jwt

from mlguard import __version__
from mlguard.app.service import Service
from mlguard.auth import KeySet, verify_jws
from mlguard.auth.bearer import Credential
from mlguard.auth.minting import make_key, mint, secret_signer, signer
from mlguard.cli import apps, main
from mlguard.host.database import Database
from mlguard.host.folder import Folder
from mlguard.host.revocations import RevocationTable
from mlguard.messages import Deny, Principal
from mlguard.reference import Reference
from mlguard.revocations import Revocation, Revocations
from tests.keyserver import DISCOVERY, KeyServer, key_pair

SECRET = "a secret of the tests that is long enough"
FILE = """\
[service]
name = "iris-api"
host_file = false

[[models]]
name = "iris"
version = "3"
route = "/predict"
inputs = "instances"

[[models]]
name = "own"

[auth]
issuer = "https://login.example.com/"
audience = ["iris-api", "another-api"]
secret_env = "CLI_SECRET"
algorithms = ["HS384"]
scopes = ["predict", "explain"]
tenant_claim = "tid"

[quotas]
requests = ["600/minute"]
rows = ["10000/hour", "50000/day"]

[tracing]
sample = 0.25
"""
APP = """\
from {framework} import {cls}
from {package} import MLGuard

app = {cls}({arguments})
guard = MLGuard(app, {{"service": {{"host_file": False}}, "models": {models}}})
bare = {cls}({arguments})
number = 5

{route}
def predict():
    return {{}}

def make():
    return app
"""
WHOLE = """\
from {framework} import {cls}
from {package} import MLGuard

app = {cls}({arguments})
bare = {cls}({arguments})
guard = MLGuard(app, "mlguard.toml")

@app.post("/predict")
def predict():
    return {{}}

app.get("/health")(lambda: {{}})

@app.delete("/cache")
@guard.limit("5/minute;9/day")
@guard.requires("admin")
def clear():
    return {{}}

{more}
"""
WHOLE_SETTINGS = """\
[[models]]
name = "iris"
route = "/predict"
inputs = "instances"

[auth]
issuer = "https://login.example.com/"
audience = "iris-api"
algorithms = ["RS256"]
tenant_claim = "tid"
public = {public}

[quotas]
requests = ["600/minute"]
rows = ["10000/hour"]

[quotas.plans.gold]
rows = ["90000/hour"]

[quotas.tenant]
rows = ["50000/hour"]
"""
QUOTAS = """\
[quotas]
requests = ["600/minute"]
units = { tokens = ["5000/day"] }
lifetime = 1000000
concurrency = 32
max_in_flight = 200
unmatched_per_client = "off"
local_share = 0.5
on_store_failure = { default = "open", lifetime = "closed", rows = "local" }

[quotas.models.iris]
rows = ["10/hour"]

[quotas.plans.gold]
requests = []

[quotas.plans.gold.models.iris]
rows = ["9000/hour"]

[quotas.tenant]
rows = ["90000/hour"]

[quotas.exempt]
subjects = ["ops"]
scopes = ["admin"]
networks = ["10.0.0.0/8"]
routes = ["/health"]
"""
COMMAND = (sys.executable, "-c", "import sys; from mlguard.cli import main; sys.exit(main())")
FRAMEWORKS = {
    "fastapi": ("FastAPI", "mlguard_fastapi", "", '@app.post("/predict")'),
    "flask": ("Flask", "mlguard_flask", "__name__", '@app.post("/predict")'),
}
MODEL = {"name": "iris", "route": "/predict", "inputs": "instances"}


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, with the secret in the environment."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLI_SECRET", SECRET + "." * 20)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command; return its exit code and both of its streams."""
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest-xdist says how wide its terminal is

    def run(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def written(name: str, text: str) -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def app(framework: str, monkeypatch: pytest.MonkeyPatch, *models: dict[str, Any]) -> str:
    """Write an app into a module that is forgotten after the test."""
    name = f"cli_app_of_{framework}"
    cls, package, arguments, route = FRAMEWORKS[framework]
    text = APP.format(
        framework=framework,
        cls=cls,
        package=package,
        arguments=arguments,
        route=route,
        models=list(models),
    )
    written(f"{name}.py", text)
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


def whole_app(
    framework: str, monkeypatch: pytest.MonkeyPatch, more: str = "", *, public: Any = ("/health",)
) -> str:
    """Write an app with routes of all kinds, and its settings."""
    name = f"cli_whole_app_of_{framework}"
    cls, package, arguments, _ = FRAMEWORKS[framework]
    text = WHOLE.format(
        framework=framework,
        cls=cls,
        package=package,
        arguments=arguments and f"{arguments}, static_folder=None",
        more=more,
    )
    written(f"{name}.py", text)
    written("mlguard.toml", WHOLE_SETTINGS.format(public=json.dumps(list(public))))
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return name


class TestCheck:
    def test_a_file(self, told: Any) -> None:
        """A file without mistakes is told with what it switches on."""
        written("mlguard.toml", FILE)

        code, out, err = told("check", "mlguard.toml")

        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "mlguard.toml: ok",
            "  auth     https://login.example.com/: HS384 by secret_env CLI_SECRET",
            "  scopes   predict explain",
            "  quotas   600/minute requests, 10000/hour rows, 50000/day rows",
            "           each worker: 300/minute requests of a client that match no route",
            "  counts   in memory://, where each worker counts alone",
            "  drift    off: no model has a reference",
            "  tracing  25% to http://127.0.0.1:4318/v1/traces",
            "  metrics  /metrics",
            "  model    iris 3 /predict",
            "  model    own 1 asked by handlers only",
        ]

    def test_mistakes(self, told: Any) -> None:
        """All mistakes are told on standard error, and none on standard output."""
        written("mlguard.toml", FILE.replace("issuer", "isuer").replace("600/minute", "many"))

        code, out, err = told("check", "mlguard.toml")

        must = 'must be a rate like "600/minute" or "10000 per 2 hours"'
        assert (code, out) == (1, "")
        assert err.splitlines() == [
            "mlguard: mlguard.toml: 3 mistakes",
            "  - auth.issuer: is missing",
            "  - auth.isuer: unknown key; did you mean 'issuer'?",
            f"  - quotas.requests[0] = 'many': {must}",
        ]

    def test_no_file(self, told: Any) -> None:
        """A file that is not there is told."""
        code, _, err = told("check", "nowhere.toml")

        assert code == 1
        assert err == ("mlguard: nowhere.toml: no such file: give the path of the settings file\n")

    def test_the_secret_is_not_told(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A secret that is too short is not repeated."""
        monkeypatch.setenv("CLI_SECRET", "hunter2")
        written("mlguard.toml", FILE)

        code, out, err = told("check", "mlguard.toml")

        assert code == 1
        assert "hunter2" not in out + err

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_an_app(self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """An app's own guard is found, and its settings are held against its routes."""
        name = app(framework, monkeypatch, MODEL)

        code, out, err = told("check", f"{name}:app")

        assert (code, err) == (0, "")
        assert out.startswith(f"{name}:app: ok\n")
        assert "model    iris 1 /predict" in out

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_a_route_that_is_not_there(
        self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model's route that the app lacks is told with the nearest one."""
        name = app(framework, monkeypatch, MODEL | {"route": "/predikt"})

        code, out, err = told("check", f"{name}:app")

        assert (code, out) == (1, "")
        assert "the app has no such route; did you mean '/predict'?" in err

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    @pytest.mark.parametrize(
        ("attribute", "said"),
        [
            ("bare", "is not guarded: say `from {package} import MLGuard`, and call MLGuard(app"),
            ("missing", "cannot be imported: "),
            ("app.missing", "cannot be imported: "),
            ("number", "is not guarded: it is no app of FastAPI or Flask, and no other is known"),
            ("make", "is not guarded: it is a function; if that makes the app, say {name}:make()"),
        ],
    )
    def test_no_guard(
        self, told: Any, framework: str, attribute: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is no guarded app is told as what it is, and which import would guard it."""
        name = app(framework, monkeypatch, MODEL)

        code, _, err = told("check", f"{name}:{attribute}")

        expected = said.format(package=FRAMEWORKS[framework][1], name=name)
        assert code == 1
        assert err.startswith(f"mlguard: {name}:{attribute}: {expected}")

    @pytest.mark.parametrize("adapters", [["flask"], []], ids=["another", "none"])
    def test_no_adapter(
        self, told: Any, adapters: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without the adapter of an app's framework, what is installed is told."""
        name = app("fastapi", monkeypatch, MODEL)
        found = [e for e in entry_points(group="mlguard.adapters") if e.name in adapters]
        broken = EntryPoint("broken", "mlguard.no_such_module:MLGuard", "mlguard.adapters")
        monkeypatch.setattr(apps, "entry_points", lambda **_: [*found, broken])

        _, _, err = told("check", f"{name}:bare")

        known = "it is no app of Flask" if adapters else "install mlguard-fastapi or mlguard-flask"
        assert known in err

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_routes(self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each route is told with who may ask it, its model and its quotas; then the open ones."""
        name = whole_app(framework, monkeypatch)

        code, out, err = told("check", f"{name}:app")

        told_of, _, open_ones = out.partition("\nNothing covers these, which may be meant:\n")
        rows = [line.split() for line in told_of.split("\n\n")[1].splitlines()]
        limits = "600/minute requests"
        assert (code, err) == (0, "")
        assert ["route", "who", "may", "ask", "model", "quotas"] in rows
        for row in (
            f"POST /predict token iris {limits}, 10000/hour rows of iris",
            f"plan gold: {limits}, 90000/hour rows of iris",
            "tenant: 50000/hour rows of iris",
            "GET /health public none",
            f"DELETE /cache scopes admin {limits}, 5/minute;9/day declared",
        ):
            assert row.split() in rows
        assert "GET /health needs no token and has no quota: take it out of" in open_ones
        assert "/predict" not in open_ones

    def test_mounted_on_fastapi(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The routes of an app that is mounted in another are told with it, WebSockets too."""
        more = """\
inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
inner.get("/items")(predict)
app.mount("/inner", inner)

@app.websocket("/stream")
async def stream(): ...
"""
        name = whole_app("fastapi", monkeypatch, more)

        _, out, _ = told("check", f"{name}:app")

        rows = [line.split()[:3] for line in out.splitlines()]
        assert ["GET", "/inner/items", "token"] in rows
        assert ["WEBSOCKET", "/stream", "token"] in rows

    def test_mounted_on_flask(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What was mounted around the guard is told to be unguarded."""
        more = """\
from werkzeug.middleware.dispatcher import DispatcherMiddleware
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/old": bare})
"""
        name = whole_app("flask", monkeypatch, more)

        _, out, _ = told("check", f"{name}:app")

        assert ["any", "/old", "unguarded", "none"] in [line.split() for line in out.splitlines()]
        assert "any /old is not guarded: mount it before MLGuard(app, ...), or give it an" in out

    @pytest.mark.parametrize(
        ("public", "expected"),
        [(["/health"], "nothing covers 1 route"), (["/health", "/"], "nothing covers 2 routes")],
        ids=["one", "two"],
    )
    def test_strict(
        self, told: Any, public: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With --strict, open routes are a failure, told after the list."""
        name = whole_app(
            "flask", monkeypatch, 'app.get("/", endpoint="root")(lambda: {})', public=public
        )

        code, out, err = told("check", "--strict", f"{name}:app")

        assert (code, err) == (1, f"mlguard: {name}:app: {expected}\n")
        assert "Nothing covers these" in out

    def test_strict_where_all_is_covered(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """With --strict, an app whose routes are all covered passes, and no gap is named."""
        name = whole_app("flask", monkeypatch, public=[])

        code, out, err = told("check", "--strict", f"{name}:app")

        assert (code, err) == (0, "")
        assert "Nothing covers" not in out

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_several_routes(
        self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A model's routes are told, and one with the same handler that is none of them."""
        more = 'app.post("/v1/predict")(predict)\napp.post("/v2/predict", **named)(predict)'
        named = "named = {'endpoint': 'v2'} if hasattr(app, 'wsgi_app') else {}\n"
        name = whole_app(framework, monkeypatch, named + more)
        both = '["/predict", "/v2/predict"]'
        text = Path("mlguard.toml").read_text().replace('route = "/predict"', f"routes = {both}")
        written("mlguard.toml", text)

        code, out, _ = told("check", f"{name}:app")
        strict, _, err = told("check", "--strict", f"{name}:app")

        assert "  model    iris 1 /predict /v2/predict" in out
        assert "These ways lead around the guard:" in out
        twin = "/v1/predict has the handler of /predict, but no model, so nobody reads its rows:"
        assert twin in out
        assert "/v2/predict has the handler" not in out
        assert (code, strict) == (0, 1)
        assert err.endswith("nothing covers 1 route, and 1 way around the guard\n")

    def test_hosts_on_fastapi(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A route is told with its host, and a name that several hosts answer stops the start."""
        more = """\
inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
inner.get("/health")(predict)
app.host("admin.example.org", inner)
"""
        name = whole_app("fastapi", monkeypatch, more)

        assert told("check", f"{name}:app") == (
            1,
            "",
            (
                "mlguard: mlguard.toml: auth.public = '/health': the app has it on several hosts; "
                "write '*/health' or 'admin.example.org/health', where * asks for no host\n"
            ),
        )
        name = whole_app("fastapi", monkeypatch, more, public=["*/health"])
        rows = [line.split()[:3] for line in told("check", f"{name}:app")[1].splitlines()]

        assert ["GET", "/health", "public"] in rows
        assert ["GET", "admin.example.org/health", "token"] in rows

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_a_layer_around_the_app(
        self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The guard is found below what was put around the app, which is told."""
        more = """\
class Around:
    def __init__(self, app):
        self.wrapped = app
    def __call__(self, *arguments):
        return self.wrapped(*arguments)
outermost = Around(app)
"""
        name = whole_app(framework, monkeypatch, more, public=[])

        code, out, _ = told("check", f"{name}:outermost")
        strict, _, err = told("check", "--strict", f"{name}:outermost")

        said = f"{name}.Around stands around the guard, and what it answers by itself is not"
        assert said in out
        assert (code, strict) == (0, 1)
        assert err == f"mlguard: {name}:outermost: 1 way around the guard\n"

    def test_another_page_of_metrics(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """What shows metrics too is told; a guarded page is no way around."""
        more = """\
from prometheus_client import make_asgi_app
app.mount("/prom", make_asgi_app())
"""
        name = whole_app("fastapi", monkeypatch, more, public=[])

        code, out, err = told("check", "--strict", f"{name}:app")

        assert (code, err) == (0, "")
        said = "/prom shows the metrics of prometheus_client; those of mlguard are at /metrics"
        assert said in out

    @pytest.mark.parametrize("columns", [60, 80, 100])
    def test_a_narrow_terminal(
        self, told: Any, columns: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No line is longer than the terminal."""
        name = whole_app("flask", monkeypatch)
        monkeypatch.setenv("COLUMNS", str(columns))

        _, out, _ = told("check", f"{name}:app")

        assert max(map(len, out.splitlines())) <= columns
        assert "90000/hour rows of iris" in " ".join(out.split())

    def test_who_reads_one_line(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Who reads no further, as `head -1` does, ends nothing with a traceback."""
        name = whole_app("flask", monkeypatch)
        command = [*COMMAND, "check", "--strict", f"{name}:app"]
        reader, writer = os.pipe()
        os.close(reader)

        with os.fdopen(writer, "wb") as out:
            done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True)

        said = f"mlguard: {name}:app: nothing covers 1 route\n"
        assert (done.returncode, done.stderr) == (1, said)

    def test_a_closed_pipe(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nor is that a mistake of the settings."""
        written("mlguard.toml", FILE)
        reader, writer = os.pipe()
        os.close(reader)

        with os.fdopen(writer, "w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            assert main(["check", "mlguard.toml"]) == 0

        assert capsys.readouterr().err == ""

    def test_a_full_device(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """What cannot be written is told once."""
        written("mlguard.toml", FILE)

        with Path("/dev/full").open("w") as out:
            monkeypatch.setattr(sys, "stdout", out)
            assert main(["check", "mlguard.toml"]) == 1

        said = "mlguard: what was found cannot be written: No space left on device\n"
        assert capsys.readouterr().err == said

    @pytest.mark.parametrize("arguments", [["check"], ["--help"], ["reference", "--help"]], ids=str)
    def test_full_devices(self, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        """Nor does another command end with a traceback there; its code says that it failed."""
        monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # argparse would hide what fails
        written("mlguard.toml", FILE)

        with Path("/dev/full").open("w") as out:
            done = subprocess.run(
                [*COMMAND, *arguments], stdout=out, stderr=subprocess.PIPE, text=True
            )

        said = "mlguard: what was found cannot be written: No space left on device\n"
        assert (done.returncode, done.stderr) == (1, said)

    def test_nobody_listens(self) -> None:
        """Without any standard stream, a command says nothing, and its code what it found."""
        script = f"exec >&- 2>&-; exec {shlex.join(COMMAND)} check nowhere.toml"

        assert subprocess.run(["/bin/sh", "-c", script]).returncode == 1

    def test_the_usual_file(self, told: Any) -> None:
        """Without a target the file beside is checked, which is told."""
        assert told("check")[0::2] == (
            1,
            (
                "mlguard: there is no mlguard.toml here: name a settings file or module:app, or "
                "let `mlguard init module:app` write one\n"
            ),
        )
        written("mlguard.toml", FILE)

        code, out, err = told("check")

        assert (code, err) == (0, "")
        assert out.startswith("mlguard.toml: ok\n")

    @pytest.mark.parametrize("text", ["", "# nothing\n", "[metrics]\npath = '/m'\n"])
    def test_an_empty_file(self, told: Any, text: str) -> None:
        """A file that switches nothing on is told to be empty."""
        written("mlguard.toml", text)

        code, out, _ = told("check")

        assert code == 0
        assert out.startswith(
            "mlguard.toml: ok, but empty: nothing is on but metrics; `mlguard init module:app`"
        )

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_json(self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """A program is told the same as a person, as one JSON document."""
        name = whole_app(framework, monkeypatch, "print('an app that prints')")

        code, out, err = told("check", "--json", "--strict", f"{name}:app")

        found = json.loads(out)
        routes = {(*route["methods"], route["route"]): route for route in found["routes"]}
        assert code == 1
        assert err.endswith(f"mlguard: {name}:app: nothing covers 1 route\n")
        assert found["mistakes"] == ["nothing covers 1 route"]
        assert {"about": "drift", "said": "off: no model has a reference"} in found["summary"]
        assert routes["POST", "/predict"]["models"] == ["iris"]
        assert routes["DELETE", "/cache"]["access"] == "scopes admin"
        assert routes["GET", "/health"]["gap"].startswith("needs no token")

    def test_json_of_mistakes(self, told: Any) -> None:
        """Mistakes are told a program too."""
        written("mlguard.toml", FILE.replace("600/minute", "many").replace("0.25", "2.0"))

        code, out, _ = told("check", "--json")

        found = json.loads(out)
        assert (code, found["ok"], found["target"]) == (1, False, "mlguard.toml")
        assert [m.partition(" ")[0] for m in found["mistakes"]] == [
            "quotas.requests[0]",
            "tracing.sample",
        ]

    def test_strict_without_an_app(self, told: Any) -> None:
        """A settings file has no routes."""
        written("mlguard.toml", FILE)

        assert told("check", "--strict", "mlguard.toml") == (
            1,
            "",
            "mlguard: --strict is about the routes of an app: give module:app\n",
        )

    def test_all_quotas(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Plans, tenants, budgets, exemptions and the store are told, but no password."""
        monkeypatch.setenv("MLGUARD_QUOTAS__STORE", "rediss://:hunter2@redis.example.com/0")
        written("mlguard.toml", FILE[: FILE.index("[quotas]")] + QUOTAS)

        code, out, err = told("check", "mlguard.toml")

        lines = out.splitlines()
        first = next(n for n, line in enumerate(lines) if line.startswith("  quotas"))
        assert (code, err) == (0, "")
        assert lines[first : first + 8] == [
            (
                "  quotas   600/minute requests, 5000/day tokens, 32 requests in flight, "
                "1000000 rows ever"
            ),
            "           models.iris: 10/hour rows",
            "           plans.gold: any number of requests",
            "           plans.gold.models.iris: 9000/hour rows",
            "           tenant: 90000/hour rows",
            "           each worker: 200 requests in flight",
            (
                "           not counted: routes /health, subjects ops, scopes admin, "
                "networks 10.0.0.0/8"
            ),
            (
                "  counts   in rediss://...@redis.example.com/0; without it open, lifetime closed, "
                "rows local, where local is 0.5 of each limit in each worker"
            ),
        ]

    @pytest.mark.parametrize(
        ("quotas", "said"),
        [
            ("", "  quotas   off"),
            ("[quotas]\nmax_in_flight = 9", "  quotas   each worker: 9 requests in flight, 300/"),
            (
                '[quotas]\nrequests = ["1/day"]\nstore = "redis://r"\non_store_failure = "closed"',
                "  counts   in redis://r; without it closed\n",
            ),
        ],
        ids=["off", "in flight only", "closed"],
    )
    def test_few_quotas(self, told: Any, quotas: str, said: str) -> None:
        """What is not set is not told."""
        written("mlguard.toml", quotas)

        assert said in told("check", "mlguard.toml")[1]

    @pytest.mark.parametrize(
        "target",
        [
            "no_such_module:app",
            "no.such.module:app",
            pytest.param(":app"),
        ],
    )
    def test_no_module(self, told: Any, target: str) -> None:
        """A module that cannot be imported is told, not raised."""
        code, _, err = told("check", target)

        assert code == 1
        assert err.startswith(f"mlguard: {target}: cannot be imported: ")

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_mistakes_of_an_app(
        self, told: Any, framework: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An app that stops at its own settings is told as a file would be."""
        name = app(framework, monkeypatch, {"name": "two words"})

        code, _, err = told("check", f"{name}:app")

        assert code == 1
        assert "models[two words].name = 'two words'" in err

    @pytest.mark.parametrize(
        "content", ["{}", "not json", '{"keys": []}', '{"keys": [{"kty": "RSA"}]}']
    )
    def test_keys_that_cannot_be_used(self, told: Any, content: str) -> None:
        """A key set that would stop the start is found before it."""
        written("keys.json", content)
        auth = 'issuer = "i"\naudience = "a"\nalgorithms = ["RS256"]\njwks_file = "keys.json"'
        written("mlguard.toml", f"[auth]\n{auth}\n")

        code, _, err = told("check", "mlguard.toml")

        assert code == 1
        assert "keys.json" in err

    def test_what_a_verdict_takes(self, told: Any) -> None:
        """A model with a reference is told with the rows and requests of its first verdict."""
        Reference.build({"a": [float(n) for n in range(500)]}).save("reference.parquet")
        written("mlguard.toml", '[[models]]\nname = "iris"\nreference = "reference.parquet"\n')

        _, out, _ = told("check", "mlguard.toml")

        (line,) = [line for line in out.splitlines() if "drift" in line]
        wanted = Reference.peek_window("reference.parquet")
        takes = f"a verdict takes {wanted} rows, those of {wanted} requests at least"
        assert line == f"  drift    iris: {takes}"

    def test_a_damaged_reference(self, told: Any) -> None:
        """A reference that cannot be read is told with the command that makes one."""
        written("reference.parquet", "a,b\n1,2\n")
        written("mlguard.toml", '[[models]]\nname = "iris"\nreference = "reference.parquet"\n')

        code, _, err = told("check", "mlguard.toml")

        assert code == 1
        assert "mlguard reference build" in err


class TestMint:
    @staticmethod
    def claims(out: str) -> dict[str, Any]:
        (line,) = out.splitlines()
        secret = SECRET + "." * 20
        return dict(jwt.decode(line, secret, ["HS384"], options={"verify_aud": False}))

    def test_a_token_that_is_accepted(self, told: Any) -> None:
        """A token carries all that the settings demand, for an hour."""
        written("mlguard.toml", FILE)

        code, out, err = told("token", "mint")

        claims = self.claims(out)
        assert (code, err) == (0, "")
        assert claims.pop("exp") - claims.pop("iat") == 3600
        assert claims.pop("jti")
        assert claims == {
            "iss": "https://login.example.com/",
            "aud": "iris-api",
            "sub": "alice",
            "scope": "predict explain",
            "tid": "tenant",
        }

    def test_options(self, told: Any) -> None:
        """Subject, tenant, scope and time are the operator's to choose."""
        written("other.toml", FILE)

        _, out, _ = told(
            *("token", "mint", "--settings", "other.toml", "--subject", "bob", "--tenant", "t"),
            *("--scope", "predict", "--minutes", "0.5"),
        )

        claims = self.claims(out)
        assert (claims["sub"], claims["tid"], claims["scope"]) == ("bob", "t", "predict")
        assert claims["exp"] - claims["iat"] == 30

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "mlguard: mlguard.toml: tokens need the table [auth]"),
            ("[auth]\nissuer = 5\n", "auth.issuer = 5"),
        ],
        ids=["no auth", "mistakes"],
    )
    def test_no_secret(self, told: Any, text: str, said: str) -> None:
        """Without a secret of the settings no token can be signed."""
        written("mlguard.toml", text)

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert said in err

    def test_public_keys(self, told: Any) -> None:
        """Public keys sign nothing."""
        written("keys.json", '{"keys": []}')
        auth = 'issuer = "i"\naudience = "a"\nalgorithms = ["RS256"]\njwks_file = "keys.json"'
        written("mlguard.toml", f"[auth]\n{auth}\n")

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert "only the issuer has private keys of" in err

    @pytest.mark.parametrize("minutes", ["nan", "inf"])
    def test_odd_minutes(self, told: Any, minutes: str) -> None:
        """A time that is no time is told, not raised."""
        written("mlguard.toml", FILE)

        with pytest.raises(SystemExit, match="2"):
            told("token", "mint", "--minutes", minutes)


FETCHED = """\
[auth]
issuer = "https://login.example.com/"
audience = "iris-api"
algorithms = ["RS256"]
"""
OWN = """\
[service]
host_file = false

[[models]]
name = "iris"
scopes = ["iris"]

[auth]
issuer = "https://login.example.com/"
audience = "iris-api"
algorithms = ["{algorithm}"]
jwks_file = "keys.json"
scopes = ["predict"]
"""
SEVERAL = """\
[service]
host_file = false

[auth]
scopes = ["predict"]

[[auth.issuers]]
name = "corp"
issuer = "https://login.example.com/"
audience = ["iris-api", "other"]
algorithms = ["RS256"]

[[auth.issuers]]
name = "partner"
issuer = "https://partner.example.com/"
audience = "iris-api"
algorithms = ["HS256"]
secret_env = ["CLI_OLD", "CLI_SECRET"]
tenant_claim = "https://partner.example.com/tenant"

[[auth.issuers]]
issuer = "urn:pem"
audience = "iris-api"
algorithms = ["EdDSA"]
pem_file = "nowhere.pem"
"""


def verdict(settings: str, token: str) -> Principal | Deny:
    """Ask what a service with these settings would."""
    authenticator = Service(settings).guard.parts.authenticator
    assert authenticator is not None
    found = authenticator.recall((f"Bearer {token}",), time.time())
    if not isinstance(found, Credential):
        return found
    with pytest.raises(StopIteration) as decided:
        next(authenticator.verify(found, time.time()))
    return cast("Principal | Deny", decided.value.value)


class TestCheckOfAuth:
    def test_where_keys_come_from(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Each issuer is told with its algorithms and where its keys come from; and the scopes."""
        monkeypatch.setenv("CLI_OLD", "o" * 40)
        fifth = 'issuer = "five"\naudience = "a"\nalgorithms = ["RS256", "ES256"]\n'
        text = SEVERAL.replace('"nowhere.pem"', f'"{pem("keys.pem")}"')
        written(
            "mlguard.toml",
            f"{text}[[auth.issuers]]\n{fifth}jwks_url = 'https://k.example.com/jwks'\n"
            "[[models]]\nname = 'iris'\nscopes = ['iris', 'admin']\n",
        )

        code, out, err = told("check", "mlguard.toml")

        assert (code, err) == (0, "")
        lines = out.splitlines()
        assert lines[1:6] == [
            "  auth     https://login.example.com/: RS256 by OpenID discovery",
            "  auth     https://partner.example.com/: HS256 by secret_env CLI_OLD, CLI_SECRET",
            f"  auth     urn:pem: EdDSA by pem_file {Path('keys.pem').resolve()}",
            "  auth     five: RS256, ES256 by jwks_url https://k.example.com/jwks",
            "  scopes   predict",
        ]
        assert lines[-1] == "  model    iris 1 asked by handlers only, scopes iris admin"

    def test_no_network(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither a key server nor a store is asked, and none need be there."""
        fetched = FETCHED.replace("[auth]", "[[auth.issuers]]")
        monkeypatch.setenv("MLGUARD_AUTH__REVOCATION_STORE", "redis://127.0.0.1:1/0")
        with KeyServer() as server:
            found = fetched.replace("https://login.example.com/", server.url)
            named = fetched + f'jwks_url = "{server.jwks_url}"\n'
            gone = fetched.replace("login", "gone") + 'jwks_url = "http://127.0.0.1:1/jwks"\n'
            written("mlguard.toml", found + named + gone)

            code, out, err = told("check", "mlguard.toml")

            assert (code, err) == (0, "")
            assert out.count("RS256 by ") == 3
            assert server.count() == server.count(DISCOVERY) == 0

    def test_the_store(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """The store is told without its password."""
        written("mlguard.toml", FETCHED)
        monkeypatch.setenv(
            "MLGUARD_AUTH__REVOCATION_STORE", "redis://alice:hunter2@redis.example.com/0"
        )

        code, out, err = told("check", "mlguard.toml")

        assert (code, err) == (0, "")
        assert "  store    redis://...@redis.example.com/0, for revocations\n" in out
        assert "hunter2" not in out
        assert "alice" not in out

    def test_a_store_that_is_none(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """A wrong store is told without its password too."""
        written("mlguard.toml", FETCHED)
        monkeypatch.setenv(
            "MLGUARD_AUTH__REVOCATION_STORE", "http://alice:hunter2@redis.example.com/0"
        )

        code, out, err = told("check", "mlguard.toml")

        assert code == 1
        assert "auth.revocation_store: must be a URL like" in err
        assert "hunter2" not in out + err


def pem(name: str) -> Path:
    """Write a public key of Ed25519."""
    public = Ed25519PrivateKey.generate().public_key()
    path = Path(name)
    path.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return path


@pytest.fixture(scope="module")
def pems() -> dict[str, bytes]:
    """Make private keys, and what can be used as none."""
    protected = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password")
    )
    made = {algorithm: make_key(algorithm)[0] for algorithm in ("RS256", "ES384", "EdDSA")}
    return {**made, "nothing": b"", "a password": protected}


class TestMintWithKeys:
    @pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES256", "ES512", "EdDSA"])
    def test_keys_are_made(self, told: Any, algorithm: str) -> None:
        """Where no key set is, one is made with its private key, whose tokens are accepted."""
        written("mlguard.toml", OWN.format(algorithm=algorithm))

        code, out, err = told("token", "mint")

        public, private = Path("keys.json").resolve(), Path("keys.private.pem").resolve()
        made = f"made {public}, and {private} to sign with: keep that one off every server\n"
        assert (code, err) == (0, made)
        assert stat.S_IMODE(private.stat().st_mode) == 0o600
        principal = verdict("mlguard.toml", out.strip())
        assert isinstance(principal, Principal)
        assert principal.scopes == {"predict", "iris"}
        assert "PRIVATE" not in public.read_text()

    def test_keys_are_used_again(self, told: Any) -> None:
        """A second token is of the same keys."""
        written("mlguard.toml", OWN.format(algorithm="ES256"))
        _, first, _ = told("token", "mint")
        before = Path("keys.json").read_bytes(), Path("keys.private.pem").read_bytes()

        code, second, err = told("token", "mint", "--subject", "bob")

        assert (code, err) == (0, "")
        assert (Path("keys.json").read_bytes(), Path("keys.private.pem").read_bytes()) == before
        keys = KeySet.from_document(before[0])
        subjects = [json.loads(verify_jws(t.strip(), keys))["sub"] for t in (first, second)]
        assert subjects == ["alice", "bob"]

    @pytest.mark.parametrize(
        ("missing", "said"),
        [
            ("keys.private.pem", "name a `jwks_file` that is not there yet, and both are made"),
            ("keys.json", "bring the one back, or remove the other, and both are made anew"),
        ],
    )
    def test_half_a_pair(self, told: Any, missing: str, said: str) -> None:
        """Half of the pair signs nothing, is not replaced, and the way out is told."""
        written("mlguard.toml", OWN.format(algorithm="ES256"))
        told("token", "mint")
        Path(missing).unlink()

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert f"mlguard: {Path(missing).resolve()} is missing" in err
        assert said in err
        assert not Path(missing).exists()

    @pytest.mark.parametrize(
        ("name", "content"),
        [
            ("keys.json", "{}"),
            ("keys.json", '{"keys": []}'),
            ("keys.json", '{"keys": [{"kty": "EC"}]}'),
            ("keys.json", "not json"),
            ("keys.json", None),
            ("keys.private.pem", "not PEM"),
            ("keys.private.pem", ""),
            ("keys.private.pem", None),
            ("mlguard.toml", OWN.format(algorithm="RS256")),
            ("mlguard.toml", OWN.format(algorithm="EdDSA")),
        ],
    )
    def test_a_pair_that_does_not_fit(self, told: Any, name: str, content: str | None) -> None:
        """Keys that would sign what is refused sign nothing; None is another pair's half."""
        written("mlguard.toml", OWN.format(algorithm="ES256"))
        told("token", "mint")
        kept = Path(name).read_text()
        if content is None:
            Path("keys.json").unlink()
            Path("keys.private.pem").unlink()
            told("token", "mint")
        Path(name).write_text(content if content is not None else kept)

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert "keys.private.pem cannot sign for " in err
        assert "PRIVATE KEY" not in err

    @pytest.mark.parametrize(
        "members", [{"alg": "none"}, {"alg": "HS256"}, {"alg": 5}, {"alg": []}, {"kid": 5}], ids=str
    )
    def test_an_odd_public_key(self, told: Any, members: dict[str, Any]) -> None:
        """A public key that says what is not so is told, not raised."""
        written("mlguard.toml", OWN.format(algorithm="ES256"))
        told("token", "mint")
        (key,) = json.loads(Path("keys.json").read_text())["keys"]
        written("keys.json", json.dumps({"keys": [key | members]}))

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert "keys.private.pem cannot sign for " in err

    def test_no_link_is_followed(self, told: Any, tmp_path: Path) -> None:
        """A link where the private key would be is not written through."""
        written("mlguard.toml", OWN.format(algorithm="ES256"))
        Path("keys.private.pem").symlink_to(tmp_path / "elsewhere.pem")

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert "cannot be made: " in err
        assert not Path("elsewhere.pem").exists()

    @pytest.mark.parametrize("algorithm", ["RS256", "PS256", "ES256", "EdDSA"])
    @pytest.mark.parametrize("made_for", ["RS256", "ES384", "EdDSA", "nothing", "a password"])
    def test_signers(self, pems: dict[str, bytes], made_for: str, algorithm: str) -> None:
        """A private key signs for its own algorithms, and is refused for others by a ValueError."""
        if (made_for, algorithm) in {("RS256", "RS256"), ("RS256", "PS256"), ("EdDSA", "EdDSA")}:
            assert signer(pems[made_for], algorithm)(b"")
        else:
            with pytest.raises(ValueError, match="it is no private key"):
                signer(pems[made_for], algorithm)

    def test_keys_that_cannot_be_written(self, told: Any) -> None:
        """A folder that is not there is told, not raised."""
        text = OWN.format(algorithm="ES256").replace("keys.json", "no/such/keys.json")
        written("mlguard.toml", text)

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert f"mlguard: {Path('no/such/keys.json').resolve()}: cannot be made: " in err

    def test_keys_that_are_fetched(self, told: Any) -> None:
        """Nobody but the issuer can sign for keys that are fetched; what to do is told."""
        written("mlguard.toml", FETCHED)

        code, out, err = told("token", "mint")

        assert (code, out) == (1, "")
        assert "only the issuer 'https://login.example.com/' has private keys" in err
        assert "let settings of your own name a `jwks_file` or a `secret_env`" in err

    @pytest.mark.parametrize("name", ["partner", "https://partner.example.com/"])
    def test_one_of_several_issuers(
        self, told: Any, name: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An issuer is chosen by itself or its entry's name; the newest of its secrets signs."""
        monkeypatch.setenv("CLI_OLD", "o" * 40)
        written("mlguard.toml", SEVERAL)

        code, out, err = told("token", "mint", "--issuer", name, "--tenant", "t")

        assert (code, err) == (0, "")
        newest = os.environ["CLI_SECRET"].encode()
        claims = json.loads(verify_jws(out.strip(), KeySet.from_secrets([newest])))
        assert claims["iss"] == "https://partner.example.com/"
        assert claims["https://partner.example.com/tenant"] == "t"

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("nobody", "no issuer is 'nobody'; known: https://login.example.com/, https://par"),
            ("urn:pem", "only the issuer 'urn:pem' has private keys of its pem_file "),
        ],
    )
    def test_issuers_that_cannot(
        self, told: Any, name: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An issuer that is not there, or whose private keys are not, is told."""
        monkeypatch.setenv("CLI_OLD", "o" * 40)
        written("mlguard.toml", SEVERAL)

        code, out, err = told("token", "mint", "--issuer", name)

        assert (code, out) == (1, "")
        assert said in err


EXPLAINED = """\
[service]
host_file = false

[[models]]
name = "iris"
scopes = ["iris"]

[auth]
issuer = "https://login.example.com/"
audience = ["iris-api", "other"]
algorithms = ["HS384"]
secret_env = "CLI_SECRET"
typ = "at+jwt"
scopes = ["predict"]
tenant_claim = "org.id"
max_age = 7200
"""
ABSENT = object()


def signed(*, key: str = "", alg: str = "HS384", header: Any = None, **others: Any) -> str:
    """Sign a token of `EXPLAINED` with other claims or another header."""
    now = int(time.time())
    claims = {
        "iss": "https://login.example.com/",
        "aud": "iris-api",
        "sub": "alice",
        "org": {"id": "acme"},
        "scope": "predict iris",
        "iat": now - 60,
        "exp": now + 600,
    } | others
    told = {"typ": "at+jwt"} | (header or {})
    return mint(
        {n: value for n, value in claims.items() if value is not ABSENT},
        alg,
        secret_signer((key or os.environ["CLI_SECRET"]).encode(), alg),
        **{n: value for n, value in told.items() if value is not ABSENT},
    )


def claims_of(token: str) -> dict[str, Any]:
    """Read a token's claims, without looking at its signature."""
    return dict(jwt.get_unverified_claims(token.strip()))


def marked(out: str) -> list[str]:
    """Return the names of the rows that are marked as wrong."""
    return [line.split()[1] for line in out.splitlines() if line.startswith("! ")]


PAST = int(time.time()) - 100_000
REFUSALS = [
    pytest.param(
        {"exp": PAST + 3600, "iat": PAST},
        "token_expired: exp is past",
        ["iat", "exp"],
        id="expired",
    ),
    pytest.param({"iat": PAST}, "token_expired: iat is longer ago than max_age", ["iat"], id="old"),
    pytest.param({"exp": ABSENT}, "token_untrusted: exp is missing", ["exp"], id="no exp"),
    pytest.param({"exp": "5"}, "token_untrusted: exp is missing or no", ["exp"], id="text exp"),
    pytest.param({"iat": ABSENT}, "token_untrusted: iat is missing", ["iat"], id="no iat"),
    pytest.param(
        {"nbf": PAST + 200_000}, "token_not_yet_valid: nbf is in the future", ["nbf"], id="early"
    ),
    pytest.param(
        {"iat": PAST + 200_000}, "token_not_yet_valid: iat is in the future", ["iat"], id="future"
    ),
    pytest.param({"aud": "x"}, "token_untrusted: aud is not the audience", ["aud"], id="audience"),
    pytest.param({"aud": 5}, "token_untrusted: aud is missing or no string", ["aud"], id="no aud"),
    pytest.param({"iss": "x"}, "token_untrusted: iss is not the issuer", ["iss"], id="issuer"),
    pytest.param({"iss": ABSENT}, "token_untrusted: iss is not the", ["iss"], id="no issuer"),
    pytest.param({"iss": ["x"]}, "token_untrusted: iss is not the", ["iss"], id="odd issuer"),
    pytest.param({"sub": ABSENT}, "token_untrusted: sub is missing", ["sub"], id="no subject"),
    pytest.param({"sub": "\ud800"}, "token_untrusted: sub is missing", ["sub"], id="surrogate"),
    pytest.param({"org": 5}, "token_untrusted: org.id is missing", ["org.id"], id="no tenant"),
    pytest.param(
        {"key": "k" * 48},
        "token_untrusted: no key verifies the signature",
        ["signature"],
        id="signature",
    ),
    pytest.param(
        {"alg": "HS512", "key": "k" * 64},
        "token_untrusted: no key has the token's alg and kid",
        ["alg", "signature"],
        id="algorithm",
    ),
    pytest.param(
        {"header": {"typ": ABSENT}},
        "token_untrusted: typ is not that of an access token",
        ["typ"],
        id="no type",
    ),
    pytest.param(
        {"header": {"typ": "JWT"}}, "token_untrusted: typ is not that", ["typ"], id="type"
    ),
    pytest.param(
        {"scope": "iris"}, "scope_missing: it does not grant predict", ["scope"], id="scope"
    ),
    pytest.param(
        {"aud": "x", "exp": PAST, "header": {"typ": "JWT"}},
        "token_untrusted: typ is not that of an access token",
        ["typ", "aud", "exp"],
        id="three at once",
    ),
    pytest.param(
        {"aud": "x", "key": "k" * 48},
        "token_untrusted: no key verifies the signature",
        ["signature", "aud"],
        id="signature and audience",
    ),
]


class TestExplain:
    @pytest.fixture(autouse=True)
    def _settings(self) -> None:
        written("mlguard.toml", EXPLAINED)

    @pytest.mark.parametrize(("others", "refusal", "wrong"), REFUSALS)
    def test_a_refusal(
        self, told: Any, others: dict[str, Any], refusal: str, wrong: list[str]
    ) -> None:
        """The code and the reason are told, and every row that is wrong is marked."""
        text = signed(**others)

        code, out, err = told("token", "explain", text)

        assert code == 1
        assert err.startswith(f"mlguard: the token would be refused: {refusal}")
        assert marked(out) == wrong
        assert "ok: accepted" not in out
        service = verdict("mlguard.toml", text)
        expected = service.code if isinstance(service, Deny) else "scope_missing"
        assert refusal.startswith(f"{expected}: ")

    def test_a_good_one(self, told: Any) -> None:
        """A token that is accepted is told as that, beside what is accepted."""
        text = signed(header={"kid": "k"}, nbf=0)

        code, out, err = told("token", "explain", text)

        assert (code, err, marked(out)) == (0, "", [])
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert lines[:9] == [
            "the token has accepted",
            'iss "https://login.example.com/" "https://login.example.com/"',
            'alg "HS384" "HS384"',
            'kid "k" that of a key, or none',
            "signature good secret_env CLI_SECRET",
            'typ "at+jwt" "at+jwt"',
            'aud "iris-api" "iris-api" or "other"',
            'sub "alice" any text',
            'org.id "acme" any text',
        ]
        assert lines[9].endswith("UTC, 1 minute ago past, give or take 10 s, by 7200 s at most")
        assert lines[10].startswith("nbf 1970-01-01 00:00:00 UTC, ")
        assert lines[11].endswith("UTC, in 9 minutes not past, give or take 10 s")
        assert lines[12:] == [
            'scope "iris" "predict" predict',
            "iris too, for the model iris",
            "ok: accepted, unless it was revoked",
        ]

    def test_columns(self, told: Any) -> None:
        """What is accepted stands in one column."""
        _, out, _ = told("token", "explain", signed())

        first, *rows, _ = out.splitlines()
        start = first.index("accepted")
        assert all(row[start - 2 : start] == "  " and row[start] != " " for row in rows)

    def test_a_model_that_may_not_be_asked(self, told: Any) -> None:
        """A token without a model's scopes is accepted, and the model is marked."""
        code, out, _ = told("token", "explain", signed(scope="predict"))

        assert code == 0
        assert "!" in next(line for line in out.splitlines() if "for the model iris" in line)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "token_malformed: "),
            ("abc", "token_malformed: not three segments"),
            ("a.b.c.d", "token_malformed: "),
            ("\udcff.\x1b.x", "token_malformed: a segment is not base64url"),
            ("e30.e30.e30", "token_malformed: alg is not a string"),
            ("a" * 9000, "token_malformed: longer than 8192 characters"),
        ],
        ids=["empty", "word", "four", "no text", "no alg", "long"],
    )
    def test_what_is_no_token(self, told: Any, text: str, said: str) -> None:
        """What is no token is told as that, and not repeated."""
        code, out, err = told("token", "explain", text)

        assert (code, out) == (1, "")
        assert err.startswith(f"mlguard: the token would be refused: {said}")

    @pytest.mark.parametrize(
        "around", ["Bearer {}", "bearer  {}\n", "Authorization: Bearer {}", "  {}\r\n"]
    )
    @pytest.mark.parametrize("by", ["argument", "standard input"])
    def test_as_people_copy_it(
        self, told: Any, around: str, by: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token may come on standard input, and with what stands around it in a request."""
        text = around.format(signed())
        stream = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr(sys, "stdin", stream)

        code, out, err = told("token", "explain", "-" if by == "standard input" else text)

        assert (code, err) == (0, "")
        assert out.endswith("ok: accepted, unless it was revoked\n")

    def test_bytes_on_standard_input(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bytes that are no text are no token."""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\xfe.\x80.x")))

        code, _, err = told("token", "explain", "-")

        assert code == 1
        assert "token_malformed: " in err

    @pytest.mark.parametrize("others", [{}, {"aud": "x"}, {"key": "k" * 48}, {"iss": "x"}])
    def test_the_signature_is_not_shown(self, told: Any, others: dict[str, Any]) -> None:
        """What is shown of a token does not let anybody use it."""
        text = signed(**others)

        _, out, err = told("token", "explain", text)

        signature = text.rpartition(".")[2]
        assert signature[:12] not in out + err

    @pytest.mark.parametrize("claim", ["iss", "aud", "sub", "scope", "scp", "org", "exp", "nbf"])
    @pytest.mark.parametrize(
        "value",
        [
            "\x1b]0;owned\x07\x1b[2J",
            "\x7f\x9b2J\u202e",
            "\ud800",
            "x\r\nok: accepted",
            ["\x1b[2J", "\x9b"],
            {"id": "\x1b[2J"},
            10**4000,
            -(10**300),
            1e308,
            float("1e15") + 1,
            253402300800,
            True,
            None,
            "x" * 3000,
        ],
        ids=lambda value: repr(value)[:20].encode("ascii", "replace").decode(),
    )
    def test_hostile_claims(self, told: Any, claim: str, value: object) -> None:
        """A terminal obeys nothing in a token, and no claim stops the explanation."""
        others = {claim: value} | ({"scope": ABSENT} if claim == "scp" else {})

        code, out, err = told("token", "explain", signed(**others))

        assert code in (0, 1)
        assert is_plain(out + err)
        assert max(map(len, out.splitlines())) < 200

    @given(
        claims=st.dictionaries(
            st.sampled_from(["iss", "aud", "sub", "org", "scope", "scp", "iat", "nbf", "exp", "x"]),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.text(max_size=5), inner, max_size=3)
                ),
                max_leaves=5,
            ),
        ),
        header=st.dictionaries(
            st.sampled_from(["typ", "kid", "cty", "x"]), st.text(max_size=9) | st.integers()
        ),
    )
    @examples(
        max_examples=100,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    def test_any_claims(self, told: Any, claims: dict[str, Any], header: dict[str, Any]) -> None:
        """Whatever a signed token says, it is judged as the service would, and shown as text."""
        text = signed(header=header, **claims)

        code, out, err = told("token", "explain", text)

        service = verdict("mlguard.toml", text)
        refused = "mlguard: the token would be refused: "
        assert is_plain(out + err)
        if isinstance(service, Deny):
            assert err.startswith(f"{refused}{service.code}: ")
        else:
            assert code == 0 or err.startswith(f"{refused}scope_missing: ")
        assert (code == 0) == out.endswith("ok: accepted, unless it was revoked\n")

    @pytest.mark.parametrize("source", ["jwks_url", "OpenID discovery"])
    def test_keys_that_are_fetched(self, told: Any, source: str) -> None:
        """A token is judged by keys that its issuer shows, and is shown to nobody."""
        good, other = key_pair("good"), key_pair("other")
        with KeyServer() as server:
            server.serve(good)
            server.discover()
            where = f'jwks_url = "{server.jwks_url}"\n' if source == "jwks_url" else ""
            text = FETCHED.replace("https://login.example.com/", server.url)
            written("mlguard.toml", text.replace("RS256", "ES256") + where)
            claims = {"iss": server.url, "aud": "iris-api", "sub": "a", "exp": time.time() + 60}

            code, out, err = told("token", "explain", good.sign(claims))
            assert (code, err, marked(out)) == (0, "", [])
            assert out.endswith("ok: accepted, unless it was revoked\n")
            signature = next(line.split() for line in out.splitlines() if "signature" in line)
            assert signature[:2] == ["signature", "good"]
            assert " ".join(signature[2:]).startswith(source)

            code, out, err = told("token", "explain", other.sign(claims))
            assert (code, marked(out)) == (1, ["kid", "signature"])
            assert "token_untrusted: no key has the token's alg and kid" in err

            assert server.count() == 2
            assert server.count(DISCOVERY) == (0 if where else 2)
            assert "authorization" not in {name.lower() for name in server.headers}

    def test_keys_that_cannot_be_fetched(self, told: Any) -> None:
        """Where the issuer's keys cannot be fetched, that is the answer, with the reason."""
        written(
            "mlguard.toml",
            FETCHED.replace("RS256", "ES256")
            + 'jwks_url = "http://127.0.0.1:1/jwks"\njwks_timeout = 2\n',
        )
        sign = signer(make_key("ES256")[0], "ES256")
        claims = {"iss": "https://login.example.com/", "aud": "iris-api", "sub": "a", "exp": 5}

        code, out, err = told("token", "explain", mint(claims, "ES256", sign, typ="JWT"))

        assert code == 1
        said = "keys_unavailable: its issuer's keys cannot be fetched: "
        assert err.startswith(f"mlguard: the token would be refused: {said}")
        assert not err.rstrip().endswith(": ")
        assert marked(out) == ["signature", "exp"]
        assert "jwks_url http://127.0.0.1:1/jwks" in out

    def test_a_key_that_is_not_known(self, told: Any) -> None:
        """A kid that no key has is marked beside the signature."""
        written("mlguard.toml", OWN.format(algorithm="ES256"))
        _, made, _ = told("token", "mint")
        sign = signer(Path("keys.private.pem").read_bytes(), "ES256")

        code, out, err = told("token", "explain", made.strip())
        assert (code, marked(out)) == (0, [])
        assert f"jwks_file {Path('keys.json').resolve()}" in out

        text = mint(claims_of(made), "ES256", sign, kid="another", typ="at+jwt")
        code, out, err = told("token", "explain", text)
        assert (code, marked(out)) == (1, ["kid", "signature"])
        assert "token_untrusted: no key has the token's alg and kid" in err

    def test_no_auth(self, told: Any) -> None:
        """Without authentication there is nothing to explain."""
        written("mlguard.toml", "")

        assert told("token", "explain", "x")[::2] == (
            1,
            "mlguard: mlguard.toml: tokens need the table [auth]\n",
        )


def is_plain(text: str) -> bool:
    return all(c == "\n" or " " <= c <= "~" for c in text)


def revoked_of(service: str) -> list[Revocation]:
    """Read what a service that starts here would know."""
    known = Revocations()
    for folder in Folder.existing(service):
        with closing(Database(folder.database, wait=2.0)) as database:
            RevocationTable(database, known).start()
    return list(known)


class TestRevoke:
    @pytest.fixture
    def service(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
        """Name a service that nobody else has."""
        name = f"cli-{uuid4().hex[:16]}"
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        written("mlguard.toml", EXPLAINED.replace("host_file = false", f'name = "{name}"'))
        return name

    @pytest.mark.parametrize(
        ("arguments", "expected"),
        [
            (["--jti", "one"], ("jti", "one")),
            (["--subject", "alice"], ("subject", "alice")),
            (
                ["--subject", "alice", "--issuer", "https://login.example.com/"],
                ("subject", "alice"),
            ),
            (["TOKEN"], ("jti", "of a token")),
            (["Bearer TOKEN"], ("jti", "of a token")),
        ],
        ids=["jti", "subject", "subject of an issuer", "token", "bearer"],
    )
    def test_nothing_runs(
        self, told: Any, service: str, arguments: list[str], expected: tuple[str, str]
    ) -> None:
        """Where nothing has run that is told with what to do, and remembered for the next start."""
        text = signed(jti="of a token")

        code, _, err = told("token", "revoke", *[a.replace("TOKEN", text) for a in arguments])

        assert code == 1
        assert f"no service named {service!r} has run on this host as this user: one that" in err
        assert "one that starts here will know; `auth.revocation_store` would reach other" in err
        (kept,) = revoked_of(service)
        assert (kept.kind, kept.name) == expected
        assert kept.issuer == "https://login.example.com/"

    def test_a_service_that_ran_here(self, told: Any, service: str) -> None:
        """Where the service has its file, it need not run: that is told, and is no failure."""
        told("token", "revoke", "--jti", "one")

        code, out, err = told("token", "revoke", "--jti", "two")

        assert (code, err) == (0, "")
        assert out.startswith(
            f"written for the service {service!r} on this host: 0 of its instances run\n"
        )
        assert {r.jti for r in revoked_of(service)} == {"one", "two"}

    def test_no_room_to_remember(
        self, told: Any, service: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is not remembered is not told to be."""
        told("token", "revoke", "--jti", "one")
        monkeypatch.setattr("mlguard.revocations.MAX_ENTRIES", 1)

        code, out, err = told("token", "revoke", "--jti", "two")

        assert (code, out) == (1, "")
        assert "it is not remembered on this host: 1 revocations more than the " in err

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["abc"], "that is no token: not three segments"),
            ([""], "that is no token: "),
            (["--jti", ""], "jti must be a string of 1 to 1024 characters"),
            (["--subject", ""], "subject must be a string of 1 to 1024 characters"),
            (["--subject", "a", "--issuer", "x"], "no issuer is 'x'; known: https://login"),
        ],
        ids=["no token", "empty token", "empty jti", "empty subject", "unknown issuer"],
    )
    def test_mistakes(self, told: Any, service: str, arguments: list[str], said: str) -> None:
        """What cannot be revoked is told, and nothing is written down."""
        code, out, err = told("token", "revoke", *arguments)

        assert (code, out) == (1, "")
        assert said in err
        assert revoked_of(service) == []

    @pytest.mark.parametrize(
        ("others", "said"),
        [
            ({}, "the token has no jti to revoke it by: revoke its subject"),
            ({"jti": "j", "iss": "x"}, "the token is of no issuer that is accepted"),
        ],
        ids=["no jti", "another issuer"],
    )
    def test_tokens_that_cannot_be(
        self, told: Any, service: str, others: dict[str, Any], said: str
    ) -> None:
        """A token that cannot be named, or is refused anyway, is told as that."""
        code, out, err = told("token", "revoke", signed(**others))

        assert (code, out) == (1, "")
        assert said in err

    def test_which_of_several_issuers(
        self, told: Any, service: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where there are several issuers, it must be said whose subject it is."""
        monkeypatch.setenv("CLI_OLD", "o" * 40)
        text = SEVERAL.replace("host_file = false", f'name = "{service}"')
        written("mlguard.toml", text.replace('"nowhere.pem"', f'"{pem("keys.pem")}"'))

        code, _, err = told("token", "revoke", "--subject", "alice")
        assert code == 1
        assert "several issuers are accepted: say which, of https://login.example.com/, " in err

        _, _, err = told("token", "revoke", "--subject", "alice", "--issuer", "partner")
        assert "one that starts here will know" in err
        (kept,) = revoked_of(service)
        assert kept.issuer == "https://partner.example.com/"

    def test_a_store_that_does_not_answer(
        self, told: Any, service: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store that cannot be reached is told without its password; the host remembers."""
        monkeypatch.setenv("MLGUARD_AUTH__REVOCATION_STORE", "redis://:hunter2@127.0.0.1:1/0")

        code, out, err = told("token", "revoke", "--jti", "one")

        assert code == 1
        assert "other hosts were not told: redis://...@127.0.0.1:1/0: " in err
        assert "hunter2" not in out + err
        assert len(revoked_of(service)) == 1

    def test_without_a_file(self, told: Any) -> None:
        """A service whose workers do not meet in a file cannot be told anything."""
        written("mlguard.toml", EXPLAINED)

        code, out, err = told("token", "revoke", "--jti", "one")

        assert (code, out) == (1, "")
        assert "`service.host_file` is false" in err

    @pytest.mark.parametrize(
        "arguments", [[], ["x", "--jti", "y"], ["--jti", "x", "--subject", "y"], ["x", "y"]]
    )
    def test_usage(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """Exactly one of a token, a jti and a subject is revoked."""
        with pytest.raises(SystemExit) as caught:
            main(["token", "revoke", *arguments])

        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("usage: mlguard")


class TestReference:
    @pytest.fixture(autouse=True)
    def _data(self) -> None:
        frame = pd.DataFrame({"age": [1.0, 2.0], "region": ["n", "s"], "code": [7, 8]})
        frame.to_csv("data.csv", index=False)
        frame.to_parquet("data.parquet")

    @pytest.mark.parametrize("data", ["data.csv", "data.parquet"])
    def test_built(self, told: Any, data: str) -> None:
        """A table becomes a reference, next to it, and what it can see is told."""
        code, out, err = told("reference", "build", data)

        assert code == 0
        assert re.sub(r"\rcalibrating: +\d+%|\n", "", err) == ""  # said where it takes a while
        first, second, *rest = out.splitlines()
        assert first == "reference.parquet: 2 rows of age, region, code"
        assert second.startswith("thresholds: from rows drawn at random")
        assert [line.split()[0] for line in rest if line][1:] == [
            *("smallest", "feature"),
            *("age", "region", "code"),
        ]
        assert Reference.load("reference.parquet").features == ("age", "region", "code")

    def test_options(self, told: Any) -> None:
        """The features, their order and kinds, and the file are the operator's to choose."""
        code, out, _ = told(
            *("reference", "build", "data.csv", "-o", "other.parquet"),
            *("--columns", "code", "age", "--categorical", "code"),
        )

        assert code == 0
        assert out.startswith("other.parquet: 2 rows of code, age\n")
        kinds = [(f.name, f.kind) for f in Reference.load("other.parquet").profile]
        assert kinds == [("code", "categorical"), ("age", "numeric")]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["nowhere.csv"], "nowhere.csv: cannot be read: "),
            (["."], ".: cannot be read: "),
            (["junk.parquet"], "junk.parquet: cannot be read: "),
            (["empty.csv"], "empty.csv: cannot be read: "),
            (["binary.csv"], "binary.csv: cannot be read: "),
            (["data.csv", "--columns", "agge"], "features names the column 'agge'"),
            (["data.csv", "--time", "agge"], "time names the column 'agge'"),
            (["data.csv", "--categorical", "agge"], "categorical names the column 'agge'"),
            (["data.csv", "--columns", "age", "age"], "column 'age' is there 2 times"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else None,
    )
    def test_mistakes(self, told: Any, arguments: list[str], said: str) -> None:
        """What cannot be built is told, and no file is left."""
        written("junk.parquet", "junk")
        written("empty.csv", "")
        Path("binary.csv").write_bytes(bytes(range(128, 256)))

        code, out, err = told("reference", "build", *arguments)

        assert (code, out) == (1, "")
        assert err.startswith(f"mlguard: {said}")
        assert not Path("reference.parquet").exists()

    @pytest.mark.parametrize("output", ["no/such/folder/r.parquet", "."])
    def test_output_that_cannot_be_written(self, told: Any, output: str) -> None:
        """A file that cannot be written is told, not raised."""
        code, _, err = told("reference", "build", "data.csv", "-o", output)

        assert code == 1
        assert output in err

    def test_an_order(self, told: Any) -> None:
        """Rows with a time are calibrated in their order, by their hour where that matters."""
        times = pd.date_range("2024-01-01", periods=3000, freq="h")
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({"load": times.hour + rng.normal(size=3000), "at": times})
        frame.to_csv("load.csv", index=False)

        code, built, _ = told("reference", "build", "load.csv", "--time", "at")
        shown = told("reference", "show", "reference.parquet", "--window", "200")

        assert code == 0
        assert "thresholds: from contiguous blocks of its rows, in their order" in built
        assert "rows are compared with those of their own hour of day (UTC)" in built
        assert (shown[0], shown[2]) == (0, "")
        assert "smallest shift that a window of 200 rows shows:" in shown[1]


@pytest.mark.xdist_group("evidently")
class TestDrift:
    @pytest.fixture(autouse=True)
    def _reference(self) -> None:
        rng = np.random.default_rng(0)
        for name, shift in (("same", 0.0), ("moved", 2.0)):
            table = pd.DataFrame({"a": rng.normal(shift, 1, 500), "<b>": rng.normal(size=500)})
            table.to_csv(f"{name}.csv", index=False)
        Reference.build(pd.read_csv("same.csv")).save("reference.parquet")

    @pytest.mark.parametrize(
        ("data", "expected", "said"),
        [
            ("same.csv", 0, "no drift in 2 features, 500 rows"),
            ("moved.csv", 3, "drift in 1 of 2 features, 500 rows"),
        ],
    )
    def test_check(self, told: Any, data: str, expected: int, said: str) -> None:
        """A table is one window: its verdict is told by the exit code, in words and as a page."""
        arguments = ("--reference", "reference.parquet", "--current", data)

        code, out, err = told("drift", "check", *arguments, "--html", "page.html")

        assert (code, err) == (expected, "")
        assert out.splitlines()[-1] == said
        assert "&lt;b&gt;" in Path("page.html").read_text()

    @pytest.mark.parametrize(
        ("current", "said"),
        [
            ("nowhere.csv", "nowhere.csv: cannot be read"),
            ("few.csv", "few.csv: a window of 2 rows says nothing"),
        ],
    )
    def test_mistakes(self, told: Any, current: str, said: str) -> None:
        """What cannot be told is an error, not a drift."""
        written("few.csv", "a,<b>\n1,2\n3,4\n")

        code, out, err = told(
            "drift", "check", "--reference", "reference.parquet", "--current", current
        )

        assert (code, out) == (1, "")
        assert err.startswith(f"mlguard: {said}")


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["chek"],
            ["drift", "check"],
            ["token", "mint", "x"],
            ["token", "mint", "--subject", ""],
            ["token", "mint", "--tenant", " "],
            ["reference", "build"],
        ],
        ids=" ".join,
    )
    def test_mistakes(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """A command that is none exits with 2 and the usage."""
        with pytest.raises(SystemExit) as caught:
            main(arguments)

        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("usage: mlguard")

    @pytest.mark.parametrize(
        "command", [[], ["token"], ["quota"], ["reference"], ["drift"]], ids=str
    )
    def test_nothing_said(self, command: list[str], told: Any) -> None:
        """Who names no command, or no action of one, is told which there are."""
        code, out, err = told(*command)

        assert (code, err) == (2, "")
        assert out.startswith(" ".join(["usage: mlguard", *command]))
        assert (
            "show" if command in (["quota"], ["reference"]) else "check"
        ) in out or "mint" in out

    def test_commands_by_task(self, told: Any) -> None:
        """The commands stand below what they are for."""
        _, out, _ = told()

        tasks = out.split("\n\n")
        assert "check" in next(t for t in tasks if t.startswith("guard an app:"))
        assert "quota" in next(t for t in tasks if t.startswith("who calls, and how much:"))
        assert "feedback" in next(t for t in tasks if t.startswith("drift and performance:"))

    @pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
    def test_completion(self, shell: str, capsys: pytest.CaptureFixture[str]) -> None:
        """A shell gets a script that knows the commands."""
        pytest.importorskip("shtab", reason="the extra `completion` is not installed")

        with pytest.raises(SystemExit) as caught:
            main(["--completion", shell])

        out = capsys.readouterr().out
        assert caught.value.code == 0
        assert all(word in out for word in ("mlguard", "check", "quota"))

    def test_no_completion(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without the package that writes it, what to install is told."""
        monkeypatch.setitem(sys.modules, "shtab", None)

        code, out, err = told("--completion", "bash")

        assert (code, out) == (1, "")
        assert err.endswith("run `pip install 'mlguard-core[completion]'`\n")

    def test_version(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The version is that of the package."""
        with pytest.raises(SystemExit) as caught:
            main(["--version"])

        assert caught.value.code == 0
        assert capsys.readouterr().out == f"mlguard {__version__}\n"

    def test_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The help names each command."""
        with pytest.raises(SystemExit):
            main(["--help"])

        out = capsys.readouterr().out
        assert all(command in out for command in ("check", "token", "quota", "reference", "drift"))


def test_settings_of_the_environment(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check sees the environment as the service would."""
    written("mlguard.toml", FILE)
    monkeypatch.setenv("MLGUARD_MODELS__IRIS__VERSION", "9")
    monkeypatch.setenv("MLGUARD_SERVICE__TRUSTED_PROXIES", json.dumps(["10.0.0.0/8"]))

    _, out, _ = told("check", "mlguard.toml")

    assert "model    iris 9 /predict" in out
