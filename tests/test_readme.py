"""Does the code that people copy run?"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from starlette.testclient import TestClient

from docs import build
from mlguard.app.service import Service
from mlguard.auth.minting import make_key, mint, secret_signer, signer
from mlguard.cli import main
from mlguard.performance import Task
from mlguard.performance.calibration import ScoreCalibration
from mlguard.reference import Reference
from mlguard.settings import Settings
from mlguard.testing import GuardTester
from tests.servers import free_port

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()
DEPLOYING = (ROOT / "docs" / "deploying.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
DRIFT = (ROOT / "docs" / "drift.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
PERFORMANCE = (ROOT / "docs" / "performance.md").read_text()
AUTHENTICATION = (ROOT / "docs" / "authentication.md").read_text()
SECRET = "0" * 64
ADAPTERS = ("fastapi", "flask")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


TOKENS = """
[service]
name = "iris-api"

[[models]]
name = "iris"
route = "/predict"
inputs = "instances"
outputs = "predictions"

[auth]
issuer = "https://login.example.com/"
audience = "iris-api"
algorithms = ["HS256"]
secret_env = "IRIS_SECRET"

[quotas]
store = "host://"
requests = ["600/minute"]
rows = ["10000/hour", "50000/day"]

[tracing]
"""
SERVERS = {"FastAPI": "uvicorn --port {}", "Flask": "gunicorn --bind 127.0.0.1:{}"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlguard.toml").write_text(TOKENS)
    monkeypatch.setenv("IRIS_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def first(folder: Path) -> Path:
    """A folder with the settings of the README."""
    (folder / "mlguard.toml").write_text(blocks(README, "toml")[0])
    return folder


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("framework", SERVERS)
def test_the_first_minutes_are_as_they_are_shown(first: Path, framework: str) -> None:
    """Each command of the README answers what stands below it, of either framework's server."""
    number = [*SERVERS].index(framework)
    (first / "service.py").write_text(blocks(README, "python")[number])
    port = free_port()
    serve = f"{SERVERS[framework].format(port)} service:app > server.log 2>&1 &"
    ready = f"until curl -so /dev/null localhost:{port}/metrics; do sleep 0.1; done"
    shown = blocks(README, "console")[0].replace(":8000", f":{port}")
    shown = re.sub(r"^\$ uvicorn.*$", lambda _: f"$ {serve} {ready}", shown, flags=re.MULTILINE)
    commands = re.findall(r"^\$ (.*)$", shown, re.MULTILINE)

    told = _said(commands, first)

    assert _masked(told) == _masked(re.sub(r"^\$ .*\n", "", shown, flags=re.MULTILINE))


def _said(commands: list[str], folder: Path) -> str:
    """Run commands in a shell; return what they print."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(["trap 'kill $!; wait' EXIT", *commands])
    run = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "MLGUARD_SERVICE__FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    return run.stdout


def _masked(told: str) -> list[str]:
    """Leave out what differs each time: a key's name."""
    lines = re.sub(r"^key \w{8} of", "key ID of", told, flags=re.MULTILINE).splitlines()
    return [line for line in lines if line]


@pytest.mark.parametrize("framework", SERVERS)
def test_the_twins_run(first: Path, framework: str) -> None:
    """The services of the README are guarded by the settings of the README."""
    names: dict[str, Any] = {"__name__": "service"}
    exec(blocks(README, "python")[[*SERVERS].index(framework)], names)
    tester = GuardTester(names["guard"])
    app = names["app"]
    client = TestClient(app) if framework == "FastAPI" else app.test_client()
    body = {"instances": [[5.1, 3.5, 1.4, 0.2]]}

    assert client.post("/predict", json=body).status_code == 401
    assert client.post("/predict", json=body, headers=tester.headers()).status_code == 200


def test_the_handler_form_runs(first: Path) -> None:
    """guard.inference of the README runs outside of a request too."""
    names: dict[str, Any] = {"__name__": "service"}
    exec(blocks(README, "python")[1], names)
    rehearsal = GuardTester(names["guard"])

    class Model:
        def predict(self, rows: list[list[float]]) -> list[float]:
            return [sum(row) for row in rows]

    exec(blocks(README, "python")[2], {**names, "rows": [[1.0]], "model": Model()})

    assert rehearsal.metric("mlguard_inference_rows_total", model="iris", version="1") == 1


@pytest.mark.parametrize("framework", SERVERS)
def test_the_commands_for_an_app_of_ones_own(first: Path, framework: str) -> None:
    """What is proposed for the service of the README is tried, and so is what stands there."""
    (first / "service.py").write_text(blocks(README, "python")[[*SERVERS].index(framework)])

    (first / "body.json").write_text('{"instances": [[5.1, 3.5, 1.4, 0.2]]}')
    own = README.split("For your own app,")[1].split("\n\n")[0]
    commands = re.findall(r"`mlguard (.*?)`", own, re.DOTALL)

    assert len(commands) == 3
    for command in commands:
        run = [sys.executable, "-c", "from mlguard.cli import main; raise SystemExit(main())"]
        said = subprocess.run([*run, *command.split()], cwd=first, capture_output=True, check=False)
        assert said.returncode == 0, said.stdout + said.stderr


def test_drift_is_one_command_and_one_line(first: Path) -> None:
    """A reference that is built as the README says, and named as it says, has drift checked."""
    rows = "".join(f"{n % 7},{n % 5}\n" for n in range(300))
    (first / "training.csv").write_text(f"a,b\n{rows}")
    command = next(b for b in blocks(README, "sh") if "reference build" in b)
    settings = blocks(README, "toml")[0]
    head, below = settings.split("\n\n", 1)
    named = f"{head}\n{blocks(README, 'toml')[1]}\n{below}"
    (first / "mlguard.toml").write_text(named)

    assert main(shlex.split(command)[1:]) == 0
    assert Service("mlguard.toml").settings.drift is not None


def test_the_readme_is_short() -> None:
    """A stranger reads it to its end."""
    assert len(README.splitlines()) <= 150


def test_the_drift_check_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drift check without a web framework runs as it stands."""
    code = next(b for b in blocks(DRIFT, "python") if "Reference.load" in b)
    rows = [[float(n % 7), float(n % 5)] for n in range(500)]
    Reference.build({"a": [r[0] for r in rows], "b": [r[1] for r in rows]}).save(
        tmp_path / "reference.parquet"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"window": rows[:200]}
    exec(code, names)

    assert names["verdict"].detected is False


def test_the_settings_page_is_current() -> None:
    """What the code says of each setting is what the page says."""
    assert build.PAGE.read_text() == build.page(), "run `python -m docs.build`"


def test_every_setting_has_a_meaning() -> None:
    """Each key of each table is told in the docstring of its table, and no other."""
    tables = [table for section in build.SECTIONS for table in section.tables]

    for table in tables:
        assert {*build.meanings(table)} == {*table.model_fields}


def test_every_table_has_a_section() -> None:
    """No table of the file is left out."""
    titles = {re.sub(r"[^a-z.]", "", section.title) for section in build.SECTIONS}

    assert {*Settings.model_fields} <= titles


@pytest.mark.parametrize("part", ["host", "keys", "api_keys", "revocations", "feedback", "tracing"])
def test_it_is_said_what_happens_without_a_part(part: str) -> None:
    """Who sees a part degraded finds on the page what that means."""
    assert f'`mlguard_degraded{{part="{part}"}}`' in DEPLOYING.split("## When something is gone")[1]


def test_the_guide_names_every_refusal() -> None:
    """A client finds each code that it may get, and no other."""
    from mlguard import refusals

    source = Path(refusals.__file__).read_text()
    known = set(re.findall(r'\b(?:token|Deny|_key)\((?:\d+, )?"(\w+)"', source))
    known -= {"client_left"}  # nobody is there to get it
    codes = re.findall(r"^\| [45]\d\d \| (.*?) \|", GUIDE, re.MULTILINE)

    assert set(re.findall(r"`(.+?)`", " ".join(codes))) == known


PAGES = sorted(
    page.relative_to(ROOT)
    for pattern in ("*.md", "docs/*.md", "examples/**/*.md", "integrations/*/*.md")
    for page in ROOT.glob(pattern)
)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file, and what it names in there is a heading."""
    here = ROOT / page
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", here.read_text())
    astray = []
    for link in links:
        name, _, anchor = re.sub(r"\s+", "", link).partition("#")
        target = here.parent / name if name else here
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            astray.append(link)

    assert astray == []


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_absolute_links_lead_somewhere(page: Path) -> None:
    """A link into the project's repository names a file that is here."""
    place = r"https://github\.com/mlguard/mlguard/(?:blob|tree)/main/([^)#\s\"]+)"
    found = re.findall(place, (ROOT / page).read_text())

    assert [name for name in found if not (ROOT / name).exists()] == []


def _anchors(page: Path) -> set[str]:
    """Name the headings of a page as GitHub does."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{name} {number}")
        for name, page in (
            ("README", README),
            ("guide", GUIDE),
            ("authentication", AUTHENTICATION),
            ("performance", PERFORMANCE),
            ("drift", DRIFT),
            ("settings", SETTINGS),
            *((f, (ROOT / "integrations" / f / "README.md").read_text()) for f in ADAPTERS),
        )
        for number, block in enumerate(blocks(page, "toml"))
        if "[" in block  # else it is a line of one
    ],
)
def test_settings_on_the_pages_are_valid(
    folder: Path, monkeypatch: pytest.MonkeyPatch, block: str
) -> None:
    """Every TOML block of the pages is a settings file with which a service can be made."""
    for variable in ("OLD_SECRET", "NEW_SECRET"):
        monkeypatch.setenv(variable, SECRET)
    if "reference.parquet" in block:
        Reference.build({"a": [1.0, 2.0]}).save(folder / "reference.parquet")
        task = Task("classification")
        scores = [n / 100 for n in range(100)]
        learned = ScoreCalibration.fit(task, scores, [s > 0.5 for s in scores])
        learned.save(folder / "calibration.json")

    assert Service(tomllib.loads(block)).settings.service.name


class TestAuthentication:
    """Does what the page about authentication says hold?"""

    @pytest.fixture
    def page(self, folder: Path) -> list[str]:
        """The page's code, in a folder with the settings with tokens."""
        return [b for b in blocks(AUTHENTICATION, "python") if "guard.identify" not in b]

    def test_the_apps_own_login(self, folder: Path) -> None:
        """The app's function says who calls; a header that no trusted proxy sent says nothing."""
        (block,) = [b for b in blocks(AUTHENTICATION, "python") if "guard.identify" in b]
        names = _with_a_model(block, {"own_login": True})
        GuardTester(names["guard"])

        @names["app"].get("/me")
        def me() -> dict[str, str | None]:
            return {"tenant": names["guard"].caller().tenant}

        with TestClient(names["app"]) as client:
            assert client.get("/me", headers={"X-Team": "red"}).json() == {"tenant": "acme"}
            assert client.get("/me", headers={"X-Client-Cert-Subject": "eve"}).status_code == 401

    @staticmethod
    def fastapi(page: list[str]) -> tuple[dict[str, Any], GuardTester, TestClient]:
        names = _with_a_model(page[0])
        return names, GuardTester(names["guard"]), TestClient(names["app"])

    def test_scopes_of_a_fastapi_route(self, page: list[str]) -> None:
        """The decorator and the dependency demand the scope."""
        _, rehearsal, client = self.fastapi(page)
        lacking, granted = rehearsal.headers(), rehearsal.headers(scopes=["admin"])

        with client:
            for method, path in (("DELETE", "/cache"), ("POST", "/models")):
                refused = client.request(method, path, headers=lacking)
                assert refused.json()["code"] == "scope_missing"
                assert client.request(method, path, headers=granted).status_code == 200

    def test_scopes_of_a_flask_route(self, page: list[str]) -> None:
        """The decorator demands the scope."""
        names = _with_a_model(page[1])
        rehearsal = GuardTester(names["guard"])
        client = names["app"].test_client()

        assert client.delete("/cache", headers=rehearsal.headers()).status_code == 403
        granted = rehearsal.headers(scopes=["admin"])
        assert client.delete("/cache", headers=granted).json == {"cleared": True}

    def test_public_routes_with_scopes(self, page: list[str]) -> None:
        """A public route that demands scopes takes a token, decorated or by a dependency."""
        names = _with_a_model(page[0], {"public": ["/cache", "/models"]})
        headers = GuardTester(names["guard"]).headers(scopes=["admin"])

        with TestClient(names["app"]) as client:
            assert client.delete("/cache").json()["code"] == "token_missing"
            assert client.post("/models").json()["code"] == "token_missing"
            assert client.delete("/cache", headers=headers).status_code == 200
            assert client.post("/models", headers=headers).status_code == 200

    @pytest.mark.parametrize(
        ("line", "refused", "spared"),
        [
            pytest.param(0, {"jti": "one"}, {"jti": "two"}, id="token"),
            pytest.param(1, {"jti": "5f0c3b1e"}, {"jti": "two"}, id="jti"),
            pytest.param(2, {"subject": "alice"}, {"subject": "bob"}, id="subject"),
        ],
    )
    def test_revoking(
        self, page: list[str], line: int, refused: dict[str, str], spared: dict[str, str]
    ) -> None:
        """Each way to revoke refuses what it names, and nothing else."""
        names, rehearsal, client = self.fastapi(page)
        text = rehearsal.token(**refused)
        headers = [{"Authorization": f"Bearer {text}"}, rehearsal.headers(**spared)]

        with client:
            assert [client.get("/", headers=h).status_code for h in headers] == [404, 404]
            exec(page[2].splitlines()[line], {"guard": names["guard"], "text": text})
            answers = [client.get("/", headers=h) for h in headers]

        assert [answer.status_code for answer in answers] == [401, 404]
        assert answers[0].json()["code"] == "token_revoked"

    def test_verifying_alone(self, page: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """A signature is verified without a guard, and a bad one is told apart."""
        pem, jwk = make_key("ES256")
        names = {"document": json.dumps({"keys": [jwk]})}
        good = mint({"sub": "alice"}, "ES256", signer(pem, "ES256"), kid=jwk["kid"])
        bad = mint({}, "ES256", signer(make_key("ES256")[0], "ES256"), kid=jwk["kid"])
        for text in (good, bad):
            names["token"] = text
            exec(page[3], names)

        assert names["payload"] == b'{"sub":"alice"}'
        assert capsys.readouterr().out == "token_untrusted no key verifies the signature\n"

    def test_explaining(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """What `mlguard token explain` says on the page is what it says."""
        now = int(time.time())
        claims = {"iss": "https://login.example.com/", "aud": "billing", "sub": "alice",
                  "iat": now - 3 * 3600 - 60, "exp": now - 2 * 3600 - 60}  # fmt: skip
        text = mint(claims, "HS256", secret_signer(SECRET.encode(), "HS256"), typ="JWT")

        assert main(["token", "explain", text]) == 1
        told = capsys.readouterr()
        shown = blocks(AUTHENTICATION, "console")[0].partition("\n")[2]
        assert _undated(told.out + told.err) == _undated(shown)

    def test_minting_keys(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """A key set that is not there is made, and its tokens are explained to be good."""
        settings = TOKENS.replace('secret_env = "IRIS_SECRET"', 'jwks_file = "keys.json"')
        toml = settings.replace('"HS256"', '"ES256"')
        (folder / "mlguard.toml").write_text(toml)
        assert main(["token", "mint"]) == 0
        text = capsys.readouterr().out

        assert main(["token", "explain", text]) == 0
        assert sorted(p.name for p in folder.iterdir()) == [
            "keys.json",
            "keys.private.pem",
            "mlguard.toml",
        ]


class TestWalk:
    """Is the walk of one request what CONTRIBUTING.md draws?"""

    @pytest.fixture(params=["FastAPI", "Flask"])
    def walk(self, folder: Path, request: pytest.FixtureRequest) -> tuple[str, list[str]]:
        """A framework, and the kit's files in the order in which a call of the model meets them."""
        names: dict[str, Any] = {"__name__": "service"}
        exec(blocks(README, "python")[["FastAPI", "Flask"].index(request.param)], names)
        headers = GuardTester(names["guard"]).headers()
        app = names["app"]
        client = TestClient(app) if request.param == "FastAPI" else app.test_client()

        def call() -> None:
            body = {"instances": [[5.1, 3.5, 1.4, 0.2]]}
            assert client.post("/predict", json=body, headers=headers).status_code == 200

        call()  # what is bound, remembered and begun once
        return request.param, _files(call)

    def test_it_goes_as_it_is_drawn(self, walk: tuple[str, list[str]]) -> None:
        """The files come in the order of the page."""
        framework, files = walk
        drawing = _drawing()
        drawn = [file for line in drawing[framework] for file in drawing.get(line, [line])]
        rest = iter(files)

        assert next((file for file in drawn if file not in rest), None) is None

    def test_nothing_else_is_visited(self, walk: tuple[str, list[str]]) -> None:
        """Each file that it meets is on the page."""
        _, files = walk
        named = {name.rpartition("/")[2] for name in re.findall(r"[\w/]+\.py", _walk_page())}

        assert {file for file in files if file.rpartition("/")[2] not in named} == set()


def _walk_page() -> str:
    return CONTRIBUTING.split("## The walk of one request")[1].split("## Style")[0]


def _drawing() -> dict[str, list[str]]:
    """What CONTRIBUTING.md draws: by its title, the files and titles with which lines begin."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"```\n(.*?)```", _walk_page(), re.DOTALL):
        for part in block.split("\n\n"):
            title, *lines = part.strip().split("\n")
            words = [line.split()[0] for line in lines]
            found[title.split(",")[0]] = [w for w in words if w.endswith(".py") or w.isupper()]
    return found


def _files(call: Callable[[], None]) -> list[str]:
    """List the kit's files that a call meets, one after the other, in whatever threads."""
    root, files = str(ROOT), [""]

    def note(frame: FrameType, event: str, _: object) -> None:
        found = re.match(rf"{root}/(?:src/mlguard|integrations/\w+/src)/(.+)", _code(frame))
        if event == "call" and found and found[1] != files[-1]:
            files.append(found[1])

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return files[1:]


def _code(frame: FrameType) -> str:
    return str(Path(frame.f_code.co_filename).absolute())


def _with_a_model(code: str, auth: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a page's code with the settings with tokens, without a route that it does not have."""
    settings = tomllib.loads(Path("mlguard.toml").read_text())
    del settings["models"]
    settings["auth"].update(auth or {})
    names: dict[str, Any] = {"__name__": "service", "SETTINGS": settings}
    exec(code.replace('"mlguard.toml"', "SETTINGS"), names)
    return names


def _undated(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", "(a moment)", text)
