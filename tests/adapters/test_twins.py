"""Do both frameworks tell the same of the same request?"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from flask import Flask, Response
from jose import jwk, jwt

import mlguard_fastapi as fastapi_adapter
import mlguard_flask as flask_adapter
from mlguard.reference import Reference
from mlguard.testing import GuardTester
from tests.adapters import common, test_fastapi, test_flask
from tests.adapters.common import ROWS
from tests.apps import fastapi_twin, flask_twin
from tests.contract import test_fastapi as over_asgi
from tests.contract import test_flask as over_wsgi
from tests.contract.client import SECRET, SETTINGS, Client, token

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
def twins(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Client, GuardTester]]:
    monkeypatch.setenv("TWIN_SECRET", SECRET)
    fastapi_app, flask_app = fastapi_twin.guarded(SETTINGS), flask_twin.guarded(SETTINGS)
    return [
        (over_asgi.InProcess(fastapi_app), GuardTester(fastapi_app.state.mlguard)),
        (over_wsgi.InProcess(flask_app), GuardTester(flask_app.extensions["mlguard"])),
    ]


@pytest.mark.parametrize(("method", "path", "known"), CALLS.values(), ids=CALLS.keys())
def test_spans_are_twins(
    twins: list[tuple[Client, GuardTester]], method: str, path: str, *, known: bool
) -> None:
    """Names and attributes of spans do not depend on the framework."""
    if method == "DELETE":
        pytest.skip("on a 405 FastAPI's router knows the route, Flask's does not")
    if not hasattr(FastAPI(), "_native_telemetry"):
        pytest.skip(
            "before FastAPI 0.142 the contrib instrumentation words some attributes its way"
        )
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


@pytest.mark.parametrize("framework", ["FastAPI", "Flask"])
def test_public_keys_verify_tokens(
    framework: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RS256 with a key set file: the issuer's token is good, an HMAC with the public key is not."""
    monkeypatch.setenv("MLGUARD_SERVICE__HOST_FILE", "false")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    entry = {"kid": "2026", "use": "sig", "alg": "RS256"} | jwk.construct(public, "RS256").to_dict()
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [entry]}))
    auth = {**SETTINGS["auth"], "algorithms": ["RS256"], "jwks_file": str(tmp_path / "keys.json")}
    del auth["secret_env"]
    settings = {**SETTINGS, "auth": auth, "tracing": {"endpoint": "console"}}
    client: Client = (
        over_asgi.InProcess(fastapi_twin.guarded(settings))
        if framework == "FastAPI"
        else over_wsgi.InProcess(flask_twin.guarded(settings))
    )
    claims = jwt.get_unverified_claims(token("rsa"))
    good = jwt.encode(claims, pem, "RS256", headers={"kid": "2026"})
    other = jwt.encode(claims, pem, "RS256", headers={"kid": "2025"})
    answers = [
        client.ask("GET", "/me", headers=[("Authorization", f"Bearer {t}")])
        for t in (good, other, token("rsa"))
    ]

    assert [a.status for a in answers] == [200, 401, 401]
    assert answers[0].json == {"subject": "rsa"}


@pytest.mark.parametrize("framework", [0, 1], ids=["FastAPI", "Flask"])
@pytest.mark.parametrize(
    ("trusted", "share", "flag", "expected"),
    [
        ([], 1.0, "00", 1),
        ([], 0.0, "01", 0),
        (["127.0.0.0/8"], 1.0, "00", 0),
        (["127.0.0.0/8"], 0.0, "01", 1),
    ],
    ids=["cannot be switched off", "cannot be forced", "trusted off", "trusted on"],
)
def test_only_trusted_peers_choose_what_is_traced(
    framework: int,
    trusted: list[str],
    share: float,
    flag: str,
    expected: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sampled flag of a caller counts where its peer is a trusted proxy, and nowhere else."""
    monkeypatch.setenv("TWIN_SECRET", SECRET)
    chosen = {
        **SETTINGS,
        "service": {"name": "twin", "trusted_proxies": trusted},
        "tracing": {"sample": share},
    }
    if framework == 0:
        app: Any = fastapi_twin.guarded(chosen)
        client: Client = over_asgi.InProcess(app)
        rehearsal = GuardTester(app.state.mlguard)
    else:
        app = flask_twin.guarded(chosen)
        client = over_wsgi.InProcess(app)
        rehearsal = GuardTester(app.extensions["mlguard"])
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    client.ask(
        "GET", "/health", headers=[("traceparent", f"00-{trace_id}-00f067aa0ba902b7-{flag}")]
    )

    assert [f"{s.context.trace_id:032x}" for s in rehearsal.spans] == [trace_id] * expected


@pytest.mark.parametrize("framework", ["FastAPI", "Flask"])
def test_streams_that_break_off_are_paid_for(framework: str) -> None:
    """Predictions that have left are charged, though the answer ended in an exception."""

    def chunks() -> Iterator[bytes]:
        yield b"some predictions"
        raise ValueError

    chosen = common.settings("/predict", quotas={"rows": ["5/hour"]})
    app: Any = FastAPI() if framework == "FastAPI" else Flask(__name__)
    if framework == "FastAPI":
        app.post("/predict")(lambda: StreamingResponse(chunks()))
        guard: Any = fastapi_adapter.MLGuard(app, chosen)
        client: Client = over_asgi.InProcess(app)
    else:
        app.post("/predict")(lambda: Response(chunks()))
        guard = flask_adapter.MLGuard(app, chosen)
        client = over_wsgi.InProcess(app)
    headers = list(GuardTester(guard).headers().items())
    codes = []
    for _ in range(2):
        with suppress(ValueError):
            answer = client.ask("POST", "/predict", headers=headers, body=json.dumps(ROWS).encode())
            codes.append(answer.code)

    assert codes[-1] == "quota_exceeded"


@pytest.mark.parametrize("framework", [0, 1], ids=["FastAPI", "Flask"])
def test_paths_that_lead_nowhere_are_told(
    framework: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A typo in `inputs` or `outputs` would switch the row quota off: it is told."""
    monkeypatch.setenv("TWIN_SECRET", SECRET)
    model = {"name": "sum", "route": "/predict", "inputs": "rowz", "outputs": "scorez"}
    chosen = {**SETTINGS, "models": [model, {"name": "own"}]}
    apps: tuple[Any, Any] = fastapi_twin.guarded(chosen), flask_twin.guarded(chosen)
    client: Client = (over_asgi if framework == 0 else over_wsgi).InProcess(apps[framework])
    guard = apps[0].state.mlguard if framework == 0 else apps[1].extensions["mlguard"]
    rehearsal = GuardTester(guard)
    headers = [*rehearsal.headers().items(), ("Content-Type", "application/json")]
    for _ in range(2):
        client.ask("POST", "/predict", headers=headers, body=b'{"instances": [[1, 2]]}')

    unread = [
        rehearsal.metric("mlguard_rows_unread_total", model="sum", side=side)
        for side in ("inputs", "outputs")
    ]
    assert unread == [2, 2]
    assert [r.getMessage() for r in caplog.records] == [
        f'{side} = "{wrong}" of model sum found nothing in POST /predict: the {whole} is an '
        f'object with {key} (a list): set {side} = "{key}"; its rows were not counted'
        for side, wrong, whole, key in (
            ("inputs", "rowz", "body", "instances"),
            ("outputs", "scorez", "answer", "predictions"),
        )
    ]


@pytest.mark.parametrize("module", [test_fastapi, test_flask], ids=["FastAPI", "Flask"])
def test_a_failing_observer_fails_no_request(module: Any) -> None:
    """Where observing goes wrong the answer is sent all the same, and a metric says so."""
    if module is test_fastapi:
        app: Any = test_fastapi.FastAPI()
        app.post("/predict")(test_fastapi.predict)
    else:
        app = test_flask.app_with_predict()
    client, rehearsal = module.guarded(app)
    service = (app.state.mlguard if module is test_fastapi else app.extensions["mlguard"]).service

    def fail(*_: object) -> None:
        raise MemoryError

    service.metrics.inference_ended = fail
    answer = client.post("/predict", json=module.ROWS, headers=rehearsal.headers())

    assert answer.status_code == 200
    assert rehearsal.metric("mlguard_degraded", part="observers") == 1


def test_a_reference_alone_has_drift_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both sample a row of each request as soon as a model has a reference."""
    monkeypatch.setenv("TWIN_SECRET", SECRET)
    path = tmp_path / "reference.parquet"
    Reference.build({"a": [float(n) for n in range(300)], "b": [1.0] * 300}).save(path)
    source = copy.deepcopy(SETTINGS)
    source["models"][0]["reference"] = str(path)
    source["models"][0].pop("features", None)

    told = []
    for make, ask in ((fastapi_twin, over_asgi), (flask_twin, over_wsgi)):
        app = make.guarded(source)
        guard = app.state.mlguard if make is fastapi_twin else app.extensions["mlguard"]
        tester = GuardTester(guard)
        headers = [*HOST, *tester.headers().items()]
        ask.InProcess(app).ask(
            "POST", "/predict", headers=headers, body=b'{"instances": [[1, 2], [1, 2]]}'
        )
        name = source["models"][0]["name"]
        told.append(([row for _, _, row in tester.sampled], tester.rows_wanted(name)))

    assert told == [([[1, 2]], Reference.peek_window(path))] * 2
