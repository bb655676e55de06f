"""What must be true on every framework of routes that several models share?"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.contract.client import SETTINGS, Client, bearer, samples

ROW = [1.0, 2.0]
JSON = ("Content-Type", "application/json")


def model_settings(*, path_route: str) -> dict[str, Any]:
    """Models that requests name in each of the three ways, and two of one body.

    Args:
        path_route: The route with the model's name in it, as the framework spells it.
    """
    named = {"inputs": "instances", "outputs": "predictions", "features": ["a", "b"]}
    by_path = {**named, "route": path_route, "model_from": "path:name"}
    by_query = {**named, "route": "/ask", "model_from": "query:model"}
    by_body = {**named, "routes": ["/chat", "/v1/chat"], "model_from": "body:model"}
    return {
        "service": SETTINGS["service"],
        "models": [
            {"name": "fast", **by_path, "version_from": "query:version", "versions": ["1", "2"]},
            {"name": "slow", **by_path, "scopes": ["slow"]},
            {"name": "asked", **by_query, "aliases": [""]},
            {"name": "other-asked", **by_query},
            {"name": "small", **by_body, "aliases": ["small-2024", "lab/small"]},
            {"name": "large", **by_body},
            {"name": "*", **by_body, "version": "any"},
            {"name": "left", "route": "/both", "inputs": "left", "outputs": "left"},
            {"name": "right", "route": "/both", "inputs": "right", "outputs": "right",
             "scopes": ["right"]},
        ],
        "auth": {**SETTINGS["auth"], "public": []},
        "quotas": {
            "requests": ["50/hour"],
            "rows": ["100/hour"],
            "models": {"slow": {"rows": ["5/hour"]}, "large": {"rows": ["3/hour"]},
                       "right": {"rows": ["10/hour"]}, "*": {"rows": ["20/hour"]}},
        },
    }  # fmt: skip


def ask(client: Client, path: str, subject: str, rows: int = 1, **more: Any) -> Any:
    """Ask for so many rows, in a body that says more."""
    scope = more.pop("scope", "predict slow right")
    body = more.pop("body", None) or json.dumps({"instances": [ROW] * rows, **more}).encode()
    return client.ask("POST", path, headers=[*bearer(subject, scope=scope), JSON], body=body)


def rows_of(client: Client) -> dict[tuple[str, str], float]:
    """Tell how many rows each model and version has answered."""
    found = {}
    for (name, labels), sample in samples(client).items():
        if name == "mlguard_inference_rows_total":
            of = dict(labels)
            found[of["model"], of["version"]] = sample.value
    return found


def asked(client: Client, *args: Any, **more: Any) -> tuple[int, dict[tuple[str, str], float]]:
    """Ask, and tell the status and which model has answered how many rows more."""
    before = rows_of(client)
    status = ask(client, *args, **more).status
    after = rows_of(client)
    return status, {k: n - before.get(k, 0) for k, n in after.items() if n != before.get(k, 0)}


class ModelContract:
    """Black-box tests; a subclass provides the fixture `client`."""

    # -- by a parameter of the path --------------------------------------------------------------

    @pytest.mark.parametrize(
        ("path", "model"),
        [
            ("/models/fast/predict", ("fast", "1")),
            ("/models/slow/predict", ("slow", "1")),
            ("/models/%66ast/predict", ("fast", "1")),
            ("/models/SLOW/predict", ("slow", "1")),
            ("/models/%20slow%20/predict", ("slow", "1")),
            ("/models/unheard-of/predict", ("_other", "_other")),
            (f"/models/{'x' * 3000}/predict", ("_other", "_other")),
            ("/models/fast/predict?version=2", ("fast", "2")),
            ("/models/fast/predict?version=9", ("fast", "_other")),
            ("/models/fast/predict?version=1&version=2", ("fast", "_other")),
        ],
    )
    def test_by_the_path(self, client: Client, path: str, model: tuple[str, str]) -> None:
        """A parameter of the path names the model; what no setting names is `_other`."""
        status, rows = asked(client, path, "path")

        assert (status, rows) == (200, {model: 1})

    def test_quotas_are_of_the_named_model(self, client: Client) -> None:
        """Rows that one model has spent are left of another, whatever the case of its name."""
        first = ask(client, "/models/slow/predict", "both models", 5)
        second = ask(client, "/models/Slow/predict", "both models")
        other = ask(client, "/models/fast/predict", "both models", 50)

        assert (first.status, second.status, other.status) == (200, 429, 200)
        assert second.code == "quota_exceeded"
        assert '"rows-3600";q=5' in (second.header("ratelimit-policy") or "")

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("/models/slow/predict", 403),
            ("/models/sLoW/predict", 403),
            ("/models/unheard-of/predict", 403),
            ("/models/fast/predict", 200),
        ],
    )
    def test_scopes_are_of_the_named_model(self, client: Client, path: str, status: int) -> None:
        """A name that nobody knows takes all that any model of the route does."""
        answer = ask(client, path, "scopes", scope="predict")

        assert answer.status == status

    def test_what_is_not_named_is_counted(self, client: Client) -> None:
        """Rows asked of names that no setting knows count together."""
        statuses = [
            ask(client, f"/models/made-up-{n}/predict", "made up", 10).status for n in range(4)
        ]

        assert statuses == [200, 200, 429, 429]

    def test_labels_are_bounded(self, client: Client) -> None:
        """What clients write is in no label."""
        for n in range(20):
            ask(client, f"/models/client-{n}/predict?version=v{n}", f"labels {n}", model=f"b{n}")
            ask(client, "/chat", f"labels {n}", model=f"body-{n}")

        assert "client-" not in str(samples(client))
        assert "body-" not in str(samples(client))

    # -- by the query ------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("query", "model"),
        [
            ("?model=asked", "asked"),
            ("?model=other-asked", "other-asked"),
            ("", "asked"),
            ("?model=", "asked"),
            ("?model=%6fther-asked", "other-asked"),
            ("?model=asked&model=asked", "asked"),
            ("?other=1&model=nobody", "_other"),
        ],
    )
    def test_by_the_query(self, client: Client, query: str, model: str) -> None:
        """A parameter of the query names the model; an empty alias is the one that is meant."""
        status, rows = asked(client, f"/ask{query}", "query")

        assert status == 200
        assert {name: n for (name, _), n in rows.items()} == {model: 1}

    @pytest.mark.parametrize(
        ("query", "status", "code"),
        [
            ("?model=asked&model=other-asked", 422, "model_unclear"),
            ("?model=nobody&model=asked", 422, "model_unclear"),
        ],
        ids=["two models", "somebody and nobody"],
    )
    def test_two_names_in_a_query(self, client: Client, query: str, status: int, code: str) -> None:
        """Who names two models is refused: handlers differ in which they take."""
        answer = ask(client, f"/ask{query}", "two names")

        assert (answer.status, answer.code) == (status, code)

    # -- by a key of the body ----------------------------------------------------------------------

    @pytest.mark.parametrize("path", ["/chat", "/v1/chat"])
    @pytest.mark.parametrize(
        ("name", "model"),
        [
            ("small", "small"),
            ("small-2024", "small"),
            ("lab/small", "small"),
            ("large", "large"),
            ("nobody", "_other"),
            (None, "_other"),
            (["small"], "_other"),
            (7, "_other"),
        ],
    )
    def test_by_the_body(self, client: Client, path: str, name: Any, model: str) -> None:
        """A key of the body names the model; an entry for all others takes the rest."""
        status, rows = asked(client, path, f"body {name} {path}", model=name)

        assert status == 200
        assert {found: n for (found, _), n in rows.items()} == {model: 1}

    @pytest.mark.parametrize(
        "body",
        [
            b'{"instances": [[1, 2]], "model": "small", "model": "large"}',
            b'{"model": "large", "instances": [[1, 2]], "m\\u006fdel": "small"}',
            b'{"model": "nobody", "instances": [[1, 2]], "model": "large"}',
            b"\xff\xfe not JSON",
            b"{'instances': [[1, 2]], 'model': 'large'}",
        ],
        ids=["twice", "escaped", "nobody", "no text", "no JSON"],
    )
    def test_two_names_in_a_body(self, client: Client, body: bytes) -> None:
        """A body that names two models, or cannot be read, reaches no handler."""
        answer = ask(client, "/chat", "two bodies", body=body)

        assert (answer.status, answer.code) == (422, "model_unclear")

    def test_odd_encodings_are_read(self, client: Client) -> None:
        """A body that is encoded in another way asks the model that it names."""
        body = json.dumps({"instances": [ROW] * 4, "model": "large"}).encode("utf-16")
        answer = ask(client, "/chat", "encoded", body=body)

        assert (answer.status, answer.code) == (422, "batch_exceeds_quota")

    def test_quotas_are_of_the_model_in_the_body(self, client: Client) -> None:
        """Each model's rows are spent by whoever names it, and those of the rest together."""
        asked = [
            ask(client, "/chat", "spender", rows, model=name).status
            for name, rows in [("large", 3), ("large", 1), ("LARGE", 1), ("small", 50),
                               ("x", 20), ("y", 1), ("small", 50)]
        ]  # fmt: skip

        assert asked == [200, 429, 429, 200, 200, 429, 200]

    # -- several in one body -----------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("body", "rows"),
        [
            ({"left": [1, 2, 3], "right": [4, 5]}, {"left": 3, "right": 2}),
            ({"left": [1, 2, 3]}, {"left": 3}),
            ({"right": [1, 2, 3]}, {"right": 3}),
        ],
    )
    def test_several_models_in_one_body(
        self, client: Client, body: dict[str, Any], rows: dict[str, float]
    ) -> None:
        """Each model whose rows are there is asked, and counted, once."""
        status, found = asked(client, "/both", f"both {rows}", body=json.dumps(body).encode())

        assert status == 200
        assert {name: n for (name, _), n in found.items()} == rows

    def test_all_or_none_is_charged(self, client: Client) -> None:
        """What one model's quota refuses costs nothing of another's; a request is one request."""

        def send(left: int, right: int) -> Any:
            body = json.dumps({"left": [1] * left, "right": [1] * right}).encode()
            return ask(client, "/both", "all or none", body=body)

        first, refused, last = send(60, 8), send(30, 3), send(40, 2)

        assert (first.status, refused.status, last.status) == (200, 429, 200)
        assert '"requests-3600";r=47' in (last.header("ratelimit") or "")

    def test_scopes_of_several_models(self, client: Client) -> None:
        """A body takes the scopes of the models that it asks."""
        left, both = (
            ask(client, "/both", "some scopes", scope="predict", body=json.dumps(body).encode())
            for body in ({"left": [1]}, {"left": [1], "right": [1]})
        )

        assert (left.status, both.status, both.code) == (200, 403, "scope_missing")

    def test_what_hides_is_charged(self, client: Client) -> None:
        """Where nobody can tell which models are asked, all of them are."""
        answer = ask(client, "/both", "hidden", body=b'{"rows": [' + b"1," * 20 + b"1]}")

        assert (answer.status, answer.code) == (422, "batch_exceeds_quota")

    # -- in a handler ------------------------------------------------------------------------------

    def test_unknown_names_in_a_handler(self, client: Client) -> None:
        """Where an entry takes the rest, guard.inference takes any name."""
        status, rows = asked(client, "/handler/whatever", "handler")

        assert (status, rows) == (200, {("_other", "any"): 1})
