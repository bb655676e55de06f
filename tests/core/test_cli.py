"""What can an operator do from a shell?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from jose import jwt

from mlguard import __version__
from mlguard.cli import main
from mlguard.reference import Reference

SECRET = "a secret of the tests that is long enough"
FILE = """\
[service]
name = "iris-api"
companion = false

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
algorithms = ["HS384", "HS256"]
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
guard = MLGuard(app, {{"service": {{"companion": False}}, "models": {models}}})
bare = {cls}({arguments})
number = 5

{route}
def predict():
    return {{}}
"""
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
def told(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command; return its exit code and both of its streams."""

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


class TestCheck:
    def test_a_file(self, told: Any) -> None:
        """A file without mistakes is told with what it switches on."""
        written("mlguard.toml", FILE)

        code, out, err = told("check", "mlguard.toml")

        assert (code, err) == (0, "")
        assert out.splitlines() == [
            "mlguard.toml: ok",
            "  auth     tokens of https://login.example.com/",
            "  quotas   600/minute requests, 10000/hour rows, 50000/day rows",
            "  drift    off",
            "  tracing  25% to http://127.0.0.1:4318",
            "  metrics  /metrics",
            "  model    iris 3 /predict",
            "  model    own 1 in a handler",
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
            ("bare", "is not guarded: call MLGuard(app, ...)"),
            ("missing", "cannot be imported: "),
            ("app.missing", "cannot be imported: "),
            pytest.param(
                "number",
                "is not guarded",
            ),
        ],
    )
    def test_no_guard(
        self, told: Any, framework: str, attribute: str, said: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is no guarded app is told as what it is."""
        name = app(framework, monkeypatch, MODEL)

        code, _, err = told("check", f"{name}:{attribute}")

        assert code == 1
        assert err.startswith(f"mlguard: {name}:{attribute}: {said}")

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
        assert claims == {
            "iss": "https://login.example.com/",
            "aud": "another-api",
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
            ("", "mint needs [auth] with `secret_env` or `secret_file`"),
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
        assert "only the issuer has private keys" in err

    @pytest.mark.parametrize("minutes", ["nan", "inf"])
    def test_odd_minutes(self, told: Any, minutes: str) -> None:
        """A time that is no time is told, not raised."""
        written("mlguard.toml", FILE)

        with pytest.raises(SystemExit, match="2"):
            told("token", "mint", "--minutes", minutes)


class TestReference:
    @pytest.fixture(autouse=True)
    def _data(self) -> None:
        frame = pd.DataFrame({"age": [1.0, 2.0], "region": ["n", "s"], "code": [7, 8]})
        frame.to_csv("data.csv", index=False)
        frame.to_parquet("data.parquet")

    @pytest.mark.parametrize("data", ["data.csv", "data.parquet"])
    def test_built(self, told: Any, data: str) -> None:
        """A table becomes a reference, next to it and told in one line."""
        code, out, err = told("reference", "build", data)

        assert (code, err) == (0, "")
        assert out == "reference.parquet: 2 rows of age, region, code\n"
        assert Reference.load("reference.parquet").features == ("age", "region", "code")

    def test_options(self, told: Any) -> None:
        """The features, their order and kinds, and the file are the operator's to choose."""
        code, out, _ = told(
            *("reference", "build", "data.csv", "-o", "other.parquet"),
            *("--columns", "code", "age", "--categorical", "code"),
        )

        assert (code, out) == (0, "other.parquet: 2 rows of code, age\n")
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
            (["data.csv", "--columns", "agge"], "data.csv: cannot be read: "),
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


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [[], ["chek"], ["check"], ["token"], ["token", "mint", "x"], ["reference", "build"]],
        ids=lambda a: " ".join(a) or "nothing",
    )
    def test_mistakes(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """A command that is none exits with 2 and the usage."""
        with pytest.raises(SystemExit) as caught:
            main(arguments)

        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("usage: mlguard")

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
        assert all(command in out for command in ("check", "token", "reference"))


def test_settings_of_the_environment(told: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check sees the environment as the service would."""
    written("mlguard.toml", FILE)
    monkeypatch.setenv("MLGUARD_MODELS__IRIS__VERSION", "9")
    monkeypatch.setenv("MLGUARD_SERVICE__TRUSTED_PROXIES", json.dumps(["10.0.0.0/8"]))

    _, out, _ = told("check", "mlguard.toml")

    assert "model    iris 9 /predict" in out
