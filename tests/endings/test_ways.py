"""Is there a way to a route past what the settings say of it?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from flask import Flask, request

import mlguard_fastapi
import mlguard_flask
from mlguard.errors import InvalidSettings
from mlguard.testing import GuardTester
from tests.contract.client import SETTINGS

HOST = "admin.example.org"
ROWS = {"instances": [[1.0, 2.0]] * 8}


def settings(**tables: Any) -> dict[str, Any]:
    """One caller may ask for ten rows."""
    said = {
        "service": {"name": "ways", "host_file": False},
        "models": [{"name": "sum", "route": "/predict", "inputs": "instances"}],
        "quotas": {"rows": ["10/hour"]},
    }
    return {**said, **tables}


def fastapi_hosts(public: list[str]) -> Any:
    app, admin = FastAPI(), FastAPI()
    app.host(HOST, admin)
    for one in (app, admin):
        one.get("/status")(lambda: {"ok": True})
    auth = {**SETTINGS["auth"], "public": public}
    return mlguard_fastapi.MLGuard(app, settings(models=[], auth=auth))


def flask_hosts(public: list[str]) -> Any:
    app = Flask(__name__, host_matching=True, static_folder=None)
    for host in (HOST, "example.org"):
        app.add_url_rule("/status", host, lambda: {"ok": True}, host=host)
    auth = {**SETTINGS["auth"], "public": public}
    return mlguard_flask.MLGuard(app, settings(models=[], auth=auth))


def fastapi_aliases(model: dict[str, Any]) -> tuple[Any, Callable[[str], int]]:
    app = FastAPI()
    guard = mlguard_fastapi.MLGuard(app, settings(models=[model]))

    @app.post("/predict")
    @app.post("/v1/predict")
    def predict(body: dict[str, list[list[float]]]) -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in body["instances"]]}

    GuardTester(guard)
    client = TestClient(app)
    return guard, lambda path: client.post(path, json=ROWS).status_code


def flask_aliases(model: dict[str, Any]) -> tuple[Any, Callable[[str], int]]:
    app = Flask(__name__)
    guard = mlguard_flask.MLGuard(app, settings(models=[model]))

    @app.post("/predict")
    @app.post("/v1/predict")
    def predict() -> dict[str, list[float]]:
        return {"predictions": [sum(row) for row in request.get_json()["instances"]]}

    GuardTester(guard)
    client = app.test_client()
    return guard, lambda path: client.post(path, json=ROWS).status_code


HOSTS = pytest.mark.parametrize("hosts", [fastapi_hosts, flask_hosts], ids=["fastapi", "flask"])
ALIASES = pytest.mark.parametrize(
    "aliases", [fastapi_aliases, flask_aliases], ids=["fastapi", "flask"]
)


@HOSTS
def test_a_template_on_several_hosts(hosts: Callable[[list[str]], Any], monkeypatch: Any) -> None:
    """A name that several routes answer stops the start."""
    monkeypatch.setenv(SETTINGS["auth"]["secret_env"], "a secret that is long enough for all")

    with pytest.raises(InvalidSettings, match=HOST):
        hosts(["/status"]).check()


@HOSTS
def test_a_template_on_its_host(hosts: Callable[[list[str]], Any], monkeypatch: Any) -> None:
    """With its host written it is one route."""
    monkeypatch.setenv(SETTINGS["auth"]["secret_env"], "a secret that is long enough for all")

    hosts([f"{HOST}/status"]).check()


@ALIASES
def test_several_routes_of_a_model(aliases: Callable[[dict[str, Any]], Any]) -> None:
    """What one route spent, the other has not."""
    model = {"name": "sum", "routes": ["/predict", "/v1/predict"], "inputs": "instances"}
    _, post = aliases(model)

    assert [post("/predict"), post("/v1/predict")] == [200, 429]


# Covered in every other way, so that nothing else fails the check.
COVERED = """
import os
os.environ["TWIN_SECRET"] = "a secret that is long enough for all"
COVERED = {
    "service": {"name": "ways", "host_file": False},
    "auth": {"issuer": "https://login.example.com/", "audience": "ways",
             "algorithms": ["HS256"], "secret_env": "TWIN_SECRET"},
    "quotas": {"requests": ["600/minute"], "rows": ["1000/hour"]},
}
"""
AROUND = """
from flask import Flask
from mlguard_flask import MLGuard

class SocketMiddleware:
    def __init__(self, app):
        self.app = app

    def __call__(self, environ, start_response):
        return self.app(environ, start_response)

app = Flask(__name__, static_folder=None)
MLGuard(app, COVERED)

@app.get("/ok")
def ok() -> dict:
    return {"ok": True}

app.wsgi_app = SocketMiddleware(app.wsgi_app)
"""
ALIASED = """
from fastapi import FastAPI
from mlguard_fastapi import MLGuard

app = FastAPI(openapi_url=None)
model = {"name": "sum", "route": "/predict", "inputs": "instances"}
MLGuard(app, {**COVERED, "models": [model]})

@app.post("/predict")
@app.post("/v1/predict")
def predict(body: dict) -> dict:
    return {}
"""


def check(folder: Path, text: str) -> tuple[int, str]:
    """Run `mlguard check --strict` on a service of that text; say how it ends and what it says."""
    (folder / "service.py").write_text(COVERED + text)
    command = [sys.executable, "-c", "from mlguard.cli import main; raise SystemExit(main())"]
    done = subprocess.run(
        [*command, "check", "service:app", "--strict"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_what_stands_around(tmp_path: Path) -> None:
    """What is put around the app after the guard is named, and fails a strict check."""
    code, said = check(tmp_path, AROUND)

    assert code != 0
    assert "SocketMiddleware" in said


def test_a_second_route_to_one_handler(tmp_path: Path) -> None:
    """It is named apart, not only listed among the routes."""
    _, said = check(tmp_path, ALIASED)

    assert said.count("/v1/predict") > 1
