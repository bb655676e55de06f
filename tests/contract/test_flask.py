"""Does Flask keep the contract, in process and over gunicorn?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.datastructures import Headers

from mlguard.testing import GuardTester
from mlguard_flask import MLGuard
from tests import servers
from tests.apps import bodies_flask, flask_twin, manners_flask, shared_flask
from tests.contract.authentication import SECRETS, AuthContract
from tests.contract.bodies import BodyContract, Guarded
from tests.contract.client import SECRET, SETTINGS, Answer, OverSockets, alone
from tests.contract.contract import Contract
from tests.contract.limits import LimitContract, limit_settings
from tests.contract.manners import (
    OWN_ERRORS,
    BrowsersContract,
    ErrorsContract,
    ObservedContract,
    PublicContract,
    manners_settings,
)
from tests.contract.models import ModelContract, model_settings


class InProcess:
    """A client of a WSGI app in this process."""

    def __init__(self, app: Flask) -> None:
        self.app = app

    def ask(self, method: str, path: str, *, headers: Any = (), body: Any = b"") -> Answer:
        whole = body if isinstance(body, bytes) else b"".join(body)
        chunked = not isinstance(body, bytes)
        environ = {"wsgi.input_terminated": True} if chunked else {}
        with self.app.test_client() as client:
            answer = client.open(
                path,
                method=method,
                headers=Headers(headers),
                input_stream=BytesIO(whole),
                content_length=None if chunked else len(whole),
                environ_overrides=environ,
                buffered=True,
            )
            found = [(n.lower(), v) for n, v in answer.headers]
            return Answer(answer.status_code, found, answer.get_data())


@pytest.mark.xdist_group("flask auth in process")
class TestAuthInProcess(AuthContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, auth_settings: dict[str, Any]) -> Iterator[InProcess]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLGUARD_SERVICE__HOST_FILE", "false")
            for name, secret in SECRETS.items():
                patch.setenv(name, secret)
            yield InProcess(flask_twin.extended(auth_settings))


@pytest.mark.xdist_group("flask auth over gunicorn")
class TestAuthOverGunicorn(AuthContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(
        cls, auth_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[OverSockets]:
        env = {"TWIN_SETTINGS": json.dumps(auth_settings), "TWIN": "extended", **SECRETS}
        folder: Path = tmp_path_factory.mktemp("gunicorn")
        with servers.gunicorn("tests.apps.served_flask:app", cwd=folder, env=env) as server:
            yield OverSockets(server.url)


class FlaskContract(Contract):
    item_route = "/v1/items/<item>"


@pytest.mark.xdist_group("flask in process")
class TestInProcess(FlaskContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with alone():
            yield InProcess(flask_twin.guarded(SETTINGS))

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(flask_twin.bare())


@pytest.mark.xdist_group("flask over gunicorn")
class TestOverGunicorn(FlaskContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        env = {"TWIN_SETTINGS": json.dumps(SETTINGS), "TWIN_SECRET": SECRET}
        folder: Path = tmp_path_factory.mktemp("gunicorn")
        with servers.gunicorn("tests.apps.served_flask:app", cwd=folder, env=env) as server:
            yield OverSockets(server.url)

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(flask_twin.bare())


@pytest.mark.xdist_group("flask limits in process")
class TestLimitsInProcess(LimitContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with alone():
            yield InProcess(flask_twin.limited(limit_settings()))


@pytest.mark.xdist_group("flask limits over gunicorn")
class TestLimitsOverGunicorn(LimitContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        settings = json.dumps(limit_settings())
        env = {"TWIN_SETTINGS": settings, "TWIN": "limited", "TWIN_SECRET": SECRET}
        folder: Path = tmp_path_factory.mktemp("gunicorn")
        with servers.gunicorn("tests.apps.served_flask:app", cwd=folder, env=env) as server:
            yield OverSockets(server.url)


@pytest.mark.xdist_group("flask models in process")
class TestModelsInProcess(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with alone():
            settings = model_settings(path_route="/models/<name>/predict")
            yield InProcess(shared_flask.guarded(settings))


@pytest.mark.xdist_group("flask manners in process")
class TestMannersInProcess(PublicContract, BrowsersContract, ErrorsContract, ObservedContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        yield from _manners()

    @pytest.fixture(scope="class")
    @classmethod
    def own(cls) -> Iterator[InProcess]:
        yield from _manners(OWN_ERRORS)

    @pytest.fixture(scope="class")
    @classmethod
    def observing(cls) -> Iterator[InProcess]:
        yield from _manners(mode="observe")

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(manners_flask.bare())


def _manners(refusal_body: Any = None, **service: Any) -> Iterator[InProcess]:
    with alone():
        app, guard = manners_flask.guarded(manners_settings(**service))
        if refusal_body is not None:
            guard.refusal_body(refusal_body)
        yield InProcess(app)


class TestBodies(BodyContract):
    def make(self, settings: dict[str, Any]) -> Guarded:
        app = bodies_flask.bare()
        guard = MLGuard(app, settings)
        bodies_flask.owned(app, guard)
        tester = GuardTester(guard)
        return Guarded(InProcess(app), InProcess(bodies_flask.bare()), tester)


def _served(twin: str, settings: dict[str, Any], folder: Path) -> Iterator[OverSockets]:
    env = {"TWIN_SETTINGS": json.dumps(settings), "TWIN": twin, "TWIN_SECRET": SECRET}
    with servers.gunicorn(
        "tests.apps.served_flask:app", cwd=folder, env=env, ready="/metrics"
    ) as server:
        yield OverSockets(server.url)


@pytest.mark.xdist_group("flask models over gunicorn")
class TestModelsOverGunicorn(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        settings = model_settings(path_route="/models/<name>/predict")
        yield from _served("shared", settings, tmp_path_factory.mktemp("shared"))


@pytest.mark.xdist_group("flask manners over gunicorn")
class TestMannersOverGunicorn(BrowsersContract, PublicContract, ObservedContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        yield from _served("manners", manners_settings(), tmp_path_factory.mktemp("manners"))

    @pytest.fixture(scope="class")
    @classmethod
    def observing(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        settings = manners_settings(name="observing", mode="observe")
        yield from _served("manners", settings, tmp_path_factory.mktemp("observing"))

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(manners_flask.bare())
