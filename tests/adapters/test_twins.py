"""Do both frameworks tell the same of the same request?"""

from __future__ import annotations

from typing import Any

import pytest

from mlguard.messages import Inference
from mlguard.testing import Rehearsal
from tests.adapters import test_fastapi, test_flask
from tests.apps import fastapi_twin, flask_twin
from tests.contract.client import SECRET, SETTINGS, Client

HOST = [
    ("Host", "api.example.com:8443"),
    ("User-Agent", "a client"),
    ("Content-Type", "application/json"),
]
CALLS: dict[str, tuple[str, str, bool]] = {
    "answered": ("POST", "/predict?key=secret", True),
    "refused": ("POST", "/predict", False),
    "not found": ("GET", "/nowhere/secret", True),
    "method not allowed": ("DELETE", "/predict", True),
    "unknown method": ("BREW", "/nowhere", True),
    "failing": ("GET", "/boom", True),
    "streamed": ("GET", "/stream", True),
}
# The contrib instrumentation tells the client's port, which nobody else does.
BEYOND = {"client.port"}


@pytest.fixture
def twins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Client, Rehearsal]]:
    from tests.contract.test_fastapi import InProcess as ASGI
    from tests.contract.test_flask import InProcess as WSGI

    monkeypatch.setenv("TWIN_SECRET", SECRET)
    fastapi_app, flask_app = fastapi_twin.guarded(SETTINGS), flask_twin.guarded(SETTINGS)
    return [
        (ASGI(fastapi_app), Rehearsal(fastapi_app.state.mlguard)),
        (WSGI(flask_app), Rehearsal(flask_app.extensions["mlguard"])),
    ]


@pytest.mark.parametrize(("method", "path", "known"), CALLS.values(), ids=CALLS.keys())
def test_spans_are_twins(
    twins: list[tuple[Client, Rehearsal]], method: str, path: str, *, known: bool
) -> None:
    """Names and attributes of spans do not depend on the framework."""
    if method == "DELETE":
        pytest.skip("on a 405 FastAPI's router knows the route, Flask's does not")
    told = []
    for client, rehearsal in twins:
        headers = [*HOST, *(rehearsal.headers().items() if known else ())]
        client.ask(method, path, headers=headers, body=b'{"instances": [[1, 2]]}')
        spans = rehearsal.spans
        told.append([(s.name, _stable(dict(s.attributes or {}))) for s in spans])

    assert told[0] == told[1]


def _stable(attributes: dict[str, Any]) -> dict[str, Any]:
    values = {k: v for k, v in attributes.items() if k not in BEYOND}
    for name in ("client.address", "enduser.pseudo.id"):
        values.update({name: "…"} if name in values else {})
    return values


@pytest.mark.parametrize("module", [test_fastapi, test_flask], ids=["FastAPI", "Flask"])
def test_a_failing_observer_fails_no_request(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where observing goes wrong the answer is sent all the same, and a metric says so."""
    monkeypatch.setenv("TWIN_SECRET", SECRET)
    if module is test_fastapi:
        app: Any = test_fastapi.FastAPI()
        app.post("/predict")(test_fastapi.predict)
    else:
        app = test_flask.app_with_predict()
    client, rehearsal = module.guarded(app)
    service = (app.state.mlguard if module is test_fastapi else app.extensions["mlguard"]).service

    def fail(inference: Inference) -> None:
        raise MemoryError

    service.guard.models["sum"].observe = fail
    answer = client.post("/predict", json=module.ROWS, headers=rehearsal.headers())

    assert answer.status_code == 200
    assert rehearsal.metric("mlguard_degraded", part="observers") == 1
