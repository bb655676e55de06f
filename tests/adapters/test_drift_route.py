"""Does the app show the drift report, to those who may see it, alike on both frameworks?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask
from starlette.testclient import TestClient

import mlguard_fastapi
import mlguard_flask
from mlguard.errors import InvalidSettings
from mlguard.testing import GuardTester
from tests.apps import iris


def fastapi(settings: Any) -> tuple[Any, Any, Any]:
    app = FastAPI()
    return app, mlguard_fastapi.MLGuard(app, settings), TestClient(app)


def flask(settings: Any) -> tuple[Any, Any, Any]:
    app = Flask("iris")
    return app, mlguard_flask.MLGuard(app, settings), app.test_client()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return iris.save_reference(tmp_path_factory.mktemp("reference") / "r.parquet", count=300)


@pytest.mark.parametrize("made", [fastapi, flask], ids=["FastAPI", "Flask"])
class TestRoute:
    @pytest.fixture(autouse=True)
    def _secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("IRIS_SECRET", iris.SECRET)

    def settings(self, folder: Path, reference: Path, *names: str) -> dict[str, Any]:
        models = [{"name": name, "reference": str(reference)} for name in names]
        auth = {"issuer": iris.ISSUER, "audience": iris.AUDIENCE, "secret_env": "IRIS_SECRET"}
        drift = {"report": str(folder / "drift.html"), "route": "/drift"}
        return {"models": models, "auth": {**auth, "algorithms": ["HS256"]}, "drift": drift}

    def test_who_may_see_it(self, made: Any, reference: Path, tmp_path: Path) -> None:
        """It takes a token with the scope; a page of ours runs nothing and is not kept."""
        _, guard, client = made(self.settings(tmp_path, reference, "iris"))
        tester = GuardTester(guard)
        allowed = tester.headers(scopes=["mlguard.drift"])
        statuses = [client.get("/drift").status_code]
        statuses += [
            client.get("/drift", headers=h).status_code for h in (tester.headers(), allowed)
        ]
        (tmp_path / "drift.html").write_text("<p>the report")

        answer = client.get("/drift", headers=allowed)

        assert statuses == [401, 403, 404]
        assert (answer.status_code, answer.text) == (200, "<p>the report")
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert client.post("/drift", headers=allowed).status_code == 405

    def test_of_several_models(self, made: Any, reference: Path, tmp_path: Path) -> None:
        """A query says whose report it is; without one there is a list."""
        names = ("iris", "churn")
        _, guard, client = made(self.settings(tmp_path, reference, *names))
        headers = GuardTester(guard).headers(scopes=["mlguard.drift"])
        (tmp_path / "drift-iris.html").write_text("of iris")

        def ask(query: str) -> tuple[int, str]:
            answer = client.get(f"/drift{query}", headers=headers)
            return answer.status_code, answer.text

        assert ask("?model=iris") == (200, "of iris")
        assert ask("?model=churn") == (404, "no window was checked yet\n")
        assert ask("?model=%3Cb%3E%26")[0] == 404
        assert ask("?model=..%2Fsecret") == (404, "no such model has a reference\n")
        assert ask("?model=iris&" + "&".join("abcdefghijkl"))[0] == 200
        status, text = ask("")
        assert status == 200
        assert '<a href="?model=churn">churn</a>' in text

    def test_where_the_app_has_a_route(self, made: Any, reference: Path, tmp_path: Path) -> None:
        """A route of the app where the report is to be shown is a mistake."""
        settings = self.settings(tmp_path, reference, "iris")
        app, guard, _ = made({**settings, "drift": {**settings["drift"], "route": "/mine"}})
        app.route("/mine")(lambda *_: "mine") if made is flask else app.get("/mine")(lambda: "mine")

        with pytest.raises(InvalidSettings, match=r"drift\.route = '/mine': is already a route"):
            guard.check()

    def test_what_it_needs(self, made: Any, reference: Path, tmp_path: Path) -> None:
        """Without a file for the report, or without authentication, the start says so."""
        settings = self.settings(tmp_path, reference, "iris")
        for lacking in ({"drift": {"route": "/drift"}}, {"auth": None}):
            given = {key: value for key, value in {**settings, **lacking}.items() if value}
            with pytest.raises(InvalidSettings, match=r"drift\.route: needs `drift\.report`"):
                made(given)
