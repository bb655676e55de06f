"""Does FastAPI keep the contract, in process and over uvicorn?"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from mlguard.testing import GuardTester
from mlguard_fastapi import MLGuard
from tests import servers
from tests.apps import bodies_fastapi, fastapi_twin, manners_fastapi, shared_fastapi
from tests.contract.authentication import SECRETS, AuthContract, ask, own
from tests.contract.bodies import BodyContract, Guarded
from tests.contract.client import SECRET, SETTINGS, Answer, OverSockets, alone, metric
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
    """A client of an ASGI app in this process."""

    def __init__(self, app: Any) -> None:
        self.http = TestClient(
            app,
            raise_server_exceptions=False,
            headers={"accept-encoding": ""},
            client=("127.0.0.1", 50000),
        )

    def ask(self, method: str, path: str, *, headers: Any = (), body: Any = b"") -> Answer:
        raw = [(n.encode(), v.encode("latin-1")) for n, v in headers]
        content = body if isinstance(body, bytes) else iter(body)
        answer = self.http.request(
            method, path, headers=raw, content=content, follow_redirects=False
        )
        return Answer(answer.status_code, answer.headers.multi_items(), answer.content)


@pytest.mark.xdist_group("fastapi auth in process")
class TestAuthInProcess(AuthContract):
    options_status = 405

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, auth_settings: dict[str, Any]) -> Iterator[InProcess]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLGUARD_SERVICE__HOST_FILE", "false")
            for name, secret in SECRETS.items():
                patch.setenv(name, secret)
            client = InProcess(fastapi_twin.extended(auth_settings))
            with client.http:
                yield client


@pytest.mark.xdist_group("fastapi auth over uvicorn")
class TestAuthOverUvicorn(AuthContract):
    options_status = 405

    @pytest.fixture(scope="class")
    @classmethod
    def client(
        cls, auth_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[OverSockets]:
        env = {"TWIN_SETTINGS": json.dumps(auth_settings), "TWIN": "extended", **SECRETS}
        folder: Path = tmp_path_factory.mktemp("uvicorn")
        with servers.uvicorn("tests.apps.served_fastapi:app", cwd=folder, env=env) as server:
            yield OverSockets(server.url)

    # -- WebSockets, which Flask does not have ---------------------------------------------------

    def test_handshakes_take_a_token(self, client: OverSockets) -> None:
        """A WebSocket is refused before it is accepted, with the refusal as HTTP's."""
        for text, status, code in (
            (None, 401, "token_missing"),
            ("junk", 401, "token_malformed"),
            (own("zoe", exp=1), 401, "token_expired"),
            (own("zoe", scope="other"), 403, "scope_missing"),
        ):
            answer = refused(client, "/ws", text)

            assert (answer.status_code, json.loads(answer.body)["code"]) == (status, code)
            assert answer.headers["content-type"] == "application/problem+json"
        answer = refused(client, "/ws/admin", own("zoe"))
        assert (answer.status_code, json.loads(answer.body)["code"]) == (403, "scope_missing")

    def test_handshakes_are_rationed(self, client: OverSockets) -> None:
        """Bad tokens in handshakes count like those of requests."""
        statuses = [
            refused(client, "/ws", own("zoe", exp=n), "10.200.0.1").status_code for n in range(8)
        ]

        assert statuses == [401] * 6 + [429] * 2

    def test_messages_are_charged(self, client: OverSockets) -> None:
        """Each message's rows are spent; what the quota refuses closes the connection."""
        labels = {
            "http_request_method": "GET", "http_route": "/ws", "http_response_status_code": "101",
        }  # fmt: skip
        name = "http_server_request_duration_seconds_count"
        before = metric(client, name, **labels)
        rows = [[1.0, 2.0]]
        with connected(client, "/ws", own("yara")) as socket:
            assert json.loads(socket.recv()) == {"caller": "yara"}
            socket.send(json.dumps(rows * 60))
            assert json.loads(socket.recv()) == {"predictions": [3.0] * 60}
            socket.send(json.dumps(rows * 60))
            with pytest.raises(ConnectionClosedError) as closed:
                socket.recv()

        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "quota_exceeded")
        assert metric(client, name, **labels) - before == 1

    def test_handshakes_are_charged(self, client: OverSockets) -> None:
        """A connection costs a request; who has none left gets none."""
        for _ in range(30):
            ask(client, "/whoami", own("xena"))
        answer = refused(client, "/ws", own("xena"))

        assert (answer.status_code, json.loads(answer.body)["code"]) == (429, "rate_exceeded")

    def test_revoked_handshakes(self, client: OverSockets) -> None:
        """A revoked token opens no connection, and asks nothing more on one that is open."""
        jti = secrets.token_hex(8)
        with connected(client, "/ws", own("wim", jti=jti)) as socket:
            socket.recv()
            ask(client, f"/revoke?jti={jti}", own("operator"))
            socket.send("[[1, 2]]")
            with pytest.raises(ConnectionClosedError) as closed:
                socket.recv()

        assert closed.value.rcvd is not None
        assert closed.value.rcvd.reason == "token_revoked"
        answer = refused(client, "/ws", own("wim", jti=jti))
        assert json.loads(answer.body)["code"] == "token_revoked"


def connected(
    client: OverSockets, path: str, text: str | None, address: str = "10.201.0.1"
) -> ClientConnection:
    host, port = client.address
    headers = {"X-Forwarded-For": address}
    headers |= {"Authorization": f"Bearer {text}"} if text else {}
    return connect(f"ws://{host}:{port}{path}", additional_headers=headers, proxy=None)


def refused(client: OverSockets, path: str, text: str | None, address: str = "10.202.0.1") -> Any:
    with pytest.raises(InvalidStatus) as caught:
        connected(client, path, text, address)
    return caught.value.response


@pytest.mark.xdist_group("fastapi in process")
class TestInProcess(Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with alone():
            client = InProcess(fastapi_twin.guarded(SETTINGS))
            with client.http:
                yield client

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(fastapi_twin.bare())


@pytest.mark.xdist_group("fastapi over uvicorn")
class TestOverUvicorn(Contract):
    server_knows_methods = True

    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        env = {"TWIN_SETTINGS": json.dumps(SETTINGS), "TWIN_SECRET": SECRET}
        folder: Path = tmp_path_factory.mktemp("uvicorn")
        with servers.uvicorn("tests.apps.served_fastapi:app", cwd=folder, env=env) as server:
            yield OverSockets(server.url)

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(fastapi_twin.bare())


@pytest.mark.xdist_group("fastapi limits in process")
class TestLimitsInProcess(LimitContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with alone():
            client = InProcess(fastapi_twin.limited(limit_settings()))
            with client.http:
                yield client


@pytest.mark.xdist_group("fastapi limits over uvicorn")
class TestLimitsOverUvicorn(LimitContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        settings = json.dumps(limit_settings())
        env = {"TWIN_SETTINGS": settings, "TWIN": "limited", "TWIN_SECRET": SECRET}
        folder: Path = tmp_path_factory.mktemp("uvicorn")
        with servers.uvicorn("tests.apps.served_fastapi:app", cwd=folder, env=env) as server:
            yield OverSockets(server.url)


@pytest.mark.xdist_group("fastapi models in process")
class TestModelsInProcess(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with alone():
            settings = model_settings(path_route="/models/{name}/predict")
            client = InProcess(shared_fastapi.guarded(settings))
            with client.http:
                yield client


@pytest.mark.xdist_group("fastapi manners in process")
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
        return InProcess(manners_fastapi.bare())


def _manners(refusal_body: Any = None, **service: Any) -> Iterator[InProcess]:
    with alone():
        app, guard = manners_fastapi.guarded(manners_settings(**service))
        if refusal_body is not None:
            guard.refusal_body(refusal_body)
        client = InProcess(app)
        with client.http:
            yield client


class TestBodies(BodyContract):
    def make(self, settings: dict[str, Any]) -> Guarded:
        app = bodies_fastapi.bare()
        guard = MLGuard(app, settings)
        bodies_fastapi.owned(app, guard)
        tester = GuardTester(guard)
        return Guarded(InProcess(app), InProcess(bodies_fastapi.bare()), tester)


def _served(twin: str, settings: dict[str, Any], folder: Path) -> Iterator[OverSockets]:
    env = {"TWIN_SETTINGS": json.dumps(settings), "TWIN": twin, "TWIN_SECRET": SECRET}
    with servers.uvicorn(
        "tests.apps.served_fastapi:app", cwd=folder, env=env, ready="/metrics"
    ) as server:
        yield OverSockets(server.url)


@pytest.mark.xdist_group("fastapi models over uvicorn")
class TestModelsOverUvicorn(ModelContract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OverSockets]:
        settings = model_settings(path_route="/models/{name}/predict")
        yield from _served("shared", settings, tmp_path_factory.mktemp("shared"))


@pytest.mark.xdist_group("fastapi manners over uvicorn")
class TestMannersOverUvicorn(BrowsersContract, PublicContract, ObservedContract):
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
        return InProcess(manners_fastapi.bare())
