"""Does an app's OpenAPI document say what the guard demands? Swagger's Authorize button."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import APIKeyHeader
from flask import Flask
from flask_restx import Api, Resource
from starlette.testclient import TestClient

import mlguard_flask
from mlguard_fastapi import MLGuard

SETTINGS: dict[str, Any] = {
    "service": {"host_file": False},
    "models": [{"name": "iris", "route": "/v1/{name:path}/predict", "inputs": "x",
                "scopes": ["iris"]}],
    "auth": {"issuer": "https://login.example.com/", "audience": "api", "secret_env": "SECRET",
             "algorithms": ["HS256"], "public": ["/docs/*", "/openapi.json", "/health"]},
    "quotas": {"requests": ["9/day"], "exempt": {"routes": ["/uncounted"]}},
}  # fmt: skip
BEARER = {"HTTPBearer": []}


def made(settings: dict[str, Any] = SETTINGS) -> tuple[FastAPI, MLGuard]:
    app = FastAPI()
    guard = MLGuard(app, settings)
    router = APIRouter(prefix="/v1")

    @app.get("/health")
    def health() -> None: ...

    @router.post("/{name:path}/predict")
    def predict(name: str) -> None: ...

    @app.get("/uncounted")
    def uncounted() -> None: ...

    @app.get("/keyed")
    def keyed(_: Any = Depends(APIKeyHeader(name="X-Key"))) -> None: ...

    @app.get("/mine", dependencies=[Depends(guard.caller)])
    def mine() -> None: ...

    @app.get("/told", responses={401: {"description": "as I say"}})
    def told() -> None: ...

    app.include_router(router)
    return app, guard


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "a secret of the tests that is long enough")


@pytest.mark.parametrize(
    ("method", "path", "security", "refusals"),
    [
        ("get", "/health", None, set()),
        ("post", "/v1/{name}/predict", [BEARER], {"401", "403", "429"}),
        ("get", "/uncounted", [BEARER], {"401"}),
        ("get", "/keyed", [{"APIKeyHeader": [], **BEARER}], {"401", "429"}),
        ("get", "/mine", [BEARER], {"401", "429"}),
    ],
)
def test_operations(method: str, path: str, security: Any, refusals: set[str]) -> None:
    """Each operation says whether it takes a token, and how it may be refused."""
    operation = made()[0].openapi()["paths"][path][method]

    assert operation.get("security") == security
    assert {status for status in operation["responses"] if status in ("401", "403", "429")} == (
        refusals
    )


def test_the_scheme() -> None:
    """The scheme is there once, whether or not a handler depends on the caller."""
    app, _ = made()
    components = app.openapi()["components"]

    assert set(components["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
    assert components["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    assert "MLGuardProblem" in components["schemas"]


def test_what_the_app_says_stays() -> None:
    """A response that the app describes itself is described so."""
    answers = made()[0].openapi()["paths"]["/told"]["get"]["responses"]

    assert answers["401"] == {"description": "as I say"}


def test_errors_of_its_own() -> None:
    """Where the app writes the bodies of refusals, the document names their type."""
    app, guard = made()
    guard.refusal_body(lambda _: b"", media_type="text/plain")
    answers = app.openapi()["paths"]["/mine"]["get"]["responses"]

    assert answers["401"]["content"] == {"text/plain": {}}
    assert "MLGuardProblem" not in app.openapi()["components"].get("schemas", {})


def test_later_routes() -> None:
    """A route that is added after the document was asked for is in the next one."""
    app, _ = made()
    app.openapi()
    app.get("/later")(lambda: None)
    app.openapi_schema = None  # as older versions of FastAPI need it

    assert app.openapi()["paths"]["/later"]["get"]["security"] == [BEARER]
    assert app.openapi() is app.openapi()


def test_without_authentication() -> None:
    """Without [auth], the document is the app's."""
    app, _ = made({"service": {"host_file": False}, "quotas": {"requests": ["9/day"]}})

    assert "MLGuardProblem" not in str(app.openapi())


def test_swagger_behind_the_guard() -> None:
    """Swagger's pages are public by their path, and the document with them."""
    app, _ = made()
    with TestClient(app) as client:
        assert client.get("/docs").status_code == 200
        assert client.get("/openapi.json").json()["paths"]["/keyed"]["get"]["security"]
        assert client.get("/redoc").status_code == 401


def test_swagger_of_flask_restx() -> None:
    """Flask-RESTX says it by its own words; its pages are public by their path."""
    app = Flask(__name__)
    token = {"type": "apiKey", "in": "header", "name": "Authorization"}
    api = Api(app, doc="/ui/", authorizations={"token": token}, security="token")

    @api.route("/predict")
    class Predict(Resource):  # type: ignore[misc]
        def get(self) -> dict[str, bool]:
            return {"ok": True}

    public = ["/ui/*", "/swaggerui/*", "/swagger.json"]
    mlguard_flask.MLGuard(
        app,
        {"service": {"host_file": False}, "auth": {**SETTINGS["auth"], "public": public}},
    )
    with app.test_client() as client:
        document = client.get("/swagger.json").get_json()

        assert client.get("/ui/").status_code == 200
        assert client.get("/swaggerui/swagger-ui.css").status_code == 200
        assert client.get("/predict").status_code == 401
        assert document["securityDefinitions"] == {"token": token}


@pytest.mark.parametrize(
    ("issuer", "keys", "security"),
    [
        (False, {}, [{"MLGuardKey": []}]),
        (False, {"header": "Authorization"}, [BEARER]),
        (True, {}, [BEARER, {"MLGuardKey": []}]),
    ],
    ids=["keys", "keys as bearers", "tokens or keys"],
)
def test_keys(issuer: bool, keys: dict[str, Any], security: Any) -> None:
    """A key is a credential of the document too: in its header, or as a bearer."""
    auth = {"api_keys": keys, **(SETTINGS["auth"] if issuer else {})}
    document = made(SETTINGS | {"auth": auth, "models": []})[0].openapi()

    assert document["paths"]["/mine"]["get"]["security"] == security
    schemes = document["components"]["securitySchemes"]
    if {"MLGuardKey": []} in security:
        assert schemes["MLGuardKey"] == {
            "type": "apiKey", "in": "header", "name": "X-API-Key", "description": "A key.",
        }  # fmt: skip
    else:
        assert schemes["HTTPBearer"]["bearerFormat"] == "API key"
