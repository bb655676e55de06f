"""Which of the models that share a route does a request ask? Without a framework."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mlguard.bodies import texts_at
from mlguard.errors import InvalidSettings, UnknownModel
from mlguard.guard import Guard
from mlguard.guard.decision import LARGE
from mlguard.guard.selector import Selector
from mlguard.messages import Call
from mlguard.routes.coverage import Coverage
from mlguard.routes.placement import check_routes
from mlguard.routes.route import Route
from mlguard.settings import load
from tests.core.guards import (
    SETTINGS,
    Drive,
    answered,
    call,
    guarded,
    in_a_thread,
    metric,
    on_a_loop,
    sent,
)

BY_BODY = {"route": "/ask", "inputs": "rows", "model_from": "body:meta.model"}
TWO = [
    {"name": "left", "route": "/both", "inputs": "left", "outputs": "left"},
    {"name": "right", "route": "/both", "inputs": "right", "outputs": "right"},
]


def several(*models: dict[str, Any], quotas: Any = None, **parts: Any) -> Guard:
    """A guard of models that share routes."""
    quotas = quotas or SETTINGS["quotas"]
    source = {**SETTINGS, "service": {}, "models": list(models), "quotas": quotas}
    return guarded(source, **parts)


def both(left: int, right: int) -> bytes:
    return json.dumps({"left": [1] * left, "right": [1] * right}).encode()


class TestTexts:
    @pytest.mark.parametrize(
        ("body", "texts"),
        [
            (b"", []),
            (b" \n", []),
            (b'{"meta": {"model": "a"}}', ["a"]),
            (b'{"meta": {"model": 3}}', ["3"]),
            (b'{"meta": {"model": null}}', []),
            (b'{"meta": "a"}', []),
            (b'["a"]', []),
            (b'{"meta": {"model": "a", "model": "b"}}', ["a", "b"]),
            (b'{"meta": {"model": "a"}, "meta": {"model": "b"}}', ["a", "b"]),
            (b'{"meta": {"model": "a", "mod\\u0065l": "b"}}', ["a", "b"]),
            (b'{"meta": {"model": NaN}}', ["nan"]),
            (b"{", None),
            (b"\x00\x01", None),
            (b"[" * 100_000, None),
        ],
    )
    def test_at(self, body: bytes, texts: list[str] | None) -> None:
        """All that a reader may take for the text is listed; None where nobody can tell."""
        assert texts_at(body, ["meta", "model"]) == texts

    @pytest.mark.parametrize(
        ("place", "body"),
        [("/a.b/model", b'{"a.b": {"model": "x"}}'), ("0.model", b'[{"model": "x"}]')],
        ids=["a key with a dot", "in a list"],
    )
    def test_places(self, place: str, body: bytes) -> None:
        """A place is spelt as those of rows are."""
        said = Selector.of(f"body:{place}")

        assert said is not None
        assert said.by(Call("POST"), {}, body) == ["x"]

    def test_no_text(self) -> None:
        """What is no text and no number is a name that nobody has."""
        assert texts_at(b'{"meta": {"model": ["a"]}}', ["meta", "model"]) == ["\x00"]


class TestLate:
    @pytest.mark.parametrize("decide", [in_a_thread, on_a_loop])
    @pytest.mark.parametrize("size", [0, LARGE], ids=["small", "large"])
    def test_by_the_body(self, decide: Drive, size: int) -> None:
        """The model that a body names is asked, wherever its rows are read."""
        guard = several({"name": "a", **BY_BODY}, {"name": "b", **BY_BODY})
        exchange = guard.open(call())
        body = {"meta": {"model": "b"}, "rows": [[1, 2]] * 3, "padding": "x" * size}

        assert decide(exchange, "/ask", json.dumps(body).encode()) is None
        answered(exchange)
        assert metric(guard, "mlguard_inference_rows_total", model="b") == 3
        assert metric(guard, "mlguard_inference_rows_total") == 3

    def test_whoever_sees_most(self) -> None:
        """What no setting names is read by all layouts of the route, and the largest counts."""
        wide = {**BY_BODY, "inputs": "wide"}
        guard = several({"name": "a", **BY_BODY}, {"name": "b", **wide})
        exchange = guard.open(call())
        body = {"meta": {"model": "c"}, "rows": [[1]], "wide": [[1]] * 7}

        assert in_a_thread(exchange, "/ask", json.dumps(body).encode()) is None
        answered(exchange)
        assert metric(guard, "mlguard_inference_rows_total", model="_other") == 7

    def test_a_version_in_the_body(self) -> None:
        """A version is told by the settings' list alone."""
        versions = {"version_from": "body:version", "versions": ["1", "2"]}
        guard = several({"name": "a", "route": "/ask", "inputs": "rows", **versions})
        for version in ("2", "3", None):
            exchange = guard.open(call())
            body = json.dumps({"rows": [[1]], "version": version}).encode()
            assert in_a_thread(exchange, "/ask", body) is None
            answered(exchange)

        for version in ("1", "2", "_other"):
            assert metric(guard, "mlguard_inference_rows_total", version=version) == 1


class TestEarly:
    def test_what_stands_too_far_away(self) -> None:
        """A query of which only the beginning was kept may name another model at its end."""
        by_query = {"route": "/ask", "inputs": "rows", "model_from": "query:model"}
        guard = several({"name": "a", **by_query}, {"name": "b", **by_query})
        query = "model=a&" + "x" * 4088
        exchange = guard.open(call(query=query, uri=len("/" + query) + 8))
        deny = in_a_thread(exchange, "/ask", b"{}")

        assert deny is not None
        assert (deny.status, deny.more["limit"]) == (414, 4096)

    @pytest.mark.parametrize(
        ("said", "query", "code"),
        [
            ("query:model", "model=a", None),
            ("query:model", "model=b", "scope_missing"),
            ("query:model", "", "scope_missing"),
            ("body:model", "", "scope_missing"),
        ],
    )
    def test_scopes_without_a_body(self, said: str, query: str, code: str | None) -> None:
        """A request that asks no model takes the scopes of the one that it names, or of all."""
        named = {"route": "/ask", "inputs": "rows", "model_from": said}
        guard = several({"name": "a", **named}, {"name": "b", "scopes": ["b"], **named})
        exchange = guard.open(call(method="GET", has_body=False, query=query))
        deny = in_a_thread(exchange, "/ask", b"")

        assert (deny and deny.code) == code

    def test_on_a_public_route(self) -> None:
        """A public route's models are told apart for the client's network, too."""
        by_query = {"route": "/ask", "inputs": "rows", "model_from": "query:model"}
        models = [{"name": "a", **by_query}, {"name": "b", **by_query}]
        auth = {**SETTINGS["auth"], "public": ["/ask"]}
        guard = guarded({**SETTINGS, "models": models, "auth": auth})
        exchange = guard.open(call(None, query="model=b"))

        assert in_a_thread(exchange, "/ask", b'{"rows": [[1], [2]]}') is None
        answered(exchange)
        assert metric(guard, "mlguard_inference_rows_total", model="b") == 2

    def test_exempt_callers(self) -> None:
        """Who is not counted asks several models at once for nothing."""
        quotas = {"rows": ["1/hour"], "exempt": {"subjects": ["alice"]}}
        guard = several(*TWO, quotas=quotas)
        exchange = guard.open(call())

        assert in_a_thread(exchange, "/both", both(5, 5)) is None
        answered(exchange)
        assert metric(guard, "mlguard_inference_rows_total") == 10


class TestTogether:
    def test_spans(self) -> None:
        """Each model of a body has a span of its own, below the request's."""
        provider, exporter = TracerProvider(), InMemorySpanExporter()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        source = {**SETTINGS, "models": TWO, "tracing": {"endpoint": "console"}}
        guard = guarded(source, provider)
        exchange = guard.open(call())
        with provider.get_tracer("test").start_as_current_span("POST /both"):
            assert in_a_thread(exchange, "/both", both(2, 3)) is None
            answered(exchange, raw=json.dumps({"left": [1, 1], "right": [1, 1, 1]}).encode())

        spans = {span.name: span for span in exporter.get_finished_spans()}
        parent = spans["POST /both"].context
        for name, rows in (("left", 2), ("right", 3)):
            inference = spans[f"inference {name}"]
            assert inference.parent is not None
            assert inference.parent.span_id == (parent and parent.span_id)
            assert (inference.attributes or {})["mlguard.inference.rows"] == rows

    def test_a_window_of_one_refuses_both(self) -> None:
        """What one model has no rows left for is charged to none of them."""
        quotas = {"rows": ["10/hour"], "models": {"right": {"rows": ["2/hour"]}}}
        guard = several(*TWO, quotas=quotas)
        exchange = guard.open(call())
        deny = in_a_thread(exchange, "/both", both(10, 2))
        assert deny is None
        answered(exchange, 400)  # refunds both
        exchange = guard.open(call())

        assert in_a_thread(exchange, "/both", both(5, 2)) is None
        answered(exchange)
        exchange = guard.open(call())
        refused = in_a_thread(exchange, "/both", both(5, 1))
        assert refused is not None
        assert refused.code == "quota_exceeded"
        sent(exchange, refused.status)
        exchange = guard.open(call())
        assert in_a_thread(exchange, "/both", json.dumps({"left": [1] * 5}).encode()) is None

    def test_what_is_withheld_of_one_is_paid_by_none(self) -> None:
        """An answer that one model cannot be paid for leaves the other's rows as they were."""
        quotas = {"rows": ["10/hour"], "models": {"right": {"rows": ["2/hour"]}}}
        guard = several(*TWO, quotas=quotas)
        exchange = guard.open(call())
        assert in_a_thread(exchange, "/both", both(1, 1)) is None
        raw = json.dumps({"left": [1] * 6, "right": [1] * 6}).encode()
        withheld = answered(exchange, raw=raw)

        assert withheld is not None
        assert withheld.code == "answer_withheld"
        exchange = guard.open(call())
        assert in_a_thread(exchange, "/both", json.dumps({"left": [1] * 9}).encode()) is None

    def test_requests_of_one_model(self) -> None:
        """A window of requests that one model has alone is met by its requests alone."""
        quotas = {"rows": ["100/hour"], "models": {"right": {"requests": ["1/hour"]}}}
        guard = several(*TWO, quotas=quotas)

        codes = []
        for body in (both(1, 1), b'{"left": [1]}', both(1, 1)):
            exchange = guard.open(call())
            deny = in_a_thread(exchange, "/both", body)
            codes.append(deny and deny.code)
            sent(exchange, 200)
        assert codes == [None, None, "rate_exceeded"]


class TestHandlers:
    def test_unknown_names(self) -> None:
        """A name that no entry takes is an error that names the known ones."""
        guard = several({"name": "iris"}, {"name": "mnist"})

        with pytest.raises(UnknownModel, match="valid: iris, mnist"):
            guard.inference("cifar", 1)
        with pytest.raises(UnknownModel, match="did you mean 'iris'"):
            guard.inference("Iris", 1)

    @pytest.mark.parametrize("name", ["a", "A", "a-2024", ""])
    def test_as_requests_call_it(self, name: str) -> None:
        """A handler may pass on what its request says."""
        guard = several({"name": "a", "aliases": ["a-2024", ""], **BY_BODY})

        assert guard.inference(name, 1).inference.model == "a"


class TestSettings:
    def test_the_rest_has_limits_of_its_own(self) -> None:
        """`_other` may be named in quotas where requests name their models."""
        quotas = {"rows": ["10/hour"], "models": {"_other": {"rows": ["2/hour"]}}}

        assert load({"models": [{"name": "a", **BY_BODY}], "quotas": quotas}).quotas
        with pytest.raises(InvalidSettings, match=r"quotas.models._other: no model has that name"):
            load({"models": [{"name": "a"}], "quotas": quotas})

    @pytest.mark.parametrize(
        ("template", "problem"),
        [
            ("/models/{name}/x", None),
            ("/models/{name:path}/x", None),
            ("/models/<name>/x", None),
            ("/models/<string(length=2):name>/x", None),
            ("/models/{nam}/x", "has no parameter 'name', where `model_from` looks; did you"),
        ],
    )
    def test_parameters(self, template: str, problem: str | None) -> None:
        """A parameter that a route lacks is a mistake at the start."""
        model = {"name": "a", "route": template, "inputs": "x", "model_from": "path:name"}
        settings, routes = load({"models": [model]}), [Route(("POST",), template)]

        if problem is None:
            check_routes(settings, routes)
            return
        with pytest.raises(InvalidSettings) as caught:
            check_routes(settings, routes)
        assert problem in str(caught.value)

    def test_coverage(self) -> None:
        """What covers a route names all its models, and what each may be asked."""
        models = [{"name": "a", **BY_BODY}, {"name": "b", **BY_BODY}]
        quotas = {"rows": ["10/hour"], "models": {"b": {"rows": ["2/hour"]}}}
        settings = load({"models": models, "quotas": quotas})
        (line,) = Coverage(settings, [Route(("POST",), "/ask")]).lines()

        assert line == (
            "POST /ask: public; 10/hour rows of a, 2/hour rows of b, 10/hour rows of _other; "
            "model a or b or _other by body:meta.model"
        )
