"""What must be true on every framework of an app's own manners? Public pages, browsers, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlguard.guard import Refusal
from tests.contract.client import SETTINGS, Answer, Client, bearer, metric, samples, token

JSON = ("Content-Type", "application/json")
ORIGIN = ("Origin", "https://app.example.com")


def manners_settings(**service: Any) -> dict[str, Any]:
    """All below one path is public."""
    model = {"inputs": "instances", "outputs": "predictions"}
    return {
        "service": {**SETTINGS["service"], "max_body": 2000, "max_uri": 1024, **service},
        "models": [
            {"name": "sum", "route": "/predict", **model},
            {"name": "below", "route": "/ui/predict", **model},
            {"name": "own"},
        ],
        "auth": {**SETTINGS["auth"], "public": ["/ui/*"]},
        "quotas": {"requests": ["30/hour"], "rows": ["100/hour"]},
    }  # fmt: skip


class PublicContract:
    """What is public below a path; a subclass provides the fixture `client`."""

    @pytest.mark.parametrize(
        "path", ["/ui/page", "/ui/app/page", "/ui/plain/", "/ui%2fpage", "/ui/%70age"]
    )
    def test_all_below_is_public(self, client: Client, path: str) -> None:
        """Routes below the path, and what is mounted there, need no token."""
        assert client.ask("GET", path).status == 200

    def test_the_path_itself_leads_below(self, client: Client) -> None:
        """The redirect to what is public needs no token, and no other one does."""
        answer = client.ask("GET", "/ui")

        assert answer.status in (307, 308)
        assert (answer.header("location") or "").endswith("/ui/")
        assert client.ask("GET", "/ui/").status == 200
        for path in ("/private", "/UI", "/ui/page/"):
            assert client.ask("GET", path).status == 401

    @pytest.mark.parametrize(
        "path",
        [
            "/uix",
            "/UI/page",
            "/x//ui/page",
            "/ui/../uix",
            "/ui/..%2fuix",
            "/files/%2e%2e/ui/page",
            "/ui/nothing",
            "/ui\\page",
        ],
    )
    def test_nothing_else_is_public(self, client: Client, path: str) -> None:
        """Whatever a client writes, what the framework matched elsewhere takes a token."""
        answer = client.ask("GET", path)

        assert (answer.status, answer.code) == (401, "token_missing")

    @pytest.mark.parametrize(
        "path", ["/ui/predict", "/ui/../predict", "/ui%2f..%2fpredict", "/ui/predict/"]
    )
    def test_no_model_is_public_by_its_path(self, client: Client, path: str) -> None:
        """A model's route below the path takes a token all the same."""
        answer = client.ask("POST", path, headers=[JSON], body=b'{"instances": [[1, 2]]}')

        assert (answer.status, answer.code) == (401, "token_missing")


class BrowsersContract:
    """What browsers need; a subclass provides the fixture `client`."""

    def test_preflights_pass(self, client: Client) -> None:
        """A browser may ask whether it may send a token: no token is needed, nothing is charged."""
        asking = [
            ORIGIN,
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "authorization,content-type"),
        ]
        answer = client.ask("OPTIONS", "/predict", headers=asking)

        allowed = (answer.header("access-control-allow-headers") or "").lower()
        assert answer.status == 200
        assert answer.header("access-control-allow-origin") == ORIGIN[1]
        assert {"authorization", "content-type"} <= set(allowed.split(", "))
        assert answer.header("ratelimit") is None

    @pytest.mark.parametrize(
        ("rows", "claims", "status", "told"),
        [
            (1, {}, 200, "ratelimit"),
            (1, {"exp": 1}, 401, "www-authenticate"),
            (1, {"scope": "other"}, 403, "www-authenticate"),
            (101, {}, 422, "ratelimit-policy"),
        ],
    )
    @pytest.mark.parametrize("path", ["/predict", "/own"])
    def test_browsers_read_all_of_it(
        self, client: Client, path: str, rows: int, claims: Any, status: int, told: str
    ) -> None:
        """An answer and a refusal carry the app's CORS headers, which expose the kit's."""
        headers = [*bearer(f"browser {path}", **claims), JSON, ORIGIN]
        body = json.dumps({"instances": [[1]] * rows}).encode()
        answer = client.ask("POST", path, headers=headers, body=body)

        exposed = (answer.header("access-control-expose-headers") or "").lower()
        assert answer.status == status
        assert answer.header("access-control-allow-origin") == ORIGIN[1]
        assert answer.header(told) is not None
        assert {"ratelimit", "ratelimit-policy", "retry-after", "mlguard-call-id",
                "www-authenticate"} <= set(exposed.split(", "))  # fmt: skip

    def test_browsers_read_when_to_come_again(self, client: Client) -> None:
        """A spent window is refused so that a page can tell its reader how long to wait."""
        headers = [*bearer("spent browser"), JSON, ORIGIN]
        body = json.dumps({"instances": [[1]] * 100}).encode()
        client.ask("POST", "/predict", headers=headers, body=body)
        answer = client.ask("POST", "/predict", headers=headers, body=body)

        assert (answer.status, answer.code) == (429, "quota_exceeded")
        assert answer.header("access-control-allow-origin") == ORIGIN[1]
        assert answer.header("retry-after") is not None


class ErrorsContract:
    """What the app says itself to who is refused; a subclass provides the fixture `own`."""

    def test_errors_of_its_own(self, own: Client) -> None:
        """The body is the app's, the status and the headers are the kit's."""
        answer = own.ask("GET", "/uix")

        assert answer.json == {
            "error": {"message": "A bearer token is required.", "code": "token_missing"}
        }
        assert answer.status == 401
        assert answer.header("www-authenticate") == "Bearer"
        assert answer.header("content-type") == "application/json"
        assert answer.header("content-length") == str(len(answer.body))

    @pytest.mark.parametrize(
        ("method", "path", "claims", "body", "status", "code"),
        [
            ("GET", "/nowhere", None, b"", 401, "token_missing"),
            ("GET", "/uix", {"exp": 1}, b"", 401, "token_expired"),
            ("GET", "/admin", {}, b"", 403, "scope_missing"),
            ("POST", "/predict", {}, b"x" * 3000, 413, "body_too_large"),
            ("GET", "/uix?" + "x" * 2000, {}, b"", 414, "uri_too_long"),
            ("POST", "/predict", {}, b"[" + b"1," * 200 + b"1]", 422, "batch_exceeds_quota"),
            ("POST", "/own", {}, b'{"instances": [%s0]}' % (b"0," * 200), 422,
             "batch_exceeds_quota"),
        ],
        ids=["path", "token", "scope", "body", "uri", "rows", "handler"],
    )  # fmt: skip
    def test_all_errors_are_its_own(
        self, own: Client, method: str, path: str, claims: Any, body: bytes, status: int, code: str
    ) -> None:
        """Whatever is refused, and wherever, speaks as the app does."""
        headers = () if claims is None else bearer("own errors", **claims)
        answer = own.ask(method, path, headers=[*headers, JSON], body=body)

        assert (answer.status, answer.json["error"]["code"]) == (status, code)

    def test_head_has_no_body_of_its_own(self, own: Client) -> None:
        """A refused HEAD has the headers alone."""
        answer = own.ask("HEAD", "/uix")

        assert (answer.status, answer.body) == (401, b"")
        assert answer.header("content-type") == "application/json"

    @pytest.mark.parametrize("wrong", ["raises", "text", "no json", "none"])
    def test_errors_that_fail(
        self, own: Client, wrong: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the app's function fails, the problem document is sent."""
        monkeypatch.setattr(OWN_ERRORS, "wrong", wrong)
        answer = own.ask("GET", "/uix")

        assert (answer.status, answer.code) == (401, "token_missing")
        assert answer.header("content-length") == str(len(answer.body))


class ObservedContract:
    """What is only observed; a subclass provides the fixtures `observing` and `bare`."""

    @pytest.mark.parametrize(
        ("method", "path", "header", "body"),
        [
            ("GET", "/uix", None, b""),
            ("GET", "/uix", "Bearer junk", b""),
            ("GET", "/uix", f"Bearer {token(exp=1)}", b""),
            ("GET", "/nowhere", None, b""),
            ("GET", "/uix?" + "x" * 2000, None, b""),
            ("POST", "/predict", None, b'{"instances": [[1, 2]]}'),
            ("POST", "/predict", None, b"{"),
            ("POST", "/predict", None, b'{"instances": [%s[1]]}' % (b"[1]," * 150)),
            ("POST", "/predict", None, b'{"instances": [%s[1]]}' % (b"[1]," * 900)),
            ("POST", "/predict", None, [b'{"instances": [', b"[1]," * 900, b"[1]]}"]),
        ],
        ids=["no token", "junk", "expired", "no route", "uri", "model", "no JSON", "rows", "body",
             "chunked"],
    )  # fmt: skip
    def test_answers_are_as_without_the_kit(
        self, observing: Client, bare: Client, method: str, path: str, header: Any, body: Any
    ) -> None:
        """Where the kit only observes, whatever it would refuse is answered as ever."""
        headers = [JSON, *([("Authorization", header)] if header else [])]
        answer = observing.ask(method, path, headers=headers, body=body)

        expected = bare.ask(method, path, headers=headers, body=body)
        assert (answer.status, answer.body) == (expected.status, expected.body)
        assert _of_the_app(answer) == _of_the_app(expected)

    @pytest.mark.parametrize(
        ("method", "path", "claims", "rows", "code", "model"),
        [
            ("GET", "/uix", None, 0, "token_missing", ""),
            ("GET", "/uix", {"exp": 1}, 0, "token_expired", ""),
            ("GET", "/uix", {"scope": "other"}, 0, "scope_missing", ""),
            ("GET", "/admin", {}, 0, "scope_missing", ""),
            ("GET", "/uix?" + "x" * 2000, {}, 0, "uri_too_long", ""),
            ("POST", "/predict", {}, 150, "batch_exceeds_quota", "sum"),
            ("POST", "/predict", {}, 900, "body_too_large", "sum"),
            ("POST", "/predict", None, 3, "token_missing", "sum"),
            ("POST", "/own", {}, 150, "batch_exceeds_quota", "own"),
        ],
    )
    def test_what_would_be_refused_is_counted(
        self, observing: Client, method: str, path: str, claims: Any, rows: int, code: str,
        model: str,
    ) -> None:  # fmt: skip
        """Each request that would be refused counts once, and none as refused."""
        before = metric(observing, "mlguard_observed_refusals_total", model=model, code=code)
        headers = () if claims is None else bearer("watched", **claims)
        body = json.dumps({"instances": [[1]] * rows}).encode() if rows else b""
        answer = observing.ask(method, path, headers=[*headers, JSON], body=body)

        assert answer.status == 200
        after = metric(observing, "mlguard_observed_refusals_total", model=model, code=code)
        assert after - before == 1
        names = {(name, dict(labels).get("outcome", "ok")) for name, labels in samples(observing)}
        assert "mlguard_quota_refused_total" not in {name for name, _ in names}
        assert {outcome for name, outcome in names if name == "mlguard_auth_total"} <= {"ok"}

    def test_windows_are_counted_as_ever(self, observing: Client) -> None:
        """Of 40 requests, those beyond the window of 30 are told."""
        labels = {"model": "", "code": "rate_exceeded"}
        before = metric(observing, "mlguard_observed_refusals_total", **labels)
        answers = [observing.ask("GET", "/uix", headers=bearer("many")) for _ in range(40)]

        assert {answer.status for answer in answers} == {200}
        assert {answer.header("ratelimit") for answer in answers} == {None}
        assert metric(observing, "mlguard_observed_refusals_total", **labels) - before == 10

    def test_handlers_are_stopped_by_nothing(self, observing: Client) -> None:
        """guard.limit, guard.requires and guard.inference tell, and let pass."""
        limited = [observing.ask("GET", "/limited", headers=bearer("lim")) for _ in range(3)]
        own = [
            observing.ask("POST", "/own", headers=[*bearer("own"), JSON],
                          body=json.dumps({"instances": [[1]] * 60}).encode())
            for _ in range(3)
        ]  # fmt: skip

        assert [answer.status for answer in (*limited, *own)] == [200] * 6
        assert own[2].json == {"predictions": [1] * 60}

    def test_answers_are_not_withheld(self, observing: Client) -> None:
        """What is answered beyond the quota leaves all the same, and its rows are seen."""
        labels = {"model": "sum", "version": "1"}
        before = metric(observing, "mlguard_inference_rows_total", **labels)
        headers = [*bearer("withheld", exp=1), JSON]
        body = json.dumps({"instances": [[1]] * 120}).encode()
        answer = observing.ask("POST", "/predict", headers=headers, body=body)

        assert len(answer.json["predictions"]) == 120
        assert metric(observing, "mlguard_inference_rows_total", **labels) - before == 120


def _of_the_app(answer: Answer) -> list[tuple[str, str]]:
    """List the headers that no server adds."""
    return sorted((n, v) for n, v in answer.headers if n not in ("connection", "date", "server"))


class OwnErrors:
    """Bodies as an OpenAI client reads them; `wrong` makes the next one fail."""

    def __init__(self) -> None:
        self.wrong = ""

    def __call__(self, refusal: Refusal) -> Any:
        if self.wrong:
            return self._fail()
        return {"error": {"message": refusal.title, "code": refusal.code}}

    def _fail(self) -> Any:
        if self.wrong == "raises":
            raise LookupError
        return {"text": "no body", "no json": {"x": object()}, "none": None}[self.wrong]


OWN_ERRORS = OwnErrors()
