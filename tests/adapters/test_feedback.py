"""Is the route of labels, and `guard.feedback`, one on both frameworks, in tests of users too?"""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI, Request
from flask import Flask, request
from starlette.testclient import TestClient

import mlguard_fastapi
import mlguard_flask
from mlguard.errors import InvalidSettings
from mlguard.testing import GuardTester

SECRET = "a secret of the tests that is long enough"
SETTINGS: dict[str, Any] = {
    "models": [
        {"name": "risk", "route": "/predict", "inputs": "instances", "outputs": "predictions",
         "scores": "scores", "task": "classification"},
    ],
    "auth": {"issuer": "https://login.example.com/", "audience": "risk-api",
             "secret_env": "SECRET", "algorithms": ["HS256"]},
    "feedback": {"route": "/feedback"},
}  # fmt: skip


def answer(rows: list[list[float]]) -> dict[str, Any]:
    scores = [row[0] for row in rows]
    return {"predictions": [int(score >= 0.5) for score in scores], "scores": scores}


def fastapi(settings: dict[str, Any]) -> tuple[mlguard_fastapi.MLGuard, Any]:
    app = FastAPI()

    @app.post("/predict")
    async def predict(asked: Request) -> dict[str, Any]:
        return answer((await asked.json())["instances"])

    return mlguard_fastapi.MLGuard(app, settings), TestClient(app)


def flask(settings: dict[str, Any]) -> tuple[mlguard_flask.MLGuard, Any]:
    app = Flask("risk")

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return answer(request.get_json()["instances"])

    return mlguard_flask.MLGuard(app, settings), app.test_client()


@pytest.mark.parametrize("made", [fastapi, flask], ids=["FastAPI", "Flask"])
class TestFeedback:
    @pytest.fixture(autouse=True)
    def _secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SECRET", SECRET)

    def test_a_users_test_sees_all_of_it(self, made: Any) -> None:
        """With a tester nothing is kept outside, and metrics say what labels have told."""
        guard, client = made(SETTINGS)
        tester = GuardTester(guard)
        rows = {"instances": [[0.9], [0.2], [0.6]]}
        first, second = (
            client.post("/predict", json=rows, headers=tester.headers()).headers["MLGuard-Call-ID"]
            for _ in range(2)
        )
        labeller = tester.headers(scopes=["mlguard.feedback"])
        body = {"call_id": first, "truths": [1, 0, 0]}

        assert client.post("/feedback", json=body, headers=labeller).status_code == 202
        assert guard.feedback(second, [True, False, None])
        labels = {"model": "risk", "version": "1"}
        assert tester.metric("mlguard_model_performance_labels", **labels) == 5
        assert tester.metric("mlguard_model_performance", **labels, metric="accuracy") == 0.8

    def test_the_route_is_the_guards_alone(self, made: Any) -> None:
        """A route of the app where labels are to be sent is a mistake."""
        guard, _ = made({**SETTINGS, "feedback": {"route": "/predict"}})

        with pytest.raises(InvalidSettings, match="is already a route of the app"):
            guard.check()

    def test_the_route_is_never_only_observed(self, made: Any) -> None:
        """Where nothing else is refused, the kit's own route takes its scope all the same."""
        guard, client = made({**SETTINGS, "service": {"mode": "observe"}})
        tester = GuardTester(guard)
        body = {"call_id": "x", "truths": [1]}

        assert client.post("/predict", json={"instances": [[0.9]]}).status_code == 200
        assert client.post("/feedback", json=body).status_code == 401
        assert client.post("/feedback", json=body, headers=tester.headers()).status_code == 403

    def test_the_route_is_listed(self, made: Any) -> None:
        """The route is one of the app, with the scope that it demands."""
        guard, _ = made(SETTINGS)
        guard.check()

        (route,) = [route for route in guard.routes() if route.template == "/feedback"]
        assert route.methods == ("POST",) or route.methods == ("OPTIONS", "POST")
        assert route.scopes == {"mlguard.feedback"}

    def test_by_default_there_is_none(self, made: Any) -> None:
        """Without `feedback.route` nobody can send labels; without [feedback] none are taken."""
        guard, client = made({**SETTINGS, "feedback": {}})
        tester = GuardTester(guard)
        off, asked = made({k: v for k, v in SETTINGS.items() if k != "feedback"})
        other = GuardTester(off)
        rows = {"instances": [[0.9]]}

        assert client.post("/feedback", json={}, headers=tester.headers()).status_code == 404
        answered = asked.post("/predict", json=rows, headers=other.headers())
        assert "MLGuard-Call-ID" not in answered.headers
        with pytest.raises(InvalidSettings, match=r"needs \[feedback\]"):
            off.feedback("x", [1])
