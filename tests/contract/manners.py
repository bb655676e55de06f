"""What must be true on every framework of an app's own manners? Public pages, browsers, errors."""

from __future__ import annotations

from typing import Any

import pytest

from mlguard.guard import Refusal
from tests.contract.client import SETTINGS, Client, bearer

JSON = ("Content-Type", "application/json")


def manners_settings(**service: Any) -> dict[str, Any]:
    """All below one path is public."""
    model = {"inputs": "instances", "outputs": "predictions"}
    return {
        "service": {**SETTINGS["service"], "max_body": 2000, **service},
        "models": [
            {"name": "sum", "route": "/predict", **model},
            {"name": "below", "route": "/ui/predict", **model},
            {"name": "own"},
        ],
        "auth": {**SETTINGS["auth"], "public": ["/ui/*"]},
        "quotas": {"requests": ["30/hour"], "rows": ["100/hour"]},
    }  # fmt: skip


class MannersContract:
    """Black-box tests; a subclass provides the fixtures `client` and `own`."""

    # -- public below a path -----------------------------------------------------------------------

    @pytest.mark.parametrize(
        "path", ["/ui/page", "/ui/app/page", "/ui/plain/", "/ui%2fpage", "/ui/%70age"]
    )
    def test_all_below_is_public(self, client: Client, path: str) -> None:
        """Routes below the path, and what is mounted there, need no token."""
        assert client.ask("GET", path).status == 200

    @pytest.mark.parametrize(
        "path",
        [
            "/uix",
            "/UI/page",
            "//ui/page",
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

    # -- the app's own errors ----------------------------------------------------------------------

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
            ("GET", "/uix?" + "x" * 9000, {}, b"", 414, "uri_too_long"),
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
