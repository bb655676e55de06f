"""Do the settings that `mlguard init` writes fit the services that people have?"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import sys
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest

from mlguard.cli import main
from mlguard.cli.apps import adapter_of
from mlguard.cli.init.code import taken
from mlguard.cli.init.draft import draft
from mlguard.cli.init.places import answers_in, rows_in, written
from mlguard.cli.init.schemas import expanded, made_up
from mlguard.cli.sending import Request, running
from mlguard.pointers import keys_of
from mlguard.reference import Reference
from mlguard.settings import load
from mlguard.testing import GuardTester

_NUMBERS = itertools.count()


class Style(NamedTuple):
    """A service as somebody would write it, and what is to be found out about it.

    Attributes:
        code: Of the module, whose app is `app` unless it has a factory.
        model: The settings of its model, as far as they matter.
        rows: Of the example.
        example: What is given, None where one can be made up.
        target: What is imported of the module.
    """

    code: str
    model: dict[str, Any]
    rows: int = 1
    example: str | None = None
    target: str = "app"


FASTAPI = """\
from fastapi import APIRouter, Body, FastAPI, File, Form, Request, UploadFile
from pydantic import BaseModel

app = FastAPI()

@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}

"""
FLASK = """\
from flask import Blueprint, Flask, jsonify, request
from flask.views import MethodView

app = Flask(__name__)

@app.get("/health")
def health():
    return jsonify(status="ok")

"""
STYLES = {
    "fastapi: one record": Style(
        FASTAPI
        + """\
class Iris(BaseModel):
    sepal_length: float
    sepal_width: float

class Answer(BaseModel):
    species: str
    probability: float

@app.post("/predict")
def predict(iris: Iris) -> Answer:
    return Answer(species="setosa", probability=iris.sepal_length / 10)
""",
        {
            "route": "/predict",
            "inputs": "",
            "shape": "row",
            "features": ["sepal_length", "sepal_width"],
            "outputs": "species",
        },
    ),
    "fastapi: a list of lists": Style(
        FASTAPI
        + """\
class Rows(BaseModel):
    instances: list[list[float]]

@app.post("/predict")
async def predict(rows: Rows) -> dict[str, list[float]]:
    return {"predictions": [sum(row) for row in rows.instances]}
""",
        {"route": "/predict", "inputs": "instances"},
        2,
    ),
    "fastapi: a list of records": Style(
        FASTAPI
        + """\
class House(BaseModel):
    area: float
    rooms: int

@app.post("/houses/score")
async def score(houses: list[House]) -> list[float]:
    return [house.area * house.rooms for house in houses]
""",
        {
            "name": "houses-score",
            "route": "/houses/score",
            "inputs": "",
            "features": ["area", "rooms"],
            "outputs": "",
        },
        2,
    ),
    "fastapi: a flat row": Style(
        FASTAPI
        + """\
class Row(BaseModel):
    features: list[float]

@app.post("/predict")
def predict(row: Row):
    return {"prediction": sum(row.features)}
""",
        {"route": "/predict", "inputs": "features", "shape": "row", "outputs": "prediction"},
    ),
    "fastapi: a router with a prefix": Style(
        FASTAPI
        + """\
router = APIRouter(prefix="/v1")

class Texts(BaseModel):
    texts: list[str]

@router.post("/classify")
def classify(body: Texts) -> dict[str, list[str]]:
    return {"labels": ["good" for _ in body.texts]}

app.include_router(router, prefix="/api")
""",
        {"name": "classify", "route": "/api/v1/classify", "inputs": "texts"},
        2,
    ),
    "fastapi: two routes of one handler": Style(
        FASTAPI
        + """\
@app.post("/predict")
@app.post("/v1/predict")
def predict(instances: list[list[float]] = Body(embed=True)) -> dict[str, list[float]]:
    return {"predictions": [sum(row) for row in instances]}
""",
        {"routes": ["/v1/predict", "/predict"], "inputs": "instances"},
        2,
    ),
    "fastapi: a form": Style(
        FASTAPI
        + """\
@app.post("/predict")
def predict(area: float = Form(), rooms: int = Form()) -> dict[str, float]:
    return {"price": area * rooms}
""",
        {"route": "/predict", "inputs": "form", "features": ["area", "rooms"]},
    ),
    "fastapi: an upload": Style(
        FASTAPI
        + """\
@app.post("/ocr")
async def ocr(image: UploadFile = File()) -> dict[str, int]:
    return {"result": len(await image.read())}
""",
        {"name": "ocr", "route": "/ocr", "inputs": "files"},
    ),
    "fastapi: a query": Style(
        FASTAPI
        + """\
@app.get("/predict")
def predict(area: float, rooms: int = 2) -> dict[str, float]:
    return {"price": area * rooms}
""",
        {"route": "/predict", "inputs": "query", "features": ["area", "rooms"]},
    ),
    "fastapi: JSON by hand": Style(
        FASTAPI
        + """\
@app.post("/predict")
async def predict(request: Request):
    body = await request.json()
    return {"predictions": [sum(row) for row in body["data"]["rows"]]}
""",
        {"route": "/predict", "inputs": "data.rows", "outputs": "predictions"},
        3,
        '{"data": {"rows": [[1, 2], [3, 4], [5, 6]]}}',
    ),
    "fastapi: a factory": Style(
        FASTAPI
        + """\
class Row(BaseModel):
    x: float
    y: float

def create_app():
    made = FastAPI()
    @made.post("/predict")
    def predict(row: Row) -> float:
        return row.x + row.y
    return made
""",
        {"route": "/predict", "inputs": "", "features": ["x", "y"], "outputs": ""},
        target="create_app()",
    ),
    "flask: members by name": Style(
        FLASK
        + """\
@app.route("/predict", methods=["POST"])
def predict():
    data = request.get_json()
    row = [data["sepal_length"], data["sepal_width"]]
    if not row:
        return jsonify({"error": "empty"}), 400
    return jsonify({"prediction": sum(row)})
""",
        {
            "route": "/predict",
            "inputs": "",
            "shape": "row",
            "features": ["sepal_length", "sepal_width"],
            "outputs": "prediction",
        },
    ),
    "flask: a list of lists": Style(
        FLASK
        + """\
@app.post("/predict")
def predict():
    return {"predictions": [sum(row) for row in request.json["instances"]]}
""",
        {"route": "/predict", "inputs": "instances", "outputs": "predictions"},
        2,
        '{"instances": [[1.5, 2.5], [3.5, 4.5]]}',
    ),
    "flask: columns": Style(
        FLASK
        + """\
@app.post("/predict")
def predict():
    columns = request.get_json(force=True)
    return jsonify(list(map(sum, zip(*columns.values()))))
""",
        {"route": "/predict", "inputs": "", "shape": "columns", "features": ["a", "b"]},
        3,
        '{"a": [1, 2, 3], "b": [4, 5, 6]}',
    ),
    "flask: a form": Style(
        FLASK
        + """\
@app.route("/predict", methods=["GET", "POST"])
def predict():
    area, rooms = float(request.form["area"]), float(request.form.get("rooms"))
    return f"<p>{area * rooms}</p>"
""",
        {"route": "/predict", "inputs": "form", "features": ["area", "rooms"]},
    ),
    "flask: a blueprint of classes": Style(
        FLASK
        + """\
blueprint = Blueprint("models", __name__, url_prefix="/models")

class Sentiment(MethodView):
    def post(self):
        body = request.get_json() or {}
        return jsonify(label="good" if body["text"] else "bad")

blueprint.add_url_rule("/sentiment", view_func=Sentiment.as_view("predict_sentiment"))
app.register_blueprint(blueprint, url_prefix="/api")
""",
        {"route": "/api/sentiment", "inputs": "text", "shape": "row", "outputs": "label"},
        1,
        '{"text": "what a day"}',
    ),
    "flask: an upload": Style(
        FLASK
        + """\
@app.post("/predict")
def predict():
    return jsonify({"class": len(request.files["image"].read())})
""",
        {"route": "/predict", "inputs": "files", "outputs": "class"},
    ),
    "flask: a factory": Style(
        FLASK
        + """\
def make_app():
    made = Flask(__name__)
    @made.post("/score")
    def score():
        data = request.get_json()
        return {"score": data["x"] + data.get("y")}
    return made
""",
        {"name": "score", "route": "/score", "inputs": "", "features": ["x", "y"]},
        target="make_app()",
    ),
}


@pytest.fixture(autouse=True)
def _can_run(request: pytest.FixtureRequest) -> None:
    """Skip what a package is needed for that reads forms: by FastAPI, and by the guard."""
    style = request.node.callspec.params.get("style") if hasattr(request.node, "callspec") else None
    if style and style.model["inputs"] in ("form", "files"):
        pytest.importorskip("python_multipart", reason="forms are read by python-multipart")


@pytest.fixture(autouse=True)
def _shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand in an empty folder, with a secret, and forget what is imported there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setenv("MLGUARD_SECRET", "s" * 64)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; return its exit code and both of its streams."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def module(code: str) -> str:
    """Write a module of a name that no other test has."""
    name = f"service_{next(_NUMBERS)}"
    Path(f"{name}.py").write_text(code)
    importlib.invalidate_caches()
    return name


def app_of(style: Style) -> Any:
    """Make the app of a style anew, which nobody has guarded."""
    found = getattr(importlib.import_module(module(style.code)), style.target.removesuffix("()"))
    return found() if style.target.endswith("()") else found


def asked(app: Any, style: Style) -> Request:
    """Make the request that `init` would look at."""
    looking = adapter_of(app, "").front(settings={})
    looking.look_at(app)
    (model,) = draft(looking, "service:app", given=style.example).models
    assert model.example is not None
    return model.example.request(model.handler, model.name.value)


def given(style: Style) -> list[str]:
    return [] if style.example is None else ["--example", style.example]


@pytest.mark.parametrize("style", STYLES.values(), ids=STYLES)
class TestStyles:
    def test_what_is_found(self, style: Style, told: Any) -> None:
        """The file says where rows and predictions are, and can be used as it is."""
        target = f"{module(style.code)}:{style.target}"

        code, out, err = told("init", target, *given(style), "--send", "-o", "mlguard.toml")

        (model,) = tomllib.loads(Path("mlguard.toml").read_text())["models"]
        assert code == 0, err
        assert model | style.model == model
        assert load("mlguard.toml").models[0].all_routes
        assert out.startswith("mlguard.toml: written\n")
        assert told("check", "mlguard.toml")[0] == 0

    def test_what_comes_of_it(self, style: Style, told: Any) -> None:
        """A request passes, its rows are counted, and who shows no token is refused."""
        target = f"{module(style.code)}:{style.target}"

        code, out, err = told("try", "--json", target, *given(style))

        found = json.loads(out)
        assert found["answer"]["status"] == 200, err
        assert found["without_credential"]["code"] == "token_missing"
        assert [entry["rows"] for entry in found["rows"]] == [style.rows]
        assert len(found["trace"]) == 2
        assert (code, found["wrong"], found["log"]) == (0, "", [])

    def test_nothing_changes(self, style: Style, told: Any) -> None:
        """Guarded by the file, the app answers what it did, byte for byte."""
        target = f"{module(style.code)}:{style.target}"
        told("init", target, *given(style), "-o", "mlguard.toml")
        bare, guarded = app_of(style), app_of(style)
        request = asked(bare, style)
        tester = GuardTester(adapter_of(guarded, "").front(guarded, "mlguard.toml"))

        with running(bare) as send:
            expected = send(request)
        with running(guarded) as send:
            answer = send(request.with_headers(tester.headers()))

        ours = ("ratelimit", "content-length", "mlguard")
        kept = [(n, v) for n, v in answer.headers if not n.startswith(ours)]
        assert (answer.status, answer.body) == (expected.status, expected.body)
        assert kept == [(n, v) for n, v in expected.headers if not n.startswith(ours)]


class TestManners:
    """What `init` does beside."""

    STYLE = STYLES["fastapi: one record"]

    def test_to_standard_output(self, told: Any) -> None:
        """Without a file to write, the settings stand on standard output, all else beside it."""
        target = f"{module(self.STYLE.code + 'print(1)')}:app"

        code, out, err = told("init", target)

        settings = tomllib.loads(out)
        assert code == 0
        assert settings["auth"]["public"] == ["/health"]
        assert "# guessed: the app's OpenAPI document" in out
        assert [line for line in out.splitlines() if line != line.rstrip()] == []
        assert "mlguard try" in err
        assert err.startswith("1\n")

    def test_nothing_is_overwritten(self, told: Any) -> None:
        """A file that is there stays as it is, unless --force says otherwise."""
        target = f"{module(self.STYLE.code)}:app"
        Path("mlguard.toml").write_text("# mine\n")

        refused = told("init", target, "-o", "mlguard.toml")
        kept = Path("mlguard.toml").read_text()
        forced = told("init", target, "-o", "mlguard.toml", "--force")

        assert refused == (
            1,
            "",
            "mlguard: mlguard.toml is there already: --force overwrites it\n",
        )
        assert kept == "# mine\n"
        assert (forced[0], Path("mlguard.toml").read_text().count("[[models]]")) == (0, 1)

    def test_json(self, told: Any) -> None:
        """A program is told the settings, what is guessed, what is unknown and what to do next."""
        target = f"{module(STYLES['fastapi: a list of lists'].code)}:app"

        _, out, _ = told("init", "--json", target)

        found = json.loads(out)
        assert tomllib.loads(found["text"]) == found["settings"]
        assert any(line.startswith("models[") for line in found["guessed"])
        assert "the names of the values in a row" in found["unknown"][0]
        assert any(line.startswith("mlguard try") for line in found["next"])

    @pytest.mark.parametrize("package", ["mlguard_fastapi", "mlguard_flask"])
    def test_an_app_that_waits_for_its_file(self, told: Any, package: str) -> None:
        """An app that names a file which is not there yet gets it, and then has all it needs."""
        style = STYLES["fastapi: one record" if "fast" in package else "flask: members by name"]
        code = f"from {package} import MLGuard\n{style.code}\nguard = MLGuard(app, 'mlguard.toml')"
        name = module(code)

        assert told("init", f"{name}:app", "-o", "mlguard.toml")[0] == 0
        sys.modules.pop(name)
        code_of_check, out, _ = told("check", f"{name}:app")
        sys.modules.pop(name)
        code_of_try, _, err = told("try", f"{name}:app")

        assert (code_of_check, code_of_try) == (0, 0), err
        assert "/predict" in out

    @pytest.mark.parametrize(
        ("code", "arguments", "said"),
        [
            ("from fastapi import FastAPI\napp = FastAPI()", [], "no route looks like a model's"),
            ("app = 5", [], "cannot be guarded: it is no app of FastAPI or Flask"),
            (STYLE.code, ["--route", "/nowhere"], "--route /nowhere: the app has no such route"),
            (STYLE.code, ["--example", "nowhere.json"], "--example nowhere.json: cannot be read"),
        ],
        ids=["no model", "no app", "no route", "no example"],
    )
    def test_mistakes(self, told: Any, code: str, arguments: list[str], said: str) -> None:
        """What cannot be found out is told, with what to do."""
        result, out, err = told("init", f"{module(code)}:app", *arguments)

        assert (result, out) == (1, "")
        assert said in err

    def test_an_example_of_several_models(self, told: Any) -> None:
        """With several models, an example has to say of which it is."""
        more = '@app.post("/classify")\ndef classify(iris: Iris) -> Answer: ...\n'
        target = f"{module(self.STYLE.code + more)}:app"
        example = ["--example", '{"sepal_length": 1, "sepal_width": 2}']

        _, _, err = told("init", target, *example)
        code, out, _ = told("init", target, *example, "--route", "/classify")

        assert "say of which route the example is, with --route: /predict, /classify" in err
        assert (code, len(tomllib.loads(out)["models"])) == (0, 1)

    def test_keys_of_the_app(self, told: Any) -> None:
        """An app that asks for keys itself is told how the kit would, in the same header."""
        more = (
            "from fastapi import Security\nfrom fastapi.security import APIKeyHeader\n"
            "@app.get('/keyed')\ndef keyed(_: str = Security(APIKeyHeader(name='token'))): ...\n"
        )
        target = f"{module(self.STYLE.code + more)}:app"

        _, out, _ = told("init", target)

        assert '# [auth.api_keys]\n# header = "token"' in out

    def test_metrics_of_the_app(self, told: Any) -> None:
        """Where the app has a page of metrics, those of the kit are elsewhere."""
        more = '@app.get("/metrics")\ndef metrics() -> str: ...\n'
        target = f"{module(self.STYLE.code + more)}:app"

        _, out, _ = told("init", target)

        assert tomllib.loads(out)["metrics"] == {"path": "/mlguard/metrics"}


ZOOS = {
    "fastapi": """\
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
app = FastAPI()
class Rows(BaseModel):
    instances: list[list[float]]
@app.post("/models/{name}/predict")
def predict(name: str, rows: Rows):
    if name != "iris":
        raise HTTPException(404)
    return {"predictions": [1 for _ in rows.instances]}
""",
    "flask": """\
from flask import Flask, abort, request
app = Flask(__name__)
@app.post("/models/<string:name>/predict")
def predict(name):
    if name != "iris":
        abort(404)
    return {"predictions": [1 for _ in request.json["instances"]]}
""",
}
ASKING = {
    "fastapi": """\
from fastapi import FastAPI, Request
from mlguard_fastapi import MLGuard
app = FastAPI()
guard = MLGuard(app, "mlguard.toml")
@app.post("/anything")
async def anything(request: Request):
    body = await request.json()
    async with guard.inference("own", body["rows"]):
        return len(body["rows"])
""",
    "flask": """\
from flask import Flask, request
from mlguard_flask import MLGuard
app = Flask(__name__)
guard = MLGuard(app, "mlguard.toml")
@app.post("/anything")
def anything():
    rows = request.json["rows"]
    with guard.inference("own", rows):
        return {"rows": len(rows)}
""",
}


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
class TestWhichModel:
    def test_named_by_the_path(self, told: Any, framework: str) -> None:
        """A route whose path names the model is the model's of the path that is given."""
        target = f"{module(ZOOS[framework])}:app"
        asked = ["--route", "/models/iris/predict", "--example", '{"instances": [[1, 2], [3, 4]]}']

        told("init", target, *asked, "-o", "mlguard.toml")
        code, out, err = told("try", target, *asked)

        (model,) = tomllib.loads(Path("mlguard.toml").read_text())["models"]
        template = "/models/{name}/predict"
        route = template if framework == "fastapi" else "/models/<string:name>/predict"
        assert (model["name"], model["route"]) == ("iris", route)
        assert model["model_from"] == "path:name"
        assert (code, err) == (0, "")
        assert "rows     2 of iris 1" in out

    def test_whichever_the_path_names(self, told: Any, framework: str) -> None:
        """Without a path, the models are not known, which is said in the file and by `try`."""
        target = f"{module(ZOOS[framework])}:app"
        example = ["--example", '{"instances": [[1, 2]]}']

        _, out, _ = told("init", target, *example)
        code, _, err = told("try", target, *example)

        assert tomllib.loads(out)["models"][0]["name"] == "*"
        assert "# could not tell: which models its path names" in out
        assert (code, err) == (1, "mlguard: the app refused the example: 404\n")

    def test_asked_by_the_handler(self, told: Any, framework: str) -> None:
        """A model that a handler asks itself has no route in the file, and is counted."""
        name = module(ASKING[framework])

        missing = told("try", f"{name}:app")
        told("init", f"{name}:app", "-o", "mlguard.toml")
        sys.modules.pop(name, None)
        code, out, err = told("try", f"{name}:app", "--example", '{"rows": [1, 2, 3]}')

        (model,) = tomllib.loads(Path("mlguard.toml").read_text())["models"]
        assert missing[0] == 1
        assert f"`mlguard init {name}:app -o mlguard.toml` writes one" in missing[2]
        assert model == {"name": "own"}
        assert (code, err) == (0, "")
        assert "rows     3 of own 1" in out


class TestTry:
    """What `try` tells."""

    def test_to_a_person(self, told: Any) -> None:
        """Each part is told with what it saw, and what is counted stands at the end."""
        target = f"{module(STYLES['flask: members by name'].code)}:app"

        code, out, err = told("try", target, "--as", "bob")

        told_of = [line.split(maxsplit=1)[0] for line in out.splitlines() if line[:3].strip()]
        lines = [line for line in out.splitlines() if line[2:9].strip() and line[:2] == "  "]
        assert (code, err) == (0, "")
        assert [line.split()[0] for line in lines][:6] == [
            "sent",
            "who",
            "answer",
            "rows",
            "quotas",
            "drift",
        ]
        assert "  who      bob, by a token signed here" in out
        assert "10000/hour rows: 9999 left" in out
        assert "The same without a credential\n  answer   401" in out
        assert out.endswith("ok: 1 row counted and charged\n")
        assert "ok:" in told_of

    @pytest.mark.parametrize("framework", ["fastapi", "flask"])
    def test_drift(self, told: Any, framework: str) -> None:
        """The row that the drift check gets is told, and how many a verdict still takes."""
        names = {"fastapi": "fastapi: one record", "flask": "flask: members by name"}
        target = f"{module(STYLES[names[framework]].code)}:app"
        frame = pd.DataFrame({"sepal_length": np.arange(300.0), "sepal_width": np.arange(300.0)})
        Reference.build(frame).save("reference.parquet")
        told("init", target, "-o", "mlguard.toml")
        text = Path("mlguard.toml").read_text()
        Path("mlguard.toml").write_text(
            text.replace("# reference =", "reference =") + "[drift]\nwindow = 100\n"
        )

        code, out, err = told("try", target)

        assert (code, err) == (0, "")
        assert "1 of 1 rows sampled: [1.0, 1.0]; 99 more to the first verdict" in out

    @pytest.mark.parametrize("framework", ["fastapi", "flask"])
    def test_a_refused_example(self, told: Any, framework: str) -> None:
        """What an app makes of a bad example is told, with what to do."""
        names = {"fastapi": "fastapi: one record", "flask": "flask: members by name"}
        target = f"{module(STYLES[names[framework]].code)}:app"

        code, _, err = told("try", target, "--example", '{"sepal_length": "many"}')

        expected = {
            "fastapi": "mlguard: the app refused the example: 422\n",
            "flask": "mlguard: the app failed at POST /predict: 500 (KeyError)\n",
        }
        assert (code, err[err.index("mlguard: the app") :]) == (1, expected[framework])

    @pytest.mark.parametrize("framework", ["fastapi", "flask"])
    def test_headers_of_the_app(self, told: Any, framework: str) -> None:
        """What the app itself wants to have can be sent; what is no header is told."""
        code = {
            "fastapi": """\
from fastapi import FastAPI, Header, HTTPException
app = FastAPI()
@app.post("/predict")
def predict(row: dict[str, float], token: str = Header()) -> float:
    if token != "mine":
        raise HTTPException(401)
    return sum(row.values())
""",
            "flask": """\
from flask import Flask, abort, request
app = Flask(__name__)
@app.post("/predict")
def predict():
    if request.headers.get("token") != "mine":
        abort(401)
    return {"sum": sum(request.json.values())}
""",
        }[framework]
        target, row = f"{module(code)}:app", ["--example", '{"a": 1, "b": 2}']

        outcome, out, err = told("try", target, *row, "--header", "token: mine")
        odd, _, said = told("try", target, *row, "--header", "token")

        assert (outcome, err) == (0, "")
        assert ": 3.0" in out or '"sum":3' in out
        assert (odd, said) == (
            1,
            "mlguard: --header 'token': must be like 'X-API-Key: value'\n",
        )

    def test_rows_that_are_nowhere(self, told: Any) -> None:
        """Settings that read nothing are found out."""
        target = f"{module(STYLES['fastapi: one record'].code)}:app"
        told("init", target, "-o", "mlguard.toml")
        text = Path("mlguard.toml").read_text().replace('inputs = "" ', 'inputs = "rows" ')
        Path("mlguard.toml").write_text(text)

        code, out, err = told("try", target)

        assert code == 1
        assert "nothing was read at `inputs`" in err
        assert "  log      " in out

    @pytest.mark.parametrize("lifespan", ["raise OSError('no weights')", "pass"])
    def test_a_start(self, told: Any, lifespan: str) -> None:
        """What an app does at its start is done, and why it does not start is told."""
        code = f"""\
from contextlib import asynccontextmanager
from fastapi import FastAPI
from pydantic import BaseModel
class Row(BaseModel):
    x: float
    y: float
known = {{}}
@asynccontextmanager
async def lifespan(app):
    {lifespan}
    known["model"] = sum
    yield {{"scale": 2.0}}
    known.clear()
app = FastAPI(lifespan=lifespan)
from fastapi import Request
@app.post("/predict")
def predict(row: Row, request: Request) -> float:
    return known["model"]([row.x, row.y]) * request.state.scale
"""
        result, out, err = told("try", f"{module(code)}:app")

        if lifespan == "pass":
            assert (result, err) == (0, "")
            assert ": 4.0" in out
        else:
            assert result == 1
            assert "mlguard: the app does not start: OSError: no weights" in err

    def test_no_secret(self, told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the secret of the settings is not set, one of this run takes its place."""
        target = f"{module(STYLES['flask: members by name'].code)}:app"
        told("init", target, "-o", "mlguard.toml")
        monkeypatch.delenv("MLGUARD_SECRET")

        code, _, err = told("try", target)

        assert (code, err) == (0, "")
        assert "MLGUARD_SECRET" not in os.environ

    def test_without_authentication(self, told: Any) -> None:
        """Where nobody is asked who he is, that is told, and nobody is refused."""
        target = f"{module(STYLES['flask: members by name'].code)}:app"
        told("init", target, "-o", "mlguard.toml")
        text = Path("mlguard.toml").read_text()
        auth, quotas = text.index("[auth]"), text.index("[quotas]")
        Path("mlguard.toml").write_text(text[:auth] + text[quotas:])

        code, out, _ = told("try", target)

        assert code == 0
        assert "nobody is asked, as there is no table [auth]" in out
        assert "without a credential" not in out


class TestPlaces:
    @pytest.mark.parametrize(
        ("value", "inputs", "shape", "features"),
        [
            ({"instances": [[1, 2], [3, 4]], "threshold": 0.5}, "instances", "rows", ()),
            ({"instances": [{"a": 1, "b": 2}]}, "instances", "rows", ("a", "b")),
            ([{"a": 1}, {"a": 2}], "", "rows", ("a",)),
            ([[1, 2], [3, 4]], "", "rows", ()),
            ([1.5, 2.5, 3.5], "", "row", ()),
            (["one", "two"], "", "rows", ()),
            ({"a": 1, "b": "x"}, "", "row", ("a", "b")),
            ({"text": "what a day"}, "text", "row", ()),
            ({"a": [1, 2], "b": [3, 4]}, "", "columns", ("a", "b")),
            ({"data": {"a": 1, "b": 2}}, "data", "row", ("a", "b")),
            ({"inputs": [{"data": [[1, 2]]}]}, "inputs", "rows", ()),
            (
                {"dataframe_split": {"columns": ["a", "b"], "data": [[1, 2]]}},
                "dataframe_split.data",
                "rows",
                ("a", "b"),
            ),
            ({"model": "m", "messages": [{"role": "user", "content": "hi"}]}, "", "row", ()),
            ({"image": [[[0, 1], [1, 0]]]}, "image", "rows", ()),
            ({"x.y": [[1, 2]]}, "/x.y", "rows", ()),
            ({"form": [[1, 2]]}, "/form", "rows", ()),
        ],
        ids=str,
    )
    def test_rows(self, value: Any, inputs: str, shape: str, features: tuple[str, ...]) -> None:
        """An example says where the rows are, what they look like and what their values are."""
        place = rows_in(value)

        assert place is not None
        assert (place.inputs, place.shape, place.features) == (inputs, shape, features)

    def test_tensors(self) -> None:
        """Tensors are told by what each has."""
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}

        place = rows_in({"inputs": [tensor]})

        assert place is not None
        assert place.protocol == "v2"

    @pytest.mark.parametrize("value", [None, [], {}, {"rows": []}], ids=str)
    def test_nothing(self, value: Any) -> None:
        """Where there is nothing, nothing is guessed."""
        place = rows_in(value)

        assert place is None or place.doubt

    @pytest.mark.parametrize(
        ("value", "rows", "keys"),
        [
            ({"predictions": [1, 2]}, 2, ("predictions",)),
            ({"label": "a", "probability": 0.5}, 1, ("label",)),
            ({"label": "all", "scores": [1, 2, 3]}, 3, ("scores",)),
            ({"status": "ok", "data": {"prediction": 1}}, 1, ("data", "prediction")),
            ({"result": {"label": "x", "took": 1}}, 1, ("result", "label")),
            ({"anything": [1]}, 1, ("anything",)),
            ({"house_value": 5, "currency": "USD"}, 1, ("house_value",)),
            ([1, 2], 2, ()),
            (5.0, 1, ()),
            ({"a": 1, "b": 2}, 1, None),
            (None, 1, None),
        ],
        ids=str,
    )
    def test_answers(self, value: Any, rows: int, keys: tuple[str, ...] | None) -> None:
        """An example of an answer says where the predictions are, or nobody can tell."""
        assert answers_in(value, rows) == keys

    @pytest.mark.parametrize(
        ("keys", "place"),
        [((), ""), (("a", "b"), "a.b"), (("a.b",), "/a.b"), (("a/b",), "a/b"), (("/a",), "/~1a")],
    )
    def test_written(self, keys: tuple[str, ...], place: str) -> None:
        """A place is written as the settings read it."""
        assert written(keys) == place
        assert tuple(keys_of(place)) == keys


class TestSchemas:
    @pytest.mark.parametrize(
        ("schema", "value"),
        [
            ({"type": "number"}, 1.0),
            ({"type": "integer", "minimum": 18, "maximum": 99}, 18),
            ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.75),
            ({"type": "number", "maximum": 0.25}, 0.25),
            ({"enum": ["red", "green"]}, "red"),
            ({"type": "number", "default": 7}, 7),
            ({"type": "string", "minLength": 6}, "textxx"),
            ({"type": "string", "format": "date"}, "2026-01-01"),
            ({"anyOf": [{"type": "null"}, {"type": "integer"}]}, 1),
            ({"type": "array", "items": {"type": "number"}, "minItems": 5}, [1.0] * 5),
            ({"type": "array", "items": {"type": "number"}, "maxItems": 3}, [1.0] * 3),
            ({"type": "array", "items": {"type": "string"}}, ["text"] * 2),
            (
                {"type": "array", "prefixItems": [{"type": "number"}, {"type": "boolean"}]},
                [1.0, True],
            ),
            (
                {
                    "properties": {
                        "a": {"type": "number"},
                        "b": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                    },
                    "required": ["a"],
                },
                {"a": 1.0},
            ),
            ({"examples": [{"a": 5}], "type": "object"}, {"a": 5}),
            ({"type": "object"}, None),
            ({"type": "object", "properties": {"rows": {}}}, None),
            ({"type": "object", "properties": {"a": {}, "b": {}}}, {"a": 1.0, "b": 1.0}),
            ({"type": "array", "items": {}}, None),
        ],
        ids=str,
    )
    def test_made_up(self, schema: dict[str, Any], value: Any) -> None:
        """A value fits its schema, and where that says too little there is none."""
        assert made_up(schema) == value

    def test_what_is_about_itself(self) -> None:
        """A schema that refers to itself ends."""
        node = {"type": "object", "properties": {"child": {"$ref": "#/components/schemas/Node"}}}

        found = expanded(node, {"components": {"schemas": {"Node": node}}})

        assert json.dumps(found)
        made_up(found)


class TestCode:
    @pytest.mark.parametrize(
        ("body", "kind", "keys", "answers"),
        [
            ("data = request.get_json()\nreturn {'y': data['x']}", "json", ("x",), ("y",)),
            ("return jsonify(y=request.json.get('x', 0))", "json", ("x",), ("y",)),
            ("d = await request.json()\nreturn {'y': d['x']}", "json", ("x",), ("y",)),
            ("d = request.form.to_dict()\nreturn d['x'] + d['z']", "form", ("x", "z"), ()),
            ("f = request.files['image']\nreturn {'y': 1}, 201", "files", ("image",), ("y",)),
            ("return {'error': 'no'}, 404", "", (), ()),
            ("return request.args['q']", "query", ("q",), ()),
            (
                "d = json.loads(request.data)\nout = {'y': d['x']}\nreturn out",
                "json",
                ("x",),
                ("y",),
            ),
        ],
    )
    def test_taken(
        self, body: str, kind: str, keys: tuple[str, ...], answers: tuple[str, ...]
    ) -> None:
        """The code says what is asked of a request, and what is answered."""
        text = "\n".join(f"    {line}" for line in body.splitlines())
        name = module(f"from flask import request\nasync def predict():\n{text}\n")
        sys.path.insert(0, ".")

        found = taken(importlib.import_module(name).predict, "POST")

        assert (found.kind, found.keys, found.answers) == (kind, keys, answers)

    @pytest.mark.parametrize("handler", [len, print, 5, type("View", (), {})], ids=str)
    def test_no_code(self, handler: Any) -> None:
        """Where there is no code to be read, nothing is said."""
        assert taken(handler, "POST").kind == ""

    def test_models_of_a_handler(self) -> None:
        """A handler that asks models itself names them."""
        name = module("def predict(guard):\n    with guard.inference('iris', 1) as call: ...\n")
        sys.path.insert(0, ".")

        assert taken(importlib.import_module(name).predict, "POST").models == ("iris",)
