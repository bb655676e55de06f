"""Are callers known by API keys, and by the app's own login, alike on both frameworks?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import FastAPI, Request
from flask import Flask, request
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from starlette.testclient import TestClient

import mlguard_fastapi
import mlguard_flask
from mlguard.errors import InvalidSettings
from mlguard.messages import Identity
from mlguard.testing import GuardTester

SECRET = "a secret of the tests that is long enough"
ISSUER = {
    "issuer": "https://login.example.com/",
    "audience": "sums",
    "secret_env": "SECRET",
    "algorithms": ["HS256"],
}
MODEL = {"name": "sum", "route": "/predict", "inputs": "instances", "outputs": "predictions"}
BODY = {"instances": [[1, 2], [3, 4]]}


def settings(auth: dict[str, Any], **more: Any) -> dict[str, Any]:
    quotas = {"rows": ["100/hour"], "plans": {"small": {"rows": ["3/hour"]}}}
    return {"models": [MODEL], "auth": auth, "quotas": quotas, **more}


def fastapi(settings: dict[str, Any]) -> tuple[mlguard_fastapi.MLGuard, Any]:
    app = FastAPI()
    guard = mlguard_fastapi.MLGuard(app, settings)

    @app.post("/predict")
    async def predict(asked: Request) -> dict[str, Any]:
        body = await asked.json()
        return {"predictions": [sum(row) for row in body["instances"]]}

    @app.get("/me")
    async def me() -> dict[str, Any]:
        return told(guard.caller())

    return guard, TestClient(app, client=("127.0.0.1", 5000), raise_server_exceptions=False)


def flask(settings: dict[str, Any]) -> tuple[mlguard_flask.MLGuard, Any]:
    app = Flask("sums")
    guard = mlguard_flask.MLGuard(app, settings)

    @app.post("/predict")
    def predict() -> dict[str, Any]:
        return {"predictions": [sum(row) for row in request.get_json()["instances"]]}

    @app.get("/me")
    def me() -> dict[str, Any]:
        return told(guard.caller())

    return guard, app.test_client()


def told(who: Any) -> dict[str, Any]:
    return {"issuer": who.issuer, "subject": who.subject, "tenant": who.tenant}


def code(answer: Any) -> tuple[int, str]:
    body = answer.json() if callable(answer.json) else answer.json
    return answer.status_code, body.get("code", "")


both = pytest.mark.parametrize("made", [fastapi, flask], ids=["FastAPI", "Flask"])


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", SECRET)


@both
class TestKeys:
    def test_a_key_says_who_calls(self, made: Any) -> None:
        """Its subject and tenant are the caller's, its plan decides the quota."""
        guard, client = made(settings({"api_keys": {}}))
        tester = GuardTester(guard)
        key = {"X-API-Key": tester.api_key("alice", tenant="acme", plan="small")}

        body = client.get("/me", headers=key)
        assert (body.json() if callable(body.json) else body.json) == {
            "issuer": "api_keys", "subject": "alice", "tenant": "acme",
        }  # fmt: skip
        assert client.post("/predict", json=BODY, headers=key).status_code == 200
        assert code(client.post("/predict", json=BODY, headers=key)) == (429, "quota_exceeded")
        other = {"X-API-Key": tester.api_key("bob")}
        assert client.post("/predict", json=BODY, headers=other).status_code == 200

    @pytest.mark.parametrize(
        ("headers", "said"),
        [
            ({}, "key_missing"),
            ({"X-API-Key": ""}, "key_unknown"),
            ({"X-API-Key": "mlg_00000000_" + "0" * 38}, "key_unknown"),
            ({"X-API-Key": "k" * 8000}, "key_unknown"),
            ({"X-API-Key": "\xe9t\xe9"}, "key_unknown"),
            ({"Authorization": "Bearer x.y.z"}, "key_missing"),
        ],
    )
    def test_whatever_else_is_refused(
        self, made: Any, headers: Mapping[str, str], said: str
    ) -> None:
        """A wrong key, and none, is a 401 whose challenge names the header."""
        guard, client = made(settings({"api_keys": {}}))
        GuardTester(guard).api_key()
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        sent = raw if made is fastapi else headers

        answer = client.get("/me", headers=sent)

        assert code(answer) == (401, said)
        assert answer.headers["WWW-Authenticate"] == 'ApiKey header="X-API-Key"'

    def test_what_has_expired_is_refused(self, made: Any) -> None:
        """A key's time ends, and so does its caller's."""
        guard, client = made(settings({"api_keys": {}}))
        key = GuardTester(guard).api_key(seconds=-1)

        assert code(client.get("/me", headers={"X-API-Key": key})) == (401, "key_expired")

    def test_a_key_grants_scopes(self, made: Any) -> None:
        """What a key was not granted is a 403."""
        guard, client = made(settings({"api_keys": {}, "scopes": ["predict"]}))
        tester = GuardTester(guard)
        bare, good = tester.api_key(scopes=[]), tester.api_key()

        assert code(client.get("/me", headers={"X-API-Key": bare})) == (403, "scope_missing")
        assert client.get("/me", headers={"X-API-Key": good}).status_code == 200

    def test_beside_tokens(self, made: Any) -> None:
        """A service may take tokens and keys, but of one request only one of them."""
        guard, client = made(settings({**ISSUER, "api_keys": {}}))
        tester = GuardTester(guard)
        token, key = tester.headers(), {"X-API-Key": tester.api_key()}

        assert client.get("/me", headers=token).status_code == 200
        assert client.get("/me", headers=key).status_code == 200
        assert code(client.get("/me", headers=token | key)) == (401, "two_credentials")
        assert code(client.get("/me")) == (401, "token_missing")

    @pytest.mark.parametrize("issuer", [{}, ISSUER], ids=["alone", "beside tokens"])
    def test_as_a_bearer(self, made: Any, issuer: dict[str, Any]) -> None:
        """Where the header is Authorization, a key is a bearer, and a token another one."""
        guard, client = made(settings({**issuer, "api_keys": {"header": "Authorization"}}))
        tester = GuardTester(guard)
        key = tester.api_key("alice")
        wrong = key[:-1] + ("a" if key[-1] != "a" else "b")

        assert client.get("/me", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        refused = client.get("/me", headers={"Authorization": f"Bearer {wrong}"})
        assert code(refused) == (401, "key_unknown")
        if issuer:
            assert client.get("/me", headers=tester.headers()).status_code == 200
            junk = client.get("/me", headers={"Authorization": "Bearer x"})
            assert code(junk) == (401, "token_malformed")

    def test_who_guesses_waits(self, made: Any) -> None:
        """An address whose keys were refused too often is not looked at, but known ones pass."""
        guard, client = made(settings({"api_keys": {}, "failures_per_client": "3/minute"}))
        good = {"X-API-Key": GuardTester(guard).api_key()}
        codes = [code(client.get("/me", headers={"X-API-Key": f"guess {n}"})) for n in range(4)]

        assert codes == [(401, "key_unknown")] * 3 + [(429, "too_many_failures")]
        assert client.get("/me", headers=good).status_code == 200

    def test_no_key_is_shown(self, made: Any, caplog: pytest.LogCaptureFixture) -> None:
        """Neither log nor spans nor metrics hold a key, right or wrong."""
        guard, client = made(settings({"api_keys": {}}, tracing={}))
        tester = GuardTester(guard)
        key = tester.api_key()
        for sent in (key, key[:-1] + "!", key.lower()):
            client.get("/me", headers={"X-API-Key": sent})

        spans = "".join(span.to_json() for span in tester.spans)
        metrics = guard.service.expose("")[2].decode()
        secret = key.split("_")[2].lower()[:20]
        assert len(tester.spans) == 3
        assert secret not in (caplog.text + spans + metrics).lower()

    def test_headers_of_a_tester_fit(self, made: Any) -> None:
        """Where only keys are accepted, a tester's headers hold one."""
        guard, client = made(settings({"api_keys": {"header": "token"}}))

        headers = GuardTester(guard).headers("alice")

        assert list(headers) == ["token"]
        assert client.get("/me", headers=headers).status_code == 200


@both
@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_a_header_of_any_kind_has_one_of_four_outcomes(made: Any, header: str) -> None:
    """Whatever stands in the header, the answer is 200, 401, 403 or 429."""
    guard, client = made(settings({"api_keys": {"header": header}}))
    tester = GuardTester(guard)
    keys = [tester.api_key(), tester.api_key(seconds=-1)]
    texts = st.one_of(
        st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=60),
        st.sampled_from(keys),
        st.sampled_from(keys).map(lambda key: key.swapcase()),
        st.tuples(st.sampled_from(keys), st.integers(0, 50)).map(lambda k: k[0][: k[1]]),
        st.sampled_from(keys).map(lambda key: f"{key}, {key}"),
    )
    schemes = st.sampled_from(["", "Bearer ", "bearer  ", "Basic ", "Bearer Bearer "])

    @examples(max_examples=60, deadline=None)
    @given(texts, schemes)
    def ask(text: str, scheme: str) -> None:
        answer = client.get("/me", headers={header: scheme + text})

        assert answer.status_code in (200, 401, 403, 429)
        if answer.status_code == 200:
            assert keys[0] in text

    ask()


def session(asked: Any) -> Any:
    return asked.headers.get("X-Session") or None


async def asession(asked: Any) -> Any:
    return session(asked)


@both
class TestOwnLogin:
    def test_the_app_names_its_caller(self, made: Any) -> None:
        """Who is logged in to the app calls, is charged, and is whom handlers see."""
        guard, client = made(settings({"own_login": True}))
        GuardTester(guard)

        @guard.identify
        def who(asked: Any) -> Any:
            name = session(asked)
            return name and Identity(name, tenant="acme", plan="small")

        alice = {"X-Session": "alice"}
        body = client.get("/me", headers=alice)
        assert (body.json() if callable(body.json) else body.json) == {
            "issuer": "app", "subject": "alice", "tenant": "acme",
        }  # fmt: skip
        assert client.post("/predict", json=BODY, headers=alice).status_code == 200
        assert code(client.post("/predict", json=BODY, headers=alice)) == (429, "quota_exceeded")
        assert client.post("/predict", json=BODY, headers={"X-Session": "bob"}).status_code == 200
        assert code(client.get("/me")) == (401, "token_missing")

    def test_beside_keys_and_tokens(self, made: Any) -> None:
        """The app is asked only where nothing came that the settings know."""
        guard, client = made(settings({**ISSUER, "api_keys": {}, "own_login": True}))
        tester = GuardTester(guard)
        asked: list[str] = []

        @guard.identify
        def who(request: Any) -> Any:
            asked.append(session(request) or "nobody")
            return session(request)

        key = {"X-API-Key": tester.api_key(), "X-Session": "eve"}
        assert client.get("/me", headers=key).status_code == 200
        assert client.get("/me", headers=tester.headers()).status_code == 200
        wrong = {"X-API-Key": "x", "X-Session": "eve"}
        assert code(client.get("/me", headers=wrong)) == (401, "key_unknown")
        assert asked == []
        assert client.get("/me", headers={"X-Session": "alice"}).status_code == 200
        assert asked == ["alice"]

    @pytest.mark.parametrize(
        "answer",
        [RuntimeError("password=hunter2"), 7, "", "x" * 2000, Identity("a", scopes=[3])],  # type: ignore[list-item]
        ids=["it fails", "a number", "nobody's name", "endless", "scopes that are none"],
    )
    def test_what_it_does_wrong_lets_nobody_in(self, made: Any, answer: Any) -> None:
        """Where the function fails, the answer is a 503 that says nothing of why."""
        guard, client = made(settings({"own_login": True}))
        GuardTester(guard)

        @guard.identify
        def who(_: Any) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        refused = client.get("/me")
        assert code(refused) == (503, "caller_unknown")
        assert b"hunter2" not in (getattr(refused, "content", None) or refused.data)

    def test_a_header_of_a_trusted_proxy(self, made: Any) -> None:
        """A proxy that is trusted may say who calls; nobody else may."""
        for trusted, subject in ((["127.0.0.0/8"], "alice"), ([], None)):
            service = {"trusted_proxies": trusted}
            guard, client = made(settings({"own_login": True}, service=service))
            GuardTester(guard)

            @guard.identify
            def who(asked: Any, guard: Any = guard) -> Any:
                return asked.headers.get("X-Client-Cert") if guard.from_trusted_proxy else None

            answer = client.get("/me", headers={"X-Client-Cert": "alice"})
            body = answer.json() if callable(answer.json) else answer.json
            assert body.get("subject") == subject

    def test_a_function_there_must_be(self, made: Any) -> None:
        """Without one the start is stopped; with one that the settings do not expect, it is too."""
        guard, _ = made(settings({"own_login": True}))
        with pytest.raises(InvalidSettings, match="no function tells who is logged in"):
            guard.check()
        other, _ = made(settings({"api_keys": {}}))
        with pytest.raises(InvalidSettings, match="own_login = true"):
            other.identify(session)


def test_async_logins_are_awaited() -> None:
    """On FastAPI the function may be async."""
    guard, client = fastapi(settings({"own_login": True}))
    GuardTester(guard)
    guard.identify(asession)

    assert client.get("/me", headers={"X-Session": "alice"}).json()["subject"] == "alice"
