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

from mlguard.app.service import Service
from mlguard.errors import InvalidSettings, MissingExtra
from mlguard.performance import Task
from mlguard.performance.calibration import ScoreCalibration
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


def secrets_of(settings: Settings) -> tuple[bytes, ...]:
    """Return the secrets of the first issuer."""
    assert settings.auth is not None
    return settings.secrets_of(settings.auth.issuers[0])


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

    def test_heads_have_a_limit(self) -> None:
        """A URI has 8 KiB, a header 16 KiB, and a body comes in 30 seconds, unless told."""
        found = loaded({}).service

        assert (found.max_uri, found.max_header, found.body_timeout) == (8192, 16384, 30)

    def test_settings_are_frozen(self) -> None:
        """Nobody changes the settings after the start."""
        settings = loaded({})

        with pytest.raises(ValueError, match="frozen"):
            settings.service = settings.service  # type: ignore[misc]


class TestDrift:
    """Are the inputs of a model compared with its reference?"""

    @pytest.fixture
    def model(self, tmp_path: Path) -> dict[str, Any]:
        reference = tmp_path / "reference.parquet"
        Reference.build({"a": [1.0, 2.0]}).save(reference)
        return {"name": "iris", "reference": str(reference)}

    def test_a_reference_is_enough(self, model: dict[str, Any]) -> None:
        """It is on with the usual settings as soon as a model has a reference."""
        drift = loaded({"models": [model]}).drift

        assert drift is not None
        assert (drift.rows_per_request, drift.window) == (1, None)

    def test_it_can_be_switched_off(self, model: dict[str, Any]) -> None:
        """A file or the environment says so, whatever else stands in the table."""
        off = {"models": [model], "drift": {"enabled": False, "route": "/drift"}}

        assert loaded(off).drift is None
        assert loaded({"models": [model]}, MLGUARD_DRIFT__ENABLED="false").drift is None

    def test_without_the_file_of_the_workers(self, model: dict[str, Any]) -> None:
        """Drift that is asked for by name and can be checked nowhere is a mistake."""
        source = {"models": [model], "service": {"host_file": False}, "drift": {}}

        (said,) = problems(source)
        assert said.startswith("drift: needs the file in which the workers of a host meet")

    @pytest.mark.parametrize("gone", ["package", "file"])
    def test_nobody_asked_for_it(
        self,
        model: dict[str, Any],
        gone: str,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Where it cannot be checked the service goes on without, and says what it takes."""
        source: dict[str, Any] = {"models": [model]}
        if gone == "package":
            monkeypatch.setitem(sys.modules, "evidently", None)
        else:
            source["service"] = {"host_file": False}

        assert Service(source).settings.drift is None
        said = {"package": "pip install 'mlguard-core[drift]'", "file": "service.host_file"}
        assert said[gone] in caplog.text
        assert "drift.enabled" in caplog.text

    def test_asked_for_by_name_it_needs_its_packages(
        self, model: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the table [drift], a service without the packages does not start."""
        monkeypatch.setitem(sys.modules, "evidently", None)

        with pytest.raises(MissingExtra, match=r"needs evidently: run `pip install"):
            Service({"models": [model], "drift": {}})


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
        {"service": {"host_file": "yes"}},
        "service.host_file = 'yes': must be a valid boolean",
        id="text for a boolean",
    ),
    pytest.param({"service": {"host_file": 1}}, "must be a valid boolean", id="1 for a boolean"),
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
        {"models": [{"name": "a", "routes": ["/x", "y z/x"], "inputs": "x"}]},
        "models[a].routes[1] = 'y z/x': must be a path that begins with \"/\", or a host before it",
        id="host with a blank",
    ),
    pytest.param(
        {"models": [{"name": "a", "routes": "/x", "inputs": "x"}]},
        "models[a].routes = '/x': must be a list",
        id="text for routes",
    ),
    pytest.param(
        {"models": [{"name": "a", "route": "/x", "routes": ["/y"], "inputs": "x"}]},
        "models[a]: has `route` and `routes`: name them all in `routes`",
        id="route and routes",
    ),
    pytest.param(
        {"models": [{"name": "a", "routes": ["/predict"]}]},
        "models[a]: has `routes`: say where its rows are",
        id="routes without rows",
    ),
    pytest.param(
        {"models": [{"name": "a", "routes": ["/x", "/y", "/x"], "inputs": "x"}]},
        "models: 'a' names twice the route '/x'",
        id="a route twice",
    ),
    pytest.param(
        {
            "models": [
                {"name": "a", "routes": ["/x", "/y"], "inputs": "x"},
                {"name": "b", "route": "/y", "inputs": "x"},
            ]
        },
        "models: 'a' and 'b' share the route '/y' and the rows at 'x'",
        id="a route of two models",
    ),
    pytest.param(
        {"auth": {**AUTH, "public": ["status"]}},
        "auth.public[0] = 'status': must be a path that begins",
        id="public without a path",
    ),
    pytest.param(
        {"service": {"max_uri": "8 XiB"}}, 'must be a size like "8 MiB"', id="unit of a URI"
    ),
    pytest.param(
        {"service": {"max_uri": 100}},
        "service.max_uri = 100: must be greater than or equal to 1024",
        id="no room for a URI",
    ),
    pytest.param(
        {"service": {"max_header": "2 MiB"}},
        "service.max_header = '2 MiB': must be less than or equal to 1048576",
        id="room for too much",
    ),
    pytest.param(
        {"service": {"body_timeout": 0}}, "service.body_timeout = 0: must be", id="no time"
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
        {
            "models": [
                {"name": "a", "route": "/y", "inputs": "x", "model_from": "body:model"},
                {"name": "b", "route": "/y", "inputs": "x"},
            ]
        },
        "models: 'a' and 'b' share the route '/y': give all of them the same `model_from`",
        id="only one is named by requests",
    ),
    pytest.param(
        {
            "models": [
                {"name": "a", "route": "/y", "inputs": "x", "model_from": "body:model"},
                {
                    "name": "b",
                    "route": "/y",
                    "inputs": "x",
                    "model_from": "body:model",
                    "aliases": ["A "],
                },
            ]
        },
        "models: 'A ' asks two models at the route '/y'",
        id="an alias of two models",
    ),
    pytest.param(
        {"models": [{"name": "a", "route": "/y", "inputs": "x", "model_from": "header:x"}]},
        "models[a].model_from = 'header:x': must be where it is said: \"path:name\"",
        id="no such place of a name",
    ),
    pytest.param(
        {"models": [{"name": "a", "route": "/y", "inputs": "x", "model_from": "body:."}]},
        "models[a].model_from = 'body:.': reads nothing",
        id="a place of a name that reads nothing",
    ),
    *(
        pytest.param(
            {"models": [{"name": "a", "route": "/y", **one}, {"name": "b", "route": "/y", **two}]},
            "models: 'b' reads the form of the route '/y'",
            id=f"a form where {why}",
        )
        for why, one, two in (
            (
                "bodies tell models apart",
                {"inputs": "x", "model_from": "body:m"},
                {"inputs": "form", "model_from": "body:m"},
            ),
            ("rows stand together", {"inputs": "x"}, {"inputs": "form"}),
            (
                "others read JSON",
                {"inputs": "x", "model_from": "query:m"},
                {"inputs": "form", "model_from": "query:m"},
            ),
        )
    ),
    pytest.param(
        {"models": [{"name": "a", "version_from": "body:version"}]},
        "models[a]: has `version_from`, but no `route` whose requests could say it",
        id="a version without a route",
    ),
    pytest.param(
        {"models": [{"name": "a", "aliases": ["b"]}]},
        "models[a]: has `aliases`: say where requests name it, with `model_from`",
        id="aliases that nobody looks for",
    ),
    pytest.param(
        {"models": [{"name": "a", "versions": ["1", "2"]}]},
        "models[a]: has `versions`: say where requests name one, with `version_from`",
        id="versions that nobody looks for",
    ),
    pytest.param(
        {"models": [{"name": "a", "inputs": "."}]},
        "models[a].inputs = '.': reads nothing: write \"\" for the whole document",
        id="a place that reads nothing",
    ),
    pytest.param(
        {"models": [{"name": "a", "inputs": "", "outputs": ["x", "y[0].z"]}]},
        'reads nothing: write "y.0.z"',
        id="a place in another language",
    ),
    pytest.param(
        {"models": [{"name": "a", "protocol": "v1", "shape": "row"}]},
        "models[a]: has `protocol`, which says what its rows are: remove `shape`",
        id="protocol and shape",
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
        "'iris' and 'other' share the route '/predict' and the rows at 'instances'",
        id="route twice",
    ),
    pytest.param({"models": [{"name": "a", "version": 3}]}, "models[a].version = 3", id="version"),
    pytest.param(
        {"models": [{"name": "a", "reference": ""}]},
        "models[a].reference = '': must be the path of a file",
        id="empty path",
    ),
    pytest.param(
        {"auth": {**AUTH, "algorithms": []}},
        "auth.algorithms = []: must not be empty",
        id="no algorithms",
    ),
    pytest.param({"auth": {**AUTH, "algorithms": ["none"]}}, "auth.algorithms[0]", id="none"),
    pytest.param(
        {"auth": {**AUTH, "algorithms": ["ES256K"]}},
        "auth.algorithms[0] = 'ES256K': must be ",
        id="unknown algorithm",
    ),
    pytest.param(
        {"auth": {**AUTH, "algorithms": ["HS256", "RS256"]}},
        "auth: has algorithms ['RS256'], but a secret serves HS256, HS384, HS512 only",
        id="RSA with a secret",
    ),
    pytest.param(
        {"auth": {k: v for k, v in AUTH.items() if k != "secret_env"} | {"jwks_file": "k.json"}},
        "auth: has algorithms ['HS256'], but jwks_file serves RS256, RS384, RS512, PS256",
        id="HMAC with public keys",
    ),
    pytest.param(
        {"auth": {k: v for k, v in AUTH.items() if k != "secret_env"}},
        "auth: has algorithms ['HS256']: must have `secret_env` or `secret_file` for them",
        id="no keys",
    ),
    pytest.param(
        {"auth": {**AUTH, "secret_file": "secret"}},
        "auth: must have one source of keys, not `secret_env` and `secret_file`",
        id="two secrets",
    ),
    pytest.param(
        {"auth": {**AUTH, "algorithms": ["HS256", "HS384"]}},
        "auth: has algorithms ['HS256', 'HS384'], but a secret serves one only",
        id="two algorithms of a secret",
    ),
    pytest.param({"auth": {**AUTH, "leeway": -1}}, "auth.leeway = -1", id="negative leeway"),
    pytest.param({"auth": {**AUTH, "leeway": 301}}, "auth.leeway = 301", id="long leeway"),
    pytest.param({"auth": {**AUTH, "leeway": True}}, "auth.leeway = True", id="true leeway"),
    pytest.param({"auth": {**AUTH, "leeway": "10"}}, "auth.leeway = '10'", id="text leeway"),
    pytest.param({"auth": {**AUTH, "issuer": ""}}, "auth.issuer = ''", id="empty issuer"),
    pytest.param({"auth": {**AUTH, "audience": 5}}, "auth.audience = 5", id="number audience"),
    pytest.param(
        {"auth": {**AUTH, "audience": ["a", 5]}}, "auth.audience[1] = 5", id="odd audience"
    ),
    pytest.param({"auth": {**AUTH, "public": ["health"]}}, 'begins with "/"', id="public route"),
    pytest.param({"auth": {**AUTH, "scopes": "predict"}}, "auth.scopes = 'predict'", id="scopes"),
    pytest.param({"quotas": {}}, "quotas: must limit something", id="no quota"),
    pytest.param({"quotas": {"requests": []}}, "quotas: must limit something", id="empty quota"),
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
        {"quotas": {"rows": ["5/minute"], "store": "redi://x"}}, "quotas.store", id="store"
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute", "9/minute"]}},
        "quotas: has two windows of one length in `rows`",
        id="two windows of a minute",
    ),
    pytest.param(
        {"quotas": {"lifetime": 10}}, "quotas: has `lifetime`, which memory://", id="short life"
    ),
    pytest.param(
        {
            "quotas": {"store": "host://", "tenant": {"lifetime": 10}},
            "auth": {**AUTH, "tenant_claim": "t"},
        },
        "quotas: has `tenant.lifetime`, which host://",
        id="life of a tenant",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "plans": {"gold": {"rows": ["5/blink"]}}}, "auth": AUTH},
        "quotas.plans.gold.rows[0] = '5/blink': must be a rate",
        id="rate of a plan",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "plans": {"gold": {"row": ["5/hour"]}}}, "auth": AUTH},
        "quotas.plans.gold.row: unknown key; did you mean 'rows'?",
        id="key of a plan",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "plans": {"gold": {"rows": ["9/hour"]}}}},
        "quotas.plans: needs the table [auth]",
        id="plans without tokens",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "tenant": {"rows": ["9/hour"]}}, "auth": AUTH},
        "quotas.tenant: needs `auth.tenant_claim`",
        id="tenants without a claim",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "models": {"irs": {"rows": ["9/hour"]}}}},
        "quotas.models.irs: no model has that name",
        id="limits of no model",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "on_store_failure": "clsed"}},
        "quotas.on_store_failure = 'clsed': must be 'local', 'open' or 'closed'",
        id="no policy",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "on_store_failure": {"rws": "open"}}},
        "quotas: has 'rws' in `on_store_failure`",
        id="policy of nothing",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "units": {"lifetime": ["5/hour"]}}},
        "quotas: has a unit that means something else",
        id="unit of another name",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "store": "host://"}, "service": {"host_file": False}},
        "quotas.store: host:// needs the file in which",
        id="host without a file",
    ),
    pytest.param(
        {"quotas": {"rows": ["5/minute"], "local_share": 0}},
        "quotas.local_share = 0",
        id="no share",
    ),
    pytest.param({"drift": {}}, "drift: no model has a `reference`", id="drift without reference"),
    pytest.param({"drift": {"window": 49}}, "drift.window = 49", id="short window"),
    pytest.param({"drift": {"window": 1000.0}}, "drift.window = 1000.0", id="window of a float"),
    pytest.param({"drift": {"max_age": 0}}, "drift.max_age = 0", id="no age"),
    pytest.param({"drift": {"min_rows": 29}}, "drift.min_rows = 29", id="few rows"),
    pytest.param({"drift": {"last_windows": 0}}, "drift.last_windows = 0", id="no windows"),
    pytest.param(
        {"drift": {"drifted_windows": 3}},
        "drift.drifted_windows = 3: must be at most drift.last_windows, which is 2",
        id="more windows than the last",
    ),
    pytest.param({"drift": {"sample": 0}}, "drift.sample = 0", id="no sample"),
    pytest.param({"drift": {"sample": "0.5"}}, "drift.sample = '0.5'", id="sample of text"),
    pytest.param({"drift": {"rows_per_request": 0}}, "drift.rows_per_request = 0", id="no rows"),
    pytest.param(
        {"models": [{"name": "iris", "classes": [0, 1]}]},
        "has `classes`: say `task",
        id="classes of no task",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "regression", "threshold": 0.4}]},
        "has `threshold`: say `task",
        id="threshold of a regression",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "classification", "scores": "p"}]},
        "has `scores`: say where its predictions are",
        id="scores without predictions",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "classification", "classes": [0, "0"]}]},
        "must be two or more classes",
        id="one class twice",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "classification", "classes": "ab"}]},
        "must be a list like",
        id="classes of text",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "classification", "classes": [0, {}]}]},
        "must be two or more classes",
        id="no class",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "classification", "threshold": 1}]},
        "threshold = 1",
        id="threshold of all",
    ),
    pytest.param(
        {"models": [{"name": "iris", "task": "classification", "calibration": "/nowhere"}]},
        "models[iris].calibration = '/nowhere': /nowhere does not exist: make it with",
        id="calibration that is not there",
    ),
    pytest.param({"feedback": {}}, "feedback: no model has a `task`", id="feedback on nothing"),
    pytest.param({"feedback": {"window": 9}}, "feedback.window = 9", id="few labels"),
    pytest.param({"feedback": {"retention": "7d"}}, "feedback.retention = '7d'", id="days"),
    pytest.param({"feedback": {"scope": "a b"}}, "feedback.scope", id="two scopes"),
    pytest.param(
        {"models": [{"name": "iris", "task": "regression"}], "feedback": {"route": "/feedback"}},
        "feedback.route: needs the table [auth]",
        id="labels of anybody",
    ),
    pytest.param(
        {
            "models": [{"name": "iris", "task": "regression"}],
            "feedback": {},
            "service": {"host_file": False},
        },
        "feedback: needs the file in which",
        id="feedback without a file",
    ),
    pytest.param({"tracing": {"sample": 1.1}}, "tracing.sample = 1.1", id="more than all"),
    pytest.param({"tracing": {"sample": -0.1}}, "tracing.sample = -0.1", id="less than none"),
    pytest.param({"tracing": {"endpoint": "127.0.0.1:4318"}}, "tracing.endpoint", id="no scheme"),
    pytest.param(
        {"tracing": {"server_spans": "theirs"}}, "tracing.server_spans = 'theirs'", id="who else"
    ),
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

    @pytest.mark.parametrize(
        ("source", "must"),
        [
            ({"tracing": {"endpoint": "localhost"}}, 'a URL like "http://127.0.0.1:4318"'),
            ({"tracing": {"endpoint": "http://u:p@host"}}, 'a URL like "http://127.0.0.1:4318"'),
            ({"models": [{"name": "two words"}]}, "a name of at most 64 letters, digits and"),
            ({"service": {"pseudonym_key_env": "9"}}, "the name of an environment variable"),
            ({"auth": {**AUTH, "scopes": ["a b"]}}, "one word without blanks"),
            ({"quotas": {"requests": ["1/day"], "prefix": "a b"}}, "at most 64 letters, digits"),
            ({"quotas": {"units": {"Tokens": ["1/day"]}}}, "a name of at most 32 small letters"),
        ],
        ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
    )
    def test_words_in_place_of_patterns(self, source: dict[str, Any], must: str) -> None:
        """How a text must be spelt is said in words, never as a regular expression."""
        (problem,) = problems(source)

        assert f"must be {must}" in problem
        assert "pattern" not in problem
        assert "u:p" not in problem

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
        assert settings.auth.issuers[0].secret_file == (folder / "secret",)
        assert settings.drift.report == folder / "drift.html"
        assert settings.models[0].reference == folder / "reference.parquet"
        assert secrets_of(settings) == (SECRET.encode(),)

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

        hint = "`mlguard token mint` makes one to try things out"
        assert problems({"auth": auth}) == [f"auth.jwks_file = '{path}': no such file; {hint}"]


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
        assert secrets_of(settings) == (SECRET.encode(),)

    def test_settings_made_by_hand_have_their_secret(self) -> None:
        """Settings that name a secret are never used without it."""
        made = Settings.model_validate({"auth": AUTH})

        assert secrets_of(loaded(made)) == (SECRET.encode(),)


OVERRIDES = [
    pytest.param("SERVICE__NAME", "iris-api", "service.name", "iris-api", id="text"),
    pytest.param("SERVICE__NAME", "123", "service.name", "123", id="text that is a number"),
    pytest.param("SERVICE__ENVIRONMENT", "true", "service.environment", "true", id="text true"),
    pytest.param(
        "SERVICE__ENVIRONMENT", "2024-01-01", "service.environment", "2024-01-01", id="date"
    ),
    pytest.param("SERVICE__HOST_FILE", "false", "service.host_file", False, id="boolean"),
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
    pytest.param("AUTH__SCOPES", "[]", "auth.scopes", (), id="empty list"),
    pytest.param(
        "AUTH__AUDIENCE", '["a", "b"]', "auth.issuers.0.audience", ("a", "b"), id="union, a list"
    ),
    pytest.param("AUTH__AUDIENCE", "a", "auth.issuers.0.audience", ("a",), id="union, a text"),
    pytest.param("TRACING__SAMPLE", "0.25", "tracing.sample", 0.25, id="float of a new table"),
    pytest.param("TRACING__ENDPOINT", "console", "tracing.endpoint", "console", id="no URL"),
    pytest.param(
        "TRACING__SERVER_SPANS", "packages", "tracing.server_spans", "packages", id="one of two"
    ),
    pytest.param("METRICS__PATH", "/internal", "metrics.path", "/internal", id="route"),
    pytest.param("SERVICE__MAX_URI", "2 KiB", "service.max_uri", 2048, id="size"),
    pytest.param(
        "AUTH__PUBLIC",
        "/health, admin.example.org/status",
        "auth.public",
        ("/health", "admin.example.org/status"),
        id="routes with hosts",
    ),
]


class TestEnvironment:
    @pytest.mark.parametrize(("variable", "raw", "place", "expected"), OVERRIDES)
    def test_any_key(self, variable: str, raw: str, place: str, expected: object) -> None:
        """A variable is read as the type of the key that it names, and wins over the file."""
        settings = loaded({"auth": AUTH}, **{f"MLGUARD_{variable}": raw})

        table, *keys = place.split(".")
        found = getattr(settings, table)
        for key in keys:
            found = found[int(key)] if key.isdigit() else getattr(found, key)
        assert found == expected

    @pytest.mark.parametrize("raw", ["", ",", "  , "])
    def test_nothing_is_no_list(self, raw: str) -> None:
        """An empty variable does not switch off what a list demands; [] does."""
        with pytest.raises(InvalidSettings, match=r"AUTH__SCOPES: is empty; .* write \[\]"):
            loaded({"auth": AUTH}, MLGUARD_AUTH__SCOPES=raw)
        auth = loaded({"auth": AUTH | {"scopes": ["a"]}}, MLGUARD_AUTH__SCOPES="[]").auth

        assert auth is not None
        assert auth.scopes == ()

    @pytest.mark.parametrize("name", ["iris", "Iris", "my-iris", "my.iris", "my_iris"])
    def test_entries_by_name(self, name: str) -> None:
        """An entry of a list is named; case, dashes and dots are those of a variable."""
        variable = name.upper().replace("-", "_").replace(".", "_")

        settings = loaded(
            {"models": [{"name": "other"}, {"name": name}]},
            **{f"MLGUARD_MODELS__{variable}__VERSION": "7"},
        )

        assert [(m.name, m.version) for m in settings.models] == [("other", "1"), (name, "7")]

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            ("/predict", ("/predict",)),
            ("/predict, eu.example.org/predict", ("/predict", "eu.example.org/predict")),
            ('["/predict", "/v1/predict"]', ("/predict", "/v1/predict")),
        ],
        ids=["one", "commas", "TOML"],
    )
    def test_routes_of_an_entry(self, raw: str, expected: tuple[str, ...]) -> None:
        """A model's routes are a list in the environment as well."""
        (model,) = loaded(
            {"models": [{"name": "iris", "inputs": "instances", "routes": ["/old"]}]},
            MLGUARD_MODELS__IRIS__ROUTES=raw,
        ).models

        assert model.all_routes == expected

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
            MLGUARD_AUTH__ALGORITHMS="HS384",
            SECRET="s" * 48,
        )

        assert settings.auth is not None
        assert settings.auth.issuers[0].algorithms == ("HS384",)

    def test_paths_are_relative_to_the_file(self, tmp_path: Path) -> None:
        """A relative path of the environment is relative to the file too."""
        (tmp_path / "secret").write_text(SECRET)
        path = written(tmp_path, '[auth]\nissuer="i"\naudience="a"\nalgorithms=["HS256"]')

        settings = loaded(path, MLGUARD_AUTH__SECRET_FILE="secret")

        assert secrets_of(settings) == (SECRET.encode(),)

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
        (problem,) = problems({}, MLGUARD_SERVICE__HOST_FILE="perhaps")

        assert problem == "service.host_file = 'perhaps': must be a valid boolean"

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
        auth = {**AUTH, "algorithms": [algorithm]}
        short = "hunter2".ljust(least - 1, "x")

        (problem,) = problems({"auth": auth}, SECRET=short)

        assert f"at least {least} bytes" in problem
        assert f"has {least - 1}" in problem
        assert "hunter2" not in problem
        assert secrets_of(loaded({"auth": auth}, SECRET="x" * least)) == (b"x" * least,)

    def test_missing_variable(self) -> None:
        """A variable that is not set holds no secret."""
        (problem,) = problems({"auth": {**AUTH, "secret_env": "NOT_SET"}})

        assert problem.startswith("auth.secret_env = 'NOT_SET': is not set")

    def test_from_a_file(self, tmp_path: Path) -> None:
        """A secret's file may end in a line break."""
        path = tmp_path / "secret"
        path.write_text(SECRET + "\n")
        auth = {k: v for k, v in AUTH.items() if k != "secret_env"} | {"secret_file": path}

        assert secrets_of(loaded({"auth": auth})) == (SECRET.encode(),)

    @pytest.mark.parametrize("there", ["nothing", "directory"])
    def test_from_a_file_that_is_not_there(self, tmp_path: Path, there: str) -> None:
        """A secret's file must be readable."""
        path = tmp_path / "secret"
        if there == "directory":
            path.mkdir()
        auth = {k: v for k, v in AUTH.items() if k != "secret_env"} | {"secret_file": str(path)}

        (problem,) = problems({"auth": auth})

        assert problem.startswith(f"auth.secret_file = '{path}': cannot be read: ")

    def test_a_calibration_of_other_classes(self, tmp_path: Path) -> None:
        """What scores are worth was learned for the classes that the model has."""
        path = tmp_path / "calibration.json"
        scores = [n / 100 for n in range(100)]
        task = Task("classification", ("no", "yes"))
        ScoreCalibration.fit(task, scores, ["yes" if s > 0.5 else "no" for s in scores]).save(path)
        model = {"name": "iris", "task": "classification", "calibration": str(path)}

        (problem,) = problems({"models": [model]})

        assert problem.endswith("and is of ['no', 'yes']")
        assert (
            loaded({"models": [model | {"classes": ["no", "yes"]}]}).models[0].calibration == path
        )

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

        assert secrets_of(loaded({"auth": AUTH}, SECRET=os.fsdecode(raw))) == (raw,)

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


PUBLIC: dict[str, Any] = {
    "issuer": "https://login.example.com/",
    "audience": "iris-api",
    "algorithms": ["RS256"],
}
TWO = """
[auth]
scopes = ["predict"]

[[auth.issuers]]
name = "corp-one"
issuer = "https://one.example.com/"
audience = ["a", "b"]
algorithms = ["RS256", "ES256"]
jwks_file = "keys/one.json"

[[auth.issuers]]
name = "partner"
issuer = "https://two.example.com/"
audience = "c"
algorithms = ["HS256"]
secret_file = ["old", "new"]
"""


class TestIssuers:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "one.json").write_text("{}")
        (tmp_path / "old").write_text(SECRET)
        (tmp_path / "new").write_text(SECRET[::-1] + "\n")
        return written(tmp_path, TWO)

    def test_each_has_its_own(self, path: Path) -> None:
        """Each entry has its audience and keys, their paths relative to the file."""
        auth = loaded(path).auth

        assert auth is not None
        one, two = auth.issuers
        assert (one.audience, two.audience) == (("a", "b"), ("c",))
        assert one.jwks_file == path.parent / "keys" / "one.json"
        assert two.secret_file == (path.parent / "old", path.parent / "new")

    def test_secrets_from_oldest_to_newest(self, path: Path) -> None:
        """Secrets keep their order; an issuer with public keys has none."""
        settings = loaded(path)

        assert settings.auth is not None
        one, two = settings.auth.issuers
        assert settings.secrets_of(one) == ()
        assert settings.secrets_of(two) == (SECRET.encode(), SECRET[::-1].encode())

    def test_overridden_by_name(self, path: Path) -> None:
        """A variable names an entry, its dashes as underscores."""
        settings = loaded(
            path,
            MLGUARD_AUTH__ISSUERS__CORP_ONE__AUDIENCE="other",
            MLGUARD_AUTH__ISSUERS__PARTNER__SECRET_FILE="new, old",
        )

        assert settings.auth is not None
        one, two = settings.auth.issuers
        assert one.audience == ("other",)
        assert settings.secrets_of(two)[1] == SECRET.encode()

    def test_an_issuer_alone(self) -> None:
        """Keys of one issuer may stand in the table itself, as if in the one entry."""
        auth = AUTH | {"leeway": 5}
        entry = {"issuers": [AUTH], "leeway": 5}

        assert loaded({"auth": auth}) == loaded({"auth": auth | {"issuers": []}})
        assert loaded({"auth": auth}) == loaded({"auth": entry})
        assert loaded({"auth": auth}).digest() == loaded({"auth": entry}).digest()

    @pytest.mark.parametrize(
        ("variable", "said"),
        [
            ("CORP_TWO__AUDIENCE", "no entry of issuers is named 'corp_two'; did you mean"),
            ("PARTNER__SECRETFILE", "unknown key 'secretfile'; did you mean 'secret_file'?"),
            ("PARTNER", "names no key of that entry"),
        ],
    )
    def test_overrides_of_nothing(self, path: Path, variable: str, said: str) -> None:
        """A variable for no entry, or no key of it, is told with the nearest one."""
        (problem,) = problems(path, **{f"MLGUARD_AUTH__ISSUERS__{variable}": "x"})

        assert problem.startswith(f"MLGUARD_AUTH__ISSUERS__{variable}: {said}")

    @pytest.mark.parametrize(
        ("auth", "said"),
        [
            pytest.param(
                {"issuers": [AUTH, AUTH]},
                "auth: has two entries with the issuer 'https://login.example.com/': "
                "give one entry both audiences",
                id="one issuer twice",
            ),
            pytest.param(
                {"issuers": [AUTH | {"name": "a"}, AUTH | {"name": "a", "issuer": "other"}]},
                "auth: has two entries with the name 'a': rename one",
                id="one name twice",
            ),
            pytest.param(
                {"issuers": [AUTH], "audience": "x"},
                "auth.audience: there are `issuers`: move it into their entries",
                id="keys of one beside several",
            ),
            pytest.param(
                {"issuers": [AUTH, {"name": "corp", **PUBLIC, "issuer": "urn:corp"}]},
                "auth.issuers[corp]: must have `jwks_url`, `jwks_file`, `pem_file`, `secret_env` "
                "or `secret_file`, or an https:// issuer, whose keys OpenID discovery finds",
                id="no keys",
            ),
            pytest.param(
                {"issuers": [AUTH, {**PUBLIC, "issuer": "i", "leeway": 5, "jwks_file": "x"}]},
                "auth.issuers[1].leeway: unknown key",
                id="what holds for all",
            ),
            pytest.param({"issuers": AUTH}, "auth.issuers: must be a list", id="a table"),
            pytest.param({"issuers": [5]}, "auth.issuers[0] = 5: must be a table", id="a number"),
            pytest.param({"issuers": 5}, "auth.issuers = 5: must be a list", id="a number alone"),
            pytest.param(
                {"issuers": [AUTH | {"secret_env": "NOT_SET", "name": "corp"}]},
                "auth.issuers[corp].secret_env = 'NOT_SET': is not set",
                id="no secret",
            ),
            pytest.param(
                {"issuers": [{**PUBLIC, "jwks_file": "/nowhere/k.json"}]},
                "auth.issuers[0].jwks_file = '/nowhere/k.json': no such file",
                id="no file",
            ),
        ],
    )
    def test_mistakes(self, auth: dict[str, Any], said: str) -> None:
        """A mistake in an entry is told once, with the entry's name or its place."""
        (problem,) = problems({"auth": auth})

        assert problem.startswith(said)

    def test_keys_beside_issuers(self) -> None:
        """Each key of one issuer beside `issuers` is told, among mistakes of the entries too."""
        entry = {**AUTH, "name": "corp", "typ": 5}

        told = problems({"auth": {"issuers": [entry], "audience": "x", "name": "y", "leeway": -1}})

        assert [problem.partition(" ")[0] for problem in told] == [
            "auth.issuers[corp].typ",
            "auth.leeway",
            "auth.audience:",
            "auth.name:",
        ]

    @pytest.mark.parametrize(
        ("key", "nearest"), [("isuer", "issuer"), ("jwks_ulr", "jwks_url"), ("scope", "scopes")]
    )
    def test_the_nearest_key(self, key: str, nearest: str) -> None:
        """Of a wrong key the nearest is told, of one issuer's and of those that hold for all."""
        said = f"did you mean {nearest!r}?"

        assert problems({"auth": {**AUTH, key: "x"}}) == [f"auth.{key}: unknown key; {said}"]
        variable = f"MLGUARD_AUTH__{key.upper()}"
        assert problems({"auth": AUTH}, **{variable: "x"}) == [
            f"{variable}: unknown key {key!r}; {said}"
        ]

    @pytest.mark.parametrize(
        ("auth", "where"),
        [
            ({}, "auth"),
            ({"issuers": []}, "auth"),
            ({"issuers": [{"name": "corp"}]}, "auth.issuers[corp]"),
        ],
        ids=["alone", "no entries", "entry"],
    )
    def test_what_must_be_there(self, auth: dict[str, Any], where: str) -> None:
        """Each key that is missing is told, among mistakes of other keys too."""
        missing = [f"{where}.{key}: is missing" for key in ("issuer", "audience", "algorithms")]

        assert problems({"auth": auth}) == missing
        assert problems({"auth": auth, "servise": 5})[:3] == missing


class TestKeySources:
    @pytest.mark.parametrize(
        "issuer",
        [
            "https://login.example.com",
            "https://login.example.com/realms/x/",
            "http://127.0.0.1:8080/realms/x",
            "http://localhost",
            "http://[::1]:8080",
        ],
    )
    def test_discovery(self, issuer: str) -> None:
        """Without a source, the keys of an https issuer, or one of this machine, are discovered."""
        auth = loaded({"auth": PUBLIC | {"issuer": issuer}}).auth

        assert auth is not None
        assert auth.issuers[0].is_fetched
        assert auth.issuers[0].origin == "OpenID discovery"

    @pytest.mark.parametrize(
        "issuer",
        [
            "login.example.com",
            "urn:login",
            "http://login.example.com",
            "http://127.0.0.1.example.com",
            "https://alice:hunter2@login.example.com",
            "https://login.example.com/?realm=x",
            "https://login.example.com/#x",
            "https://",
        ],
    )
    def test_no_discovery(self, issuer: str) -> None:
        """An issuer of another kind must say where its keys are; a password is not repeated."""
        (problem,) = problems({"auth": PUBLIC | {"issuer": issuer}})

        assert problem.startswith("auth: must have `jwks_url`, `jwks_file`, `pem_file`,")
        assert "hunter2" not in problem

    @pytest.mark.parametrize(
        "url",
        [
            "https://login.example.com/jwks?appid=5",
            "HTTPS://login.example.com:8443/jwks",
            "https://[2001:db8::1]/jwks",
            "http://[::1]:8080/jwks",
            "http://127.8.9.10/jwks",
            "http://localhost:1/jwks",
        ],
    )
    def test_urls(self, url: str) -> None:
        """Keys are fetched over https, and over http from this machine only."""
        auth = loaded({"auth": PUBLIC | {"issuer": "i", "jwks_url": url}}).auth

        assert auth is not None
        (issuer,) = auth.issuers
        assert (issuer.is_fetched, issuer.origin) == (True, f"jwks_url {url}")

    @pytest.mark.parametrize(
        "url",
        [
            pytest.param("http://login.example.com/jwks", id="http"),
            pytest.param("http://127.0.0.1.example.com/jwks", id="not loopback"),
            pytest.param("http://127.0.0.1@login.example.com/jwks", id="loopback as a user"),
            pytest.param("http://[2001:db8::1]/jwks", id="http over IPv6"),
            pytest.param("https://[::1/jwks", id="half an address"),
            pytest.param("https://login.example.com:99999/jwks", id="no port"),
            pytest.param("https://login.example.com:0/jwks", id="port zero"),
            pytest.param("https://login.example.com/ jwks", id="blank"),
            pytest.param(" https://login.example.com/jwks", id="leading blank"),
            pytest.param("https://login.example.com/jwks\n", id="line break"),
            pytest.param("https://login.example.com\t/jwks", id="tab"),
            pytest.param("https://login.example.com\\@evil/jwks", id="backslash"),
            pytest.param("https:///jwks", id="no host"),
            pytest.param("ftp://login.example.com/jwks", id="ftp"),
            pytest.param("file:///etc/passwd", id="file"),
            pytest.param("", id="empty"),
            pytest.param(5, id="number"),
            pytest.param([], id="list"),
        ],
    )
    def test_no_urls(self, url: object) -> None:
        """What is no such URL is told with what it must be."""
        (problem,) = problems({"auth": PUBLIC | {"jwks_url": url}})

        must = "must be an https:// URL without a password; http:// only for this machine"
        assert problem.startswith("auth.jwks_url = ")
        assert problem.endswith(must)

    @pytest.mark.parametrize(
        "url", ["https://alice:hunter2@x", "https://a:b/hunter2@x", "https:a:hunter2@x@y"]
    )
    def test_passwords_in_urls(self, url: str) -> None:
        """A URL with a password is refused, and the password is not repeated."""
        (problem,) = problems({"auth": PUBLIC | {"jwks_url": url}})

        assert "hunter2" not in problem

    @pytest.mark.parametrize("key", ["jwks_file", "pem_file"])
    @pytest.mark.parametrize("path", ["nowhere", "\0", "x" * 5000], ids=["none", "NUL", "long"])
    def test_files_that_are_not_there(self, key: str, path: str) -> None:
        """A file that cannot be there is told, unless who loads will make it."""
        auth = {"auth": PUBLIC | {key: path}}

        (problem,) = problems(auth)
        assert problem.startswith(f"auth.{key} = ")
        assert problem.partition("; `mlguard")[0].endswith(": no such file")
        assert load(auth, environ={}, named=()).auth is not None

    @pytest.mark.parametrize(
        ("typ", "expected"),
        [
            (None, ("at+jwt", "JWT")),
            ("jwt", ("JWT",)),
            ("application/AT+JWT", ("at+jwt",)),
            (["at+jwt", "None"], ("at+jwt", "none")),
        ],
        ids=["default", "one", "in full", "none"],
    )
    def test_types(self, typ: object, expected: tuple[str, ...]) -> None:
        """One or several types are accepted, each spelt in one way however it was written."""
        auth = loaded({"auth": AUTH | ({"typ": typ} if typ else {})}).auth

        assert auth is not None
        assert auth.issuers[0].typ == expected

    @pytest.mark.parametrize(
        ("table", "said"),
        [
            pytest.param({"typ": []}, "auth.typ = []: must not be empty", id="no type"),
            pytest.param({"typ": ""}, "auth.typ = '': must have at least 1", id="empty type"),
            pytest.param({"typ": 5}, "auth.typ = 5: must be a list", id="number type"),
            pytest.param({"typ": [5]}, "auth.typ[0] = 5: must be a valid string", id="types"),
            pytest.param(
                {"failures_per_client": "many"},
                'auth.failures_per_client = \'many\': must be a rate like "100/minute", or "off"',
                id="failures",
            ),
            pytest.param(
                {"failures_per_client": False},
                "auth.failures_per_client = False: must be",
                id="failures off",
            ),
            pytest.param(
                {"failures_per_client": 100},
                "auth.failures_per_client = 100: must be a rate",
                id="number",
            ),
            pytest.param({"max_age": 0}, "auth.max_age = 0: must be greater", id="no age"),
            pytest.param({"max_age": "60"}, "auth.max_age = '60': must be", id="text age"),
            pytest.param({"max_age": True}, "auth.max_age = True: must be", id="true age"),
            pytest.param({"jwks_max_age": 0}, "auth.jwks_max_age = 0: must", id="jwks_max_age"),
            pytest.param({"jwks_max_stale": -1}, "auth.jwks_max_stale = -1", id="jwks_max_stale"),
            pytest.param({"jwks_timeout": 31}, "auth.jwks_timeout = 31: must", id="jwks_timeout"),
            pytest.param({"jwks_cooldown": 0}, "auth.jwks_cooldown = 0: must", id="cooldown"),
            pytest.param({"subject_claim": ""}, "auth.subject_claim = '': must", id="claim"),
        ],
    )
    def test_mistakes(self, table: dict[str, Any], said: str) -> None:
        """A mistake names the key, the value and what it must be."""
        (problem,) = problems({"auth": AUTH | table})

        assert problem.startswith(said)

    @pytest.mark.parametrize(("text", "limit"), [("off", None), ("5/second", 5)])
    def test_failures(self, text: str, limit: int | None) -> None:
        """The limit of refused tokens is a rate or off, in the file and in the environment."""
        one = loaded({"auth": AUTH | {"failures_per_client": text}}).auth
        other = loaded({"auth": AUTH}, MLGUARD_AUTH__FAILURES_PER_CLIENT=text).auth

        assert one is not None
        assert one == other
        rate = one.failures_per_client
        assert (rate.limit if rate else rate) == limit

    def test_scopes_of_a_model_need_tokens(self) -> None:
        """Scopes of a model without authentication would be an open door: a mistake."""
        (problem,) = problems({"models": [MODEL | {"scopes": ["iris"]}]})

        assert problem == "models[iris].scopes: needs the table [auth]"

    def test_all_scopes(self) -> None:
        """The service's and the models' scopes are listed once each."""
        models = [{"name": "a", "scopes": ["x", "y"]}, {"name": "b", "scopes": ["y", "z"]}]

        settings = loaded({"models": models, "auth": AUTH | {"scopes": ["x", "w"]}})

        assert settings.all_scopes == ("x", "w", "y", "z")


class TestSeveralSecrets:
    def test_the_wrong_ones_are_named(self, tmp_path: Path) -> None:
        """Of several secrets, each that is missing, too short or a key file is named."""
        (tmp_path / "good").write_text(SECRET)
        (tmp_path / "short").write_text("hunter2")
        (tmp_path / "pem").write_text("-----BEGIN PUBLIC KEY-----\nhunter2" + "A" * 64)
        names = ["short", "good", "pem", "nowhere", "\0"]
        table = {k: v for k, v in AUTH.items() if k != "secret_env"}

        told = problems({"auth": table | {"secret_file": [str(tmp_path / n) for n in names]}})

        ends = ["at least 32 bytes for HS256, has 7", "use `pem_file` for public keys"]
        assert len(told) == 4
        assert [told[0].endswith(ends[0]), told[1].endswith(ends[1])] == [True, True]
        assert told[2].startswith(f"auth.secret_file = '{tmp_path / 'nowhere'}': cannot be read: ")
        assert "cannot be read: embedded null byte" in told[3]
        assert "hunter2" not in "".join(told)

    def test_variables(self) -> None:
        """Several variables are read in their order; each wrong one is named."""
        auth = {"auth": AUTH | {"secret_env": ["OLD", "SECRET"]}}

        assert secrets_of(loaded(auth, OLD="o" * 32)) == (b"o" * 32, SECRET.encode())
        (problem,) = problems(auth, OLD="hunter2")
        assert problem.startswith("auth.secret_env = 'OLD': must hold a secret of at least 32")
        assert "hunter2" not in problem

    def test_a_secret_among_variables_is_not_repeated(self) -> None:
        """A secret that was written where a variable's name belongs is not repeated."""
        (problem,) = problems({"auth": AUTH | {"secret_env": ["SECRET", "hunter2/+=="]}})

        assert problem == "auth.secret_env[1]: must be the name of an environment variable"

    def test_a_table_in_place_of_another_is_not_repeated(self) -> None:
        """What stands within a table of the wrong shape may be a secret."""
        told = problems({"auth": [AUTH | {"secret": "hunter2"}]})

        assert told == ["auth: must be a table"]
        told = problems({"auth": PUBLIC | {"jwks_url": [[{"secret": "hunter2"}]]}})
        assert "hunter2" not in "".join(told)


STORE = "redis://:hunter2@redis.example.com:6379/0"


class TestStore:
    @pytest.mark.parametrize(
        "url",
        [
            STORE,
            "rediss://alice:hunter2@redis.example.com",
            "redis://:hun/hunter2@redis.example.com",
            "redis://redis.example.com/0?password=hunter2",
            "http://:hunter2@redis.example.com",
            ["redis://:hunter2@redis.example.com"],
            "redis//:hunter2@redis.example.com",
            "redis://:hunter2 @redis.example.com",
        ],
    )
    def test_a_password_in_the_file(self, url: object) -> None:
        """A password of the store is refused in the settings, and not repeated."""
        told = problems({"auth": AUTH | {"revocation_store": url}})

        assert told
        assert "hunter2" not in "".join(told)
        assert all(problem.startswith("auth.revocation_store: ") for problem in told)

    def test_a_password_in_the_file_is_told_where_it_belongs(self) -> None:
        """The message names the variable, even where that is set already."""
        said = "passwords never stand in the settings; set MLGUARD_AUTH__REVOCATION_STORE instead"

        assert problems({"auth": AUTH | {"revocation_store": STORE}}) == [
            f"auth.revocation_store: {said}"
        ]
        told = problems(
            {"auth": AUTH | {"revocation_store": STORE}}, MLGUARD_AUTH__REVOCATION_STORE=STORE
        )
        assert told == [f"auth.revocation_store: {said}"]

    def test_a_password_of_the_environment(self) -> None:
        """The environment may hold the password, which no way of printing settings shows."""
        settings = loaded({"auth": AUTH}, MLGUARD_AUTH__REVOCATION_STORE=STORE)

        assert settings.auth is not None
        assert settings.auth.revocation_store == STORE
        shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.model_dump()}"
        assert "hunter2" not in shown
        assert "redis://...@redis.example.com:6379/0" in settings.model_dump_json()

    def test_a_mistake_of_the_environment(self) -> None:
        """A URL of the environment that is none is not repeated either."""
        told = problems({"auth": AUTH}, MLGUARD_AUTH__REVOCATION_STORE="redis//:hunter2@redis")

        assert told == [
            'auth.revocation_store: must be a URL like "rediss://redis.example.com:6379/0"'
        ]

    def test_stores_differ(self) -> None:
        """Workers with another store, or another password of it, are another service."""
        one = loaded({"auth": AUTH}, MLGUARD_AUTH__REVOCATION_STORE=STORE)
        other = loaded(
            {"auth": AUTH}, MLGUARD_AUTH__REVOCATION_STORE=STORE.replace("hunter2", "hunter3")
        )

        assert one.digest() != other.digest()

    def test_needs_the_file(self) -> None:
        """Without the file the workers of a host could not agree who asks the store: a mistake."""
        source = {"service": {"host_file": False}, "auth": AUTH | {"revocation_store": "redis://h"}}

        (problem,) = problems(source)

        assert problem.startswith("auth.revocation_store: needs the file in which")

    def test_pydantic_repeats_nothing(self) -> None:
        """Settings that are made by hand do not show what they refuse."""
        table = {"revocation_store": "http://:hunter2@redis", "secret_env": "hunter2/"}

        with pytest.raises(ValueError, match="validation error") as caught:
            Settings.model_validate({"auth": AUTH | table})

        assert "hunter2" not in str(caught.value)


QUOTAS = {"rows": ["100/hour"], "plans": {"gold-1": {"rows": ["200/hour"]}}}


class TestQuotas:
    @pytest.mark.parametrize(
        "store",
        [
            "memory://",
            "host://",
            "host:///var/lib/iris",
            "redis://localhost:6379/0",
            "rediss://redis.example.com?ssl_ca_certs=/etc/ca.pem",
            "redis+sentinel://one:26379,two:26379/main",
            "redis+cluster://one:6379,two:6379",
        ],
    )
    def test_stores(self, store: str) -> None:
        """Every kind of store has its URL."""
        quotas = loaded({"quotas": {"rows": ["5/minute"], "store": store}}).quotas

        assert quotas is not None
        assert quotas.store == store

    @pytest.mark.parametrize(
        "store", ["", "redis", "memory", "host://x", "memcached://x", "redis+sentinel://one:1", 5]
    )
    def test_no_stores(self, store: object) -> None:
        """What is no store is told what one looks like."""
        (problem,) = problems({"quotas": {"rows": ["5/minute"], "store": store}})

        assert problem.startswith("quotas.store: must be memory://, host://")

    @pytest.mark.parametrize(
        ("store", "said"),
        [
            ("redis://one,two", "names several hosts"),
            ("redis://one:99999", "must name ports from 1 to 65535"),
            ("redis://one/x", "must name the database by its number"),
            ("redis+cluster://one/3", "must name no database"),
            ("redis://one?timeout=5", "has an option that is not known here"),
        ],
    )
    def test_stores_that_cannot_be(self, store: str, said: str) -> None:
        """What no Redis can be reached by is a mistake of the settings, told with the others."""
        (problem,) = problems({"quotas": {"rows": ["5/minute"], "store": store}})

        assert problem.startswith(f"quotas.store: the URL of the Redis {said}")

    @pytest.mark.parametrize("store", ["memory://", "host://"])
    def test_leases_are_about_a_redis(self, store: str) -> None:
        """Where there is no round trip to be saved, a lease is a mistake."""
        quotas = {"rows": ["5/minute"], "store": store, "lease": 100}
        (problem,) = problems({"quotas": quotas})

        assert problem.startswith("quotas: has `lease`, which is about a Redis")

    @pytest.mark.parametrize(
        "url", ["redis+sentinel://one:26379,two:26379/main", "rediss+cluster://one:6379,two"]
    )
    def test_revocations_go_where_quotas_go(self, url: str) -> None:
        """A store of revocations is any Redis that quotas may be counted in, and no other."""
        auth = loaded({"auth": AUTH | {"revocation_store": url}}).auth
        told = problems({"auth": AUTH | {"revocation_store": "redis+cluster://one/3"}})

        assert auth is not None
        assert auth.revocation_store == url
        assert len(told) == 1
        assert told[0].startswith(
            "auth.revocation_store: the URL of the Redis must name no database"
        )

    @pytest.mark.parametrize(
        ("kind", "place"),
        [
            ("redis", "one:6379/0"),
            ("rediss", "one:6379/0"),
            ("redis+sentinel", "one:6379,two:6379/main"),
            ("redis+cluster", "one:6379,two:6379"),
        ],
    )
    def test_no_password_is_shown(self, kind: str, place: str) -> None:
        """A password stands in the environment only, and in nothing that is printed."""
        url = f"{kind}://alice:hunter2@{place}"
        (told,) = problems({"quotas": {"rows": ["5/minute"], "store": url}})
        settings = loaded({"quotas": {"rows": ["5/minute"]}}, MLGUARD_QUOTAS__STORE=url)

        assert told == (
            "quotas.store: passwords never stand in the settings; set MLGUARD_QUOTAS__STORE instead"
        )
        assert settings.quotas is not None
        assert settings.quotas.store == url
        shown = f"{settings!r} {settings} {settings.model_dump_json()} {settings.model_dump()}"
        assert "hunter2" not in shown

    def test_named_tables_from_the_environment(self) -> None:
        """A key of a plan's table is overridden by the plan's name."""
        settings = loaded(
            {"quotas": QUOTAS, "auth": AUTH}, MLGUARD_QUOTAS__PLANS__GOLD_1__ROWS="7/hour"
        )

        assert settings.quotas is not None
        assert [rate.limit for rate in settings.quotas.plans["gold-1"].rows or ()] == [7]

    @pytest.mark.parametrize(
        ("variable", "said"),
        [
            ("PLANS__SILVER__ROWS", "no entry of plans is named 'silver'; valid: gold_1"),
            ("PLANS__GOLD_1__RWS", "unknown key 'rws'; did you mean 'rows'?"),
            ("PLANS__GOLD_1", "names no key of that entry"),
        ],
    )
    def test_wrong_names_in_the_environment(self, variable: str, said: str) -> None:
        """A variable that names no key is a mistake."""
        told = problems(
            {"quotas": QUOTAS, "auth": AUTH}, **{f"MLGUARD_QUOTAS__{variable}": "7/hour"}
        )

        assert told == [f"MLGUARD_QUOTAS__{variable}: {said}"]

    def test_policies(self) -> None:
        """One word is for all quotas; a table names some."""
        one = loaded({"quotas": {"rows": ["5/minute"], "on_store_failure": "open"}}).quotas
        some = loaded(
            {"quotas": {"rows": ["5/minute"], "on_store_failure": {"rows": "closed"}}}
        ).quotas

        assert one is not None
        assert some is not None
        assert [one.failure(quota) for quota in ("rows", "requests")] == ["open", "open"]
        assert [some.failure(quota) for quota in ("rows", "requests")] == ["closed", "local"]


class TestMeeting:
    """Whose workers meet on a host?"""

    def test_by_name(self) -> None:
        """Services of one name meet, whatever else their settings say."""
        one = load({"service": {"name": "iris", "environment": "a"}}, environ={})
        other = load({"service": {"name": "iris", "environment": "b"}}, environ={})

        assert one.meeting == other.meeting == "iris"

    def test_without_a_name(self, tmp_path: Path) -> None:
        """Services that nobody named meet by their settings file, and others do not."""
        files = [tmp_path / "one.toml", tmp_path / "two.toml"]
        for file in files:
            file.write_text('models = [{ name = "iris" }]')
        one, again, two = (load(f, environ={}).meeting for f in (files[0], *files))
        given = [load({"models": [{"name": name}]}, environ={}).meeting for name in ("iris", "gpt")]

        assert one == again
        assert len({one, two, *given}) == 4

    def test_by_a_variable(self) -> None:
        """A name from the environment is a name."""
        found = load({}, environ={"MLGUARD_SERVICE__NAME": "iris"}).meeting

        assert found == "iris"
