"""Does FastAPI keep the contract, in process and over uvicorn?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests import servers
from tests.apps import fastapi_twin
from tests.contract.client import SECRET, SETTINGS, Answer, OverSockets
from tests.contract.contract import Contract


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
        answer = self.http.request(method, path, headers=raw, content=content)
        return Answer(answer.status_code, answer.headers.multi_items(), answer.content)


class TestInProcess(Contract):
    @pytest.fixture(scope="class")
    @classmethod
    def client(cls) -> Iterator[InProcess]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TWIN_SECRET", SECRET)
            patch.setenv("MLGUARD_SERVICE__COMPANION", "false")
            client = InProcess(fastapi_twin.guarded(SETTINGS))
            with client.http:
                yield client

    @pytest.fixture(scope="class")
    @classmethod
    def bare(cls) -> InProcess:
        return InProcess(fastapi_twin.bare())


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
