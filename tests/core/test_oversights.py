"""What was probably forgotten? Models that nothing asks, and routes that seem to ask one."""

from __future__ import annotations

from typing import Any

import pytest

from mlguard.routes.coverage import Coverage
from mlguard.routes.route import Route
from mlguard.settings import load

guard: Any = None


def asks_itself() -> None:
    guard.inference("in a handler", [])


def asks_nothing() -> None: ...


def classify_image() -> None: ...


def helper() -> None:
    guard.inference("in-a-helper", [])


def oversights(models: Any, *routes: Route) -> list[str]:
    return Coverage(load({"models": models}), routes).oversights()


def route(template: str, handler: Any = asks_nothing, **options: Any) -> Route:
    return Route(options.pop("methods", ("POST",)), template, handler=handler, **options)


class TestUnaskedModels:
    def test_nobody_names_it(self) -> None:
        """A model without a route that no code near a handler names is told."""
        name = "-".join(["never", "asked"])  # in one piece it would stand in this module
        (said,) = oversights([{"name": name}], route("/a"))

        assert said.startswith(f"models[{name}]: no route has it, and no handler seems to name")

    @pytest.mark.parametrize("name", ["in-a-helper", "_other"])
    def test_somebody_may(self, name: str) -> None:
        """One that code of a handler's module names, or that takes the rest, is not."""
        assert oversights([{"name": name}], route("/a")) == []

    def test_routes(self) -> None:
        """One with a route is asked."""
        model = {"name": "y" * 60, "route": "/a", "inputs": "x"}

        assert oversights([model], route("/a")) == []


class TestUnguardedModels:
    @pytest.mark.parametrize(
        ("found", "word"),
        [
            (route("/v1/predict"), "predict"),
            (route("/Invocations"), "Invocation"),
            (route("/v1/chat/completions"), "completion"),
            (route("/upload", classify_image), "classif"),
            (route("/upload", asks_itself), None),
            (route("/predict", asks_itself), None),
            (route("/predict", methods=("GET",)), None),
            (route("/predict", is_guarded=False), None),
            (route("/users"), None),
        ],
        ids=["predict", "case", "completions", "handler", "asks", "asks itself", "get", "mount",
             "other"],
    )  # fmt: skip
    def test_looks(self, found: Route, word: str | None) -> None:
        """A POST whose path or handler sounds like a model is told where none stands there."""
        said = oversights([], found)

        assert len(said) == (word is not None)
        assert all(f"looks like a model ({word!r})" in text for text in said)

    def test_guarded(self) -> None:
        """Where the settings place a model, nothing is missing."""
        model = {"name": "a", "route": "/predict", "inputs": "x"}

        assert oversights([model], route("/predict")) == []
