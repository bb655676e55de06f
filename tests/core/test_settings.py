"""What did the operator decide, and what are they told of a mistake?"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from mlguard.errors import InvalidSettings
from mlguard.reference import Reference
from mlguard.settings import Settings, load

SECRET = "correct horse battery staple, 32+"
ENVIRON = {"SECRET": SECRET}
AUTH: dict[str, Any] = {
    "issuer": "https://login.example.com/",
    "audience": "iris-api",
    "secret_env": "SECRET",
    "algorithms": ["HS256"],
}
MODEL: dict[str, Any] = {"name": "iris", "route": "/predict", "inputs": "instances"}


def loaded(source: Any, **environ: str) -> Settings:
    return load(source, environ=ENVIRON | environ)


def problems(source: Any, **environ: str) -> list[str]:
    """Return what the operator is told."""
    with pytest.raises(InvalidSettings) as caught:
        loaded(source, **environ)
    return list(caught.value.problems)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "mlguard.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / "reference.parquet"
    Reference.build({"length": [1.0, 2.0, 3.0], "width": [4.0, 5.0, 6.0]}).save(path)
    return path


class TestDefaults:
    def test_nothing_is_on(self) -> None:
        """Empty settings are valid, and switch on the metrics only."""
        settings = loaded({})

        parts = (settings.auth, settings.quotas, settings.drift, settings.tracing)
        assert parts == (None, None, None, None)
        assert settings.metrics.path == "/metrics"

    def test_nobody_is_trusted(self) -> None:
        """No proxy is believed unless the operator names it."""
        assert loaded({}).service.trusted_proxies == ()

    def test_bodies_have_a_limit(self) -> None:
        """A model route reads 8 MiB at most unless the operator says otherwise."""
        assert loaded({}).service.max_body == 8 * 1024 * 1024

    def test_settings_are_frozen(self) -> None:
        """Nobody changes the settings after the start."""
        settings = loaded({})

        with pytest.raises(ValueError, match="frozen"):
            settings.service = settings.service  # type: ignore[misc]


MISTAKES = [
    pytest.param({"servise": {}}, "servise: unknown key; did you mean 'service'?", id="table"),
    pytest.param(
        {"service": {"nmae": "x"}}, "service.nmae: unknown key; did you mean 'name'?", id="key"
    ),
    pytest.param(
        {"models": [{"name": "iris", "rout": "/predict"}]},
        "models[iris].rout: unknown key; did you mean 'route'?",
        id="key of an entry",
    ),
    pytest.param(
        {"metrics": {"xyzzy": 1}},
        "metrics.xyzzy: unknown key; valid: path",
        id="no such key at all",
    ),
    pytest.param({"service": 5}, "service = 5: must be a table", id="number for a table"),
    pytest.param({"auth": [AUTH]}, "must be a table", id="list for a table"),
    pytest.param({"models": MODEL}, "must be a list", id="table for a list of tables"),
    pytest.param(
        {"service": {"name": "two words"}}, "service.name = 'two words'", id="name with a blank"
    ),
    pytest.param({"service": {"name": "x" * 65}}, "service.name = ", id="long name"),
    pytest.param({"service": {"name": "-x"}}, "service.name = '-x'", id="name begins with a dash"),
    pytest.param({"models": [{"version": "3"}]}, "models[0].name: is missing", id="entry unnamed"),
    pytest.param({"service": {"environment": ""}}, "service.environment = ''", id="empty text"),
    pytest.param(
        {"service": {"max_body": "8 XiB"}},
        "service.max_body = '8 XiB': must be a size like \"8 MiB\"",
        id="unit of a size",
    ),
    pytest.param({"service": {"max_body": -1}}, "must be a size like", id="negative size"),
    pytest.param({"service": {"max_body": 1.5}}, "must be a size like", id="fraction of a byte"),
    pytest.param(
        {"service": {"companion": "yes"}},
        "service.companion = 'yes': must be a valid boolean",
        id="text for a boolean",
    ),
    pytest.param({"service": {"companion": 1}}, "must be a valid boolean", id="1 for a boolean"),
    pytest.param(
        {"service": {"trusted_proxies": ["10.0.0.1/8"]}},
        "service.trusted_proxies[0] = '10.0.0.1/8': must be a network like",
        id="network with host bits",
    ),
    pytest.param(
        {"service": {"trusted_proxies": "10.0.0.0/8"}}, "must be a list", id="text for a list"
    ),
    pytest.param(
        {"models": [{"name": "a", "route": "predict", "inputs": "x"}]},
        "models[a].route = 'predict': must be a path that begins with \"/\"",
        id="relative route",
    ),
    pytest.param(
        {"models": [{"name": "a", "route": "/predict"}]},
        "models[a]: has a `route`: say where its rows are",
        id="route without rows",
    ),
    pytest.param(
        {"models": [MODEL | {"protocol": "v1"}]},
        "models[iris]: has `protocol`, which says where the rows are",
        id="protocol and inputs",
    ),
    pytest.param(
        {"models": [{"name": "a", "protocol": "v3"}]}, "models[a].protocol = 'v3'", id="protocol"
    ),
    pytest.param(
        {"models": [{"name": "a", "features": ["x", "y", "x"]}]},
        "models[a]: names a feature twice",
        id="feature twice",
    ),
    pytest.param(
        {"models": [{"name": "a"}, {"name": "a"}]}, "two models have the name 'a'", id="name twice"
    ),
    pytest.param(
        {"models": [MODEL, MODEL | {"name": "other"}]},
        "two models have the route '/predict'",
        id="route twice",
    ),
    pytest.param({"models": [{"name": "a", "version": 3}]}, "models[a].version = 3", id="version"),
    pytest.param(
        {"models": [{"name": "a", "reference": ""}]},
        "models[a].reference = '': must be the path of a file",
        id="empty path",
    ),
    pytest.param({"auth": {**AUTH, "algorithms": []}}, "must not be empty", id="no algorithms"),
    pytest.param({"auth": {**AUTH, "algorithms": ["none"]}}, "auth.algorithms[0]", id="none"),
    pytest.param({"auth": {**AUTH, "algorithms": ["ES256"]}}, "'ES256'", id="unknown algorithm"),
    pytest.param(
        {"auth": {**AUTH, "algorithms": ["HS256", "RS256"]}},
        "auth: has algorithms ['RS256'], but a secret serves HS256, HS384, HS512 only",
        id="RSA with a secret",
    ),
    pytest.param(
        {"auth": {k: v for k, v in AUTH.items() if k != "secret_env"} | {"jwks_file": "k.json"}},
        "auth: has algorithms ['HS256'], but jwks_file serves RS256, RS384, RS512 only",
        id="HMAC with public keys",
    ),
    pytest.param(
        {"auth": {k: v for k, v in AUTH.items() if k != "secret_env"}},
        "auth: must have exactly one of `jwks_file`, `secret_env` and `secret_file`",
        id="no keys",
    ),
    pytest.param(
        {"auth": {**AUTH, "secret_file": "secret"}}, "must have exactly one of", id="two secrets"
    ),
    pytest.param({"auth": {**AUTH, "leeway": -1}}, "auth.leeway = -1", id="negative leeway"),
    pytest.param({"auth": {**AUTH, "leeway": 301}}, "auth.leeway = 301", id="long leeway"),
    pytest.param({"auth": {**AUTH, "leeway": True}}, "auth.leeway = True", id="true leeway"),
    pytest.param({"auth": {**AUTH, "leeway": "10"}}, "auth.leeway = '10'", id="text leeway"),
    pytest.param({"auth": {**AUTH, "issuer": ""}}, "auth.issuer = ''", id="empty issuer"),
    pytest.param({"auth": {**AUTH, "audience": 5}}, "auth.audience = 5", id="number audience"),
    pytest.param({"auth": {**AUTH, "audience": ["a", 5]}}, "auth.audience = 5", id="odd audience"),
    pytest.param({"auth": {**AUTH, "public": ["health"]}}, 'begins with "/"', id="public route"),
    pytest.param({"auth": {**AUTH, "scopes": "predict"}}, "auth.scopes = 'predict'", id="scopes"),
    pytest.param({"quotas": {}}, "quotas: must have `requests`, `rows` or both", id="no quota"),
    pytest.param(
        {"quotas": {"requests": []}}, "quotas: must have `requests`, `rows`", id="empty quota"
    ),
    pytest.param(
        {"quotas": {"requests": ["many"]}},
        "quotas.requests[0] = 'many': must be a rate like \"600/minute\"",
        id="no rate",
    ),
    pytest.param({"quotas": {"rows": ["0/minute"]}}, "must be a rate like", id="rate of zero"),
    pytest.param({"quotas": {"rows": ["-5/minute"]}}, "must be a rate like", id="negative rate"),
    pytest.param({"quotas": {"rows": [600]}}, "must be a rate like", id="number for a rate"),
    pytest.param(
        {"quotas": {"rows": "5/minute"}},
        "quotas.rows = '5/minute': must be a list",
        id="rate alone",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "store": "redis://x"}}, "quotas.store", id="store"
    ),
    pytest.param({"drift": {}}, "drift: no model has a `reference`", id="drift without reference"),
    pytest.param({"drift": {"window": 49}}, "drift.window = 49", id="short window"),
    pytest.param({"drift": {"window": 1000.0}}, "drift.window = 1000.0", id="window of a float"),
    pytest.param({"drift": {"sample": 0}}, "drift.sample = 0", id="no sample"),
    pytest.param({"drift": {"sample": "0.5"}}, "drift.sample = '0.5'", id="sample of text"),
    pytest.param({"drift": {"rows_per_request": 0}}, "drift.rows_per_request = 0", id="no rows"),
    pytest.param({"tracing": {"sample": 1.1}}, "tracing.sample = 1.1", id="more than all"),
    pytest.param({"tracing": {"sample": -0.1}}, "tracing.sample = -0.1", id="less than none"),
    pytest.param({"tracing": {"endpoint": "127.0.0.1:4318"}}, "tracing.endpoint", id="no scheme"),
    pytest.param({"metrics": {"path": "metrics"}}, 'begins with "/"', id="relative metrics"),
]


class TestMistakes:
    @pytest.mark.parametrize(("source", "said"), MISTAKES)
    def test_each_is_named(self, source: dict[str, Any], said: str) -> None:
        """A mistake is told once, with its key, its value and what it must be."""
        (problem,) = problems(source)

        assert said in problem

    def test_all_are_told_at_once(self) -> None:
        """Mistakes of every kind come in one message, of the file and of the environment."""
        source = {"service": {"nmae": "x", "max_body": "big"}, "metrics": {"path": 5}}

        told = problems(source, MLGUARD_SERVICE__COMPANY="x")

        places = {problem.partition(":")[0].partition(" ")[0] for problem in told}
        assert places == {
            "MLGUARD_SERVICE__COMPANY",
            "service.nmae",
            "service.max_body",
            "metrics.path",
        }

    def test_the_message_names_the_file(self, tmp_path: Path) -> None:
        """The exception's text begins with the file, and lists one mistake a line."""
        path = written(tmp_path, "[service]\nnmae = 'x'\n[metrics]\npath = 5\n")

        with pytest.raises(InvalidSettings) as caught:
            loaded(path)

        first, *lines = str(caught.value).splitlines()
        assert first == f"{path}: 2 mistakes"
        assert len(lines) == 2

    def test_long_values_are_cut(self) -> None:
        """A value of any length is shown in 80 characters."""
        (problem,) = problems({"service": {"name": "x" * 10_000}})

        assert len(problem) < 200

    def test_no_marks_of_unions(self) -> None:
        """A value that fits no alternative is told once, under the key of the file."""
        (problem,) = problems({"auth": {**AUTH, "audience": {}}})

        assert problem.startswith("auth.audience = {}: ")

    @pytest.mark.parametrize(
        "source",
        [
            pytest.param({"auth": {**AUTH, "audience": []}}, id="audience of nobody"),
            pytest.param({"auth": {**AUTH, "scopes": ["a b"]}}, id="scope that is two"),
            pytest.param({"auth": {**AUTH, "scopes": ['a"b']}}, id="scope with a quote"),
            pytest.param({"service": {"trusted_proxies": [1]}}, id="number for a network"),
            pytest.param({"service": {"max_body": True}}, id="true for a size"),
            pytest.param({"service": {"max_body": 0}}, id="size of nothing"),
            pytest.param({"quotas": {"rows": ["9/minute; 5/second"]}}, id="two rates in one"),
            pytest.param({"quotas": {"rows": ["9 per 0 minutes"]}}, id="rate of no time"),
        ],
    )
    def test_what_cannot_be_meant(self, source: dict[str, Any]) -> None:
        """A value that could never do what it says is a mistake."""
        assert len(problems(source)) == 1


class TestFiles:
    def test_toml(self, tmp_path: Path) -> None:
        """A path, as text or as Path, is read as TOML."""
        path = written(tmp_path, '[service]\nname = "iris-api"\n[quotas]\nrows = ["5 per 2 hours"]')

        settings = loaded(path)

        assert settings == loaded(str(path))
        assert settings.service.name == "iris-api"
        assert settings.quotas is not None
        assert [(r.limit, r.seconds) for r in settings.quotas.rows] == [(5, 7200)]
        assert settings.source == str(path)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            pytest.param("[service\n", "is not TOML: ", id="syntax"),
            pytest.param("a = 1\na = 2\n", "is not TOML: ", id="a key twice"),
            pytest.param(b"name = '\xff\xfe'", "cannot be read: ", id="not UTF-8"),
            pytest.param("[service]\nname = ", "is not TOML: ", id="cut off"),
        ],
    )
    def test_unreadable(self, tmp_path: Path, text: str | bytes, said: str) -> None:
        """A file that is not TOML in UTF-8 is told as one mistake."""
        (problem,) = problems(written(tmp_path, text))

        assert problem.startswith(said)

    def test_missing(self, tmp_path: Path) -> None:
        """A file that is not there is told by its path."""
        with pytest.raises(InvalidSettings, match=r"nowhere\.toml: no such file"):
            loaded(tmp_path / "nowhere.toml")

    def test_directory(self, tmp_path: Path) -> None:
        """A directory is no settings file."""
        (problem,) = problems(tmp_path)

        assert problem.startswith("cannot be read: ")

    def test_relative_to_the_file(
        self, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Relative paths are relative to the file, wherever the process stands."""
        folder = tmp_path / "etc"
        folder.mkdir()
        (folder / "secret").write_text(SECRET)
        (folder / "reference.parquet").write_bytes(reference.read_bytes())
        path = written(
            folder,
            '[[models]]\nname = "iris"\nreference = "reference.parquet"\n'
            '[drift]\nreport = "drift.html"\n'
            '[auth]\nissuer = "i"\naudience = "a"\nalgorithms = ["HS256"]\nsecret_file = "secret"',
        )
        monkeypatch.chdir(tmp_path)

        settings = loaded(Path("etc") / path.name)

        assert settings.auth is not None
        assert settings.drift is not None
        assert settings.auth.secret_file == folder / "secret"
        assert settings.drift.report == folder / "drift.html"
        assert settings.models[0].reference == folder / "reference.parquet"
        assert settings.secret == SECRET.encode()

    def test_absolute(self, tmp_path: Path, reference: Path) -> None:
        """An absolute path stays what it is."""
        path = written(tmp_path, f'[[models]]\nname = "iris"\nreference = "{reference}"')

        assert loaded(path).models[0].reference == reference

    @pytest.mark.parametrize("there", ["nothing", "directory"])
    def test_keys_that_are_not_there(self, tmp_path: Path, there: str) -> None:
        """A key file must be a file."""
        path = tmp_path / "keys.json"
        if there == "directory":
            path.mkdir()
        auth = {"issuer": "i", "audience": "a", "algorithms": ["RS256"], "jwks_file": str(path)}

        assert problems({"auth": auth}) == [f"auth.jwks_file = '{path}': no such file"]


class TestMappings:
    def test_the_callers_is_not_changed(self) -> None:
        """Overriding writes into a copy, at every depth."""
        source = {"models": [dict(MODEL)], "service": {"name": "mine"}, "auth": dict(AUTH)}
        before = copy.deepcopy(source)

        settings = loaded(
            source,
            MLGUARD_MODELS__IRIS__VERSION="9",
            MLGUARD_SERVICE__NAME="theirs",
            MLGUARD_AUTH__SCOPES="predict",
        )

        assert source == before
        assert (settings.service.name, settings.models[0].version) == ("theirs", "9")

    def test_tuples_do(self) -> None:
        """Python's tuples are lists too."""
        source = {"models": (MODEL,), "quotas": {"rows": ("5/minute",)}}

        assert loaded(source) == loaded({"models": [MODEL], "quotas": {"rows": ["5/minute"]}})

    def test_paths_do(self, reference: Path) -> None:
        """A Path is a path."""
        settings = loaded({"models": [{"name": "iris", "reference": reference}]})

        assert settings.models[0].reference == reference

    def test_settings_are_taken_as_they_are(self) -> None:
        """What was loaded already is not loaded again."""
        settings = loaded({"auth": AUTH})

        assert load(settings, environ={"MLGUARD_SERVICE__NAME": "other"}) is settings
        assert settings.secret == SECRET.encode()

    def test_settings_made_by_hand_have_their_secret(self) -> None:
        """Settings that name a secret are never used without it."""
        made = Settings.model_validate({"auth": AUTH})

        assert loaded(made).secret == SECRET.encode()


OVERRIDES = [
    pytest.param("SERVICE__NAME", "iris-api", "service.name", "iris-api", id="text"),
    pytest.param("SERVICE__NAME", "123", "service.name", "123", id="text that is a number"),
    pytest.param("SERVICE__ENVIRONMENT", "true", "service.environment", "true", id="text true"),
    pytest.param(
        "SERVICE__ENVIRONMENT", "2024-01-01", "service.environment", "2024-01-01", id="date"
    ),
    pytest.param("SERVICE__COMPANION", "false", "service.companion", False, id="boolean"),
    pytest.param("SERVICE__MAX_BODY", "1 KiB", "service.max_body", 1024, id="size"),
    pytest.param("SERVICE__MAX_BODY", "4096", "service.max_body", 4096, id="bytes"),
    pytest.param(
        "SERVICE__TRUSTED_PROXIES",
        "10.0.0.0/8, fd00::/8",
        "service.trusted_proxies",
        (ip_network("10.0.0.0/8"), ip_network("fd00::/8")),
        id="list with commas",
    ),
    pytest.param(
        "SERVICE__TRUSTED_PROXIES",
        '["10.0.0.0/8"]',
        "service.trusted_proxies",
        (ip_network("10.0.0.0/8"),),
        id="list as TOML",
    ),
    pytest.param("AUTH__LEEWAY", "0", "auth.leeway", 0, id="number"),
    pytest.param("AUTH__SCOPES", "predict", "auth.scopes", ("predict",), id="list of one"),
    pytest.param("AUTH__SCOPES", "", "auth.scopes", (), id="empty list"),
    pytest.param("AUTH__AUDIENCE", '["a", "b"]', "auth.audience", ("a", "b"), id="union, a list"),
    pytest.param("AUTH__AUDIENCE", "a", "auth.audience", "a", id="union, a text"),
    pytest.param("TRACING__SAMPLE", "0.25", "tracing.sample", 0.25, id="float of a new table"),
    pytest.param("METRICS__PATH", "/internal", "metrics.path", "/internal", id="route"),
]


class TestEnvironment:
    @pytest.mark.parametrize(("variable", "raw", "place", "expected"), OVERRIDES)
    def test_any_key(self, variable: str, raw: str, place: str, expected: object) -> None:
        """A variable is read as the type of the key that it names, and wins over the file."""
        settings = loaded({"auth": AUTH}, **{f"MLGUARD_{variable}": raw})

        table, key = place.split(".")
        assert getattr(getattr(settings, table), key) == expected

    @pytest.mark.parametrize("name", ["iris", "Iris", "my-iris", "my.iris", "my_iris"])
    def test_entries_by_name(self, name: str) -> None:
        """An entry of a list is named; case, dashes and dots are those of a variable."""
        variable = name.upper().replace("-", "_").replace(".", "_")

        settings = loaded(
            {"models": [{"name": "other"}, {"name": name}]},
            **{f"MLGUARD_MODELS__{variable}__VERSION": "7"},
        )

        assert [(m.name, m.version) for m in settings.models] == [("other", "1"), (name, "7")]

    def test_a_table_that_only_the_environment_names(self) -> None:
        """A part is switched on by its variables alone."""
        settings = loaded({}, MLGUARD_QUOTAS__REQUESTS="600/minute, 10/second")

        assert settings.quotas is not None
        assert [(r.limit, r.seconds) for r in settings.quotas.requests] == [(600, 60), (10, 1)]

    def test_a_whole_table_that_only_the_environment_names(self) -> None:
        """Authentication can be configured without a line in the file."""
        settings = loaded(
            {},
            MLGUARD_AUTH__ISSUER="https://login.example.com/",
            MLGUARD_AUTH__AUDIENCE="iris-api",
            MLGUARD_AUTH__SECRET_ENV="SECRET",
            MLGUARD_AUTH__ALGORITHMS="HS256,HS384",
            SECRET="s" * 48,
        )

        assert settings.auth is not None
        assert settings.auth.algorithms == ("HS256", "HS384")

    def test_paths_are_relative_to_the_file(self, tmp_path: Path) -> None:
        """A relative path of the environment is relative to the file too."""
        (tmp_path / "secret").write_text(SECRET)
        path = written(tmp_path, '[auth]\nissuer="i"\naudience="a"\nalgorithms=["HS256"]')

        settings = loaded(path, MLGUARD_AUTH__SECRET_FILE="secret")

        assert settings.secret == SECRET.encode()

    @pytest.mark.parametrize(
        ("variable", "said"),
        [
            ("SERVISE__NAME", "unknown key 'servise'; did you mean 'service'?"),
            ("SERVICE__NAEM", "unknown key 'naem'; did you mean 'name'?"),
            ("SERVICE__NAME__FIRST", "'name.first' is not one key of a table"),
            ("MODELS__IRYS__VERSION", "no entry of models is named 'irys'; did you mean 'iris'?"),
            ("MODELS__IRIS__VERSOIN", "unknown key 'versoin'; did you mean 'version'?"),
            ("MODELS__IRIS", "names no key of that entry"),
            ("SERVICE__", "unknown key ''"),
            ("__NAME", "unknown key ''"),
        ],
    )
    def test_unknown_keys(self, variable: str, said: str) -> None:
        """A variable that names no key is a mistake, and the nearest key is told."""
        (problem,) = problems({"models": [MODEL]}, **{f"MLGUARD_{variable}": "x"})

        assert problem.startswith(f"MLGUARD_{variable}: {said}")

    @pytest.mark.parametrize("variable", ["MLGUARD_PSEUDONYM_KEY", "MLGUARDIAN__X", "OTHER__X"])
    def test_variables_of_others(self, variable: str) -> None:
        """A variable without a table and a key is not of the settings."""
        assert loaded({}, **{variable: "x"}) == loaded({})

    def test_wrong_values(self) -> None:
        """A value that the key cannot have is told as one in the file would be."""
        (problem,) = problems({}, MLGUARD_SERVICE__COMPANION="perhaps")

        assert problem == "service.companion = 'perhaps': must be a valid boolean"

    @pytest.mark.parametrize(
        ("source", "variable"),
        [
            pytest.param({"service": 5}, "MLGUARD_SERVICE__NAME", id="number for a table"),
            pytest.param({"service": []}, "MLGUARD_SERVICE__NAME", id="list for a table"),
            pytest.param({"models": MODEL}, "MLGUARD_MODELS__IRIS__VERSION", id="[models]"),
            pytest.param({"models": 5}, "MLGUARD_MODELS__IRIS__VERSION", id="number for a list"),
            pytest.param(
                {"models": [5]}, "MLGUARD_MODELS__IRIS__VERSION", id="number for an entry"
            ),
        ],
    )
    def test_over_a_file_of_wrong_types(self, source: dict[str, Any], variable: str) -> None:
        """Overriding what is no table is a mistake that is told, not an exception."""
        assert problems(source, **{variable: "x"})

    def test_two_entries_of_one_spelling(self) -> None:
        """A variable that could mean two entries is a mistake."""
        source = {"models": [{"name": "a-b"}, {"name": "a.b"}]}

        assert len(problems(source, MLGUARD_MODELS__A_B__VERSION="7")) == 1

    def test_the_process_has_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without another, the environment is that of the process."""
        monkeypatch.setenv("MLGUARD_SERVICE__NAME", "from-outside")

        assert load({}).service.name == "from-outside"


class TestSecrets:
    @pytest.mark.parametrize("key", ["secret", "key", "password"])
    def test_never_in_the_settings(self, key: str) -> None:
        """A secret in the settings is refused, told where it belongs, and not repeated."""
        (problem,) = problems({"auth": {**AUTH, key: "hunter2"}})

        said = "secrets never stand in the settings; use `secret_env` or `secret_file`"
        assert problem == f"auth.{key}: {said}"

    def test_never_in_an_override(self) -> None:
        """A variable that would put a secret into the settings is refused and not repeated."""
        (problem,) = problems({"auth": AUTH}, MLGUARD_AUTH__SECRET="hunter2")

        assert problem.startswith("MLGUARD_AUTH__SECRET: unknown key 'secret'")
        assert "hunter2" not in problem

    @pytest.mark.parametrize(("algorithm", "least"), [("HS256", 32), ("HS384", 48), ("HS512", 64)])
    def test_long_enough(self, algorithm: str, least: int) -> None:
        """RFC 7518 section 3.2: a secret is as long as the hash; a short one is not repeated."""
        auth = {**AUTH, "algorithms": ["HS256", algorithm]}
        short = "hunter2".ljust(least - 1, "x")

        (problem,) = problems({"auth": auth}, SECRET=short)

        assert f"at least {least} bytes" in problem
        assert f"has {least - 1}" in problem
        assert "hunter2" not in problem
        assert loaded({"auth": auth}, SECRET="x" * least).secret == b"x" * least

    def test_missing_variable(self) -> None:
        """A variable that is not set holds no secret."""
        (problem,) = problems({"auth": {**AUTH, "secret_env": "NOT_SET"}})

        assert problem.startswith("auth.secret_env = 'NOT_SET': is not set")

    def test_from_a_file(self, tmp_path: Path) -> None:
        """A secret's file may end in a line break."""
        path = tmp_path / "secret"
        path.write_text(SECRET + "\n")
        auth = {k: v for k, v in AUTH.items() if k != "secret_env"} | {"secret_file": path}

        assert loaded({"auth": auth}).secret == SECRET.encode()

    @pytest.mark.parametrize("there", ["nothing", "directory"])
    def test_from_a_file_that_is_not_there(self, tmp_path: Path, there: str) -> None:
        """A secret's file must be readable."""
        path = tmp_path / "secret"
        if there == "directory":
            path.mkdir()
        auth = {k: v for k, v in AUTH.items() if k != "secret_env"} | {"secret_file": str(path)}

        (problem,) = problems({"auth": auth})

        assert problem.startswith(f"auth.secret_file = '{path}': cannot be read: ")

    def test_pseudonym_key(self) -> None:
        """The key of pseudonyms comes from the variable that the settings name."""
        source = {"service": {"pseudonym_key_env": "PSEUDONYMS"}}

        assert loaded(source, PSEUDONYMS="k" * 16).pseudonym_key == b"k" * 16
        (problem,) = problems(source, PSEUDONYMS="hunter2")
        assert problem == (
            "service.pseudonym_key_env = 'PSEUDONYMS': that variable must hold at least 16 bytes"
        )

    def test_never_shown(self) -> None:
        """No way of printing settings shows a secret."""
        settings = loaded(
            {"auth": AUTH, "service": {"pseudonym_key_env": "PSEUDONYMS"}}, PSEUDONYMS="k" * 40
        )

        shown = f"{settings!r} {settings} {settings.model_dump_json()}"
        assert SECRET not in shown
        assert "k" * 40 not in shown

    def test_a_password_in_an_endpoint_is_not_repeated(self) -> None:
        """A URL with a password is refused without repeating the password."""
        (problem,) = problems({"tracing": {"endpoint": "https://user:hunter2@collector"}})

        assert "hunter2" not in problem

    def test_a_secret_for_a_variable_is_not_repeated(self) -> None:
        """A secret that was written where a variable's name belongs is not repeated."""
        (problem,) = problems({"auth": {**AUTH, "secret_env": "hunter2/+hunter2=="}})

        assert "hunter2" not in problem

    def test_bytes_that_are_no_text(self) -> None:
        """A secret of random bytes is taken as it stands in the environment."""
        raw = bytes(range(128, 168))

        assert loaded({"auth": AUTH}, SECRET=os.fsdecode(raw)).secret == raw

    def test_a_public_key_is_no_secret(self) -> None:
        """A PEM where a secret belongs is a mistake: everybody knows a public key."""
        pem = "-----BEGIN PUBLIC KEY-----\n" + "A" * 64 + "\n-----END PUBLIC KEY-----"

        assert len(problems({"auth": AUTH}, SECRET=pem)) == 1


class TestReferences:
    def test_features_may_be_left_out(self, reference: Path) -> None:
        """A reference knows its features."""
        model = {"name": "iris", "reference": str(reference)}

        assert loaded({"models": [model], "drift": {}}).models[0].reference == reference

    def test_features_agree(self, reference: Path) -> None:
        """Features that are the reference's, in its order, are repeated without harm."""
        model = {"name": "iris", "reference": str(reference), "features": ["length", "width"]}

        assert loaded({"models": [model]}).models[0].features == ("length", "width")

    @pytest.mark.parametrize(
        "features",
        [["width", "length"], ["length"], ["length", "width", "height"]],
        ids=["other order", "fewer", "more"],
    )
    def test_features_that_do_not_agree(self, reference: Path, features: list[str]) -> None:
        """Rows are read by position: other features than the reference's are a mistake."""
        model = {"name": "iris", "reference": str(reference), "features": features}

        must = "must be the reference's, in its order: ['length', 'width']"
        assert problems({"models": [model]}) == [f"models[iris].features = {features}: {must}"]

    @pytest.mark.parametrize("content", [None, b"", b"PAR1 but not really PAR1", b"a,b\n1,2\n"])
    def test_unreadable(self, tmp_path: Path, content: bytes | None) -> None:
        """A reference that cannot be read is told with its model and its path."""
        path = tmp_path / "reference.parquet"
        if content is not None:
            path.write_bytes(content)

        (problem,) = problems({"models": [{"name": "iris", "reference": str(path)}]})

        assert problem.startswith(f"models[iris].reference = '{path}': ")
        assert "mlguard reference build" in problem


class TestDigest:
    def test_order_is_nothing(self) -> None:
        """Equal settings have equal digests, however they were written."""
        one = {"service": {"name": "a", "environment": "b"}, "quotas": {"rows": ["5/minute"]}}
        other = {"quotas": {"rows": ("5/minute",)}, "service": {"environment": "b", "name": "a"}}

        assert loaded(one).digest() == loaded(other).digest()

    @pytest.mark.parametrize(
        "other",
        [
            {"service": {"name": "other"}},
            {"quotas": {"rows": ["6/minute"]}},
            {"auth": {**AUTH, "leeway": 11}},
            {"models": [MODEL]},
        ],
        ids=["name", "rate", "leeway", "model"],
    )
    def test_what_differs_differs(self, other: dict[str, Any]) -> None:
        """Settings that differ in any key have other digests."""
        source = {"quotas": {"rows": ["5/minute"]}, "auth": AUTH}

        assert loaded(source).digest() != loaded(source | other).digest()

    def test_processes_agree(self) -> None:
        """Every process of a service comes to the same digest."""
        source = {"models": [MODEL], "auth": {**AUTH, "audience": ["b", "a"], "scopes": ["x", "y"]}}
        program = (
            "import json, sys; from mlguard.settings import load;"
            "print(load(json.loads(sys.argv[1])).digest())"
        )

        other = subprocess.run(
            [sys.executable, "-c", program, json.dumps(source)],
            env={**os.environ, **ENVIRON, "PYTHONHASHSEED": "7"},
            capture_output=True,
            text=True,
            check=True,
        )

        assert other.stdout.strip() == loaded(source).digest()
