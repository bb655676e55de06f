"""What must be true on every framework of an app's own manners? Public pages, browsers, errors."""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract.client import SETTINGS, Client

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
    """Black-box tests; a subclass provides the fixture `client`, with `guard`."""

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
