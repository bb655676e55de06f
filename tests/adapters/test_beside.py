"""Is what stands beside the kit named, and may a guard be made twice, or elsewhere?"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI, Request
from flask import Flask, current_app, request
from prometheus_client import CollectorRegistry
from prometheus_flask_exporter import PrometheusMetrics
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

import mlguard_fastapi
import mlguard_flask
from mlguard.errors import InvalidSettings
from mlguard.routes.coverage import Coverage

SETTINGS: dict[str, Any] = {
    "service": {"host_file": False},
    "models": [{"name": "own"}],
    "quotas": {"requests": ["3/hour"]},
}
PAGE = "/metrics"


def fastapi() -> tuple[FastAPI, Any]:
    """A factory: its handlers find the guard by the app."""
    app = FastAPI()

    @app.post("/predict")
    async def predict(asked: Request) -> dict[str, Any]:
        rows = await asked.json()
        async with asked.app.state.mlguard.inference("own", rows) as call:
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    mlguard_fastapi.MLGuard(app, SETTINGS)
    return app, TestClient(app)


def flask() -> tuple[Flask, Any]:
    """The same of Flask."""
    app = Flask(__name__)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        rows = request.get_json()
        with current_app.extensions["mlguard"].inference("own", rows) as call:
            call.predictions = [sum(row) for row in rows]
        return {"predictions": call.predictions}

    mlguard_flask.MLGuard(app, SETTINGS)
    return app, app.test_client()


def remarks(guard: Any) -> list[str]:
    return Coverage(guard.service.settings, guard.routes(), guard.around()).remarks()


@pytest.mark.parametrize("make", [fastapi, flask])
def test_factories(make: Callable[[], tuple[Any, Any]]) -> None:
    """Apps that a factory makes twice have a guard each, which handlers find by the app."""
    (_, first), (_, second) = make(), make()
    answers = [client.post("/predict", json=[[1, 2]]) for client in (first, first, first, second)]

    assert [answer.status_code for answer in answers] == [200] * 4
    assert first.post("/predict", json=[[1, 2]]).status_code == 429
    assert second.post("/predict", json=[[1, 2]]).status_code == 200


@pytest.mark.parametrize(
    ("adapter", "app", "said"),
    [
        (mlguard_fastapi, Flask("x"), "FastAPI apps, and this is a flask.+: use mlguard_flask"),
        (mlguard_flask, FastAPI(), "Flask apps, and this is a fastapi.+: use mlguard_fastapi"),
        (mlguard_fastapi, print, "give MLGuard the app itself, not what is put around it"),
        (mlguard_flask, Flask("x").wsgi_app, "give MLGuard the app itself"),
    ],
    ids=["Flask", "FastAPI", "a function", "a WSGI app"],
)  # fmt: skip
def test_the_wrong_adapter(adapter: Any, app: Any, said: str) -> None:
    """An app of another framework is a mistake that names the right one."""
    with pytest.raises(TypeError, match=said):
        adapter.MLGuard(app, SETTINGS)


def test_an_exporter_that_came_before() -> None:
    """Where the page of metrics is another's already, no guard is made: Flask has no start."""
    app = Flask(__name__)
    PrometheusMetrics(app, registry=CollectorRegistry())

    with pytest.raises(InvalidSettings, match="made by prometheus_flask_exporter; choose another"):
        mlguard_flask.MLGuard(app, SETTINGS)


class Pages:
    """An ASGI middleware with pages of its own."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        answer = PlainTextResponse("mine") if scope.get("path") == PAGE else self.app
        await answer(scope, receive, send)


class TestPagesOfOnesOwn:
    """A middleware that answers where metrics are read would never be seen."""

    def test_a_function_of_fastapi(self, caplog: pytest.LogCaptureFixture) -> None:
        """The log of the start names a function that names the page."""
        app = FastAPI()

        @app.middleware("http")
        async def page(asked: Request, call_next: Any) -> Any:
            if asked.url.path == "/metrics":
                return PlainTextResponse("mine")
            return await call_next(asked)

        mlguard_fastapi.MLGuard(app, SETTINGS)
        with caplog.at_level(logging.WARNING, "mlguard"), TestClient(app):
            pass

        (record,) = caplog.records
        assert "page names /metrics, where the metrics of mlguard are read" in record.getMessage()

    def test_a_class_of_fastapi(self) -> None:
        """A class is named too, where the page stands in its module."""
        app = FastAPI()
        app.add_middleware(Pages)
        (said,) = remarks(mlguard_fastapi.MLGuard(app, SETTINGS))

        assert said.startswith(f"{__name__}.Pages names /metrics")

    def test_functions_of_flask(self) -> None:
        """What runs before each request of Flask's is looked at as well."""
        app = Flask(__name__)

        @app.before_request
        def page() -> Any:
            return "mine" if request.path == "/metrics" else None

        (said,) = remarks(mlguard_flask.MLGuard(app, SETTINGS))

        assert "page names /metrics" in said

    def test_elsewhere(self) -> None:
        """Where metrics are read elsewhere, nothing is said."""
        app = FastAPI()
        app.add_middleware(Pages)
        settings = {**SETTINGS, "metrics": {"path": "/mlguard"}}

        assert remarks(mlguard_fastapi.MLGuard(app, settings)) == []
