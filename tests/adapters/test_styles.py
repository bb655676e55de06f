"""Are services that people have guarded by settings alone, without a byte that changes?"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from starlette.testclient import TestClient

import mlguard_fastapi
import mlguard_flask
from mlguard.reference import Reference
from mlguard.testing import GuardTester

OURS = ("ratelimit", "mlguard-")
"""How the headers begin that a guard adds."""


class Ask(NamedTuple):
    """A request, and how many rows it is.

    Attributes:
        path: Where it goes.
        rows: That are answered.
        sent: What the test client takes.
        method: The HTTP method.
    """

    path: str
    rows: int = 0
    sent: dict[str, Any] = {}  # noqa: RUF012 - never written to
    method: str = "POST"


class Style(NamedTuple):
    """A service, what guards it and what is asked of it.

    Attributes:
        module: Below tests.apps.styles.
        models: The entries of `[[models]]`.
        asks: Requests.
        training: By feature, what the reference of the first model is made of; none has none.
        sampled: The rows that the drift check gets.
    """

    module: str
    models: list[dict[str, Any]]
    asks: list[Ask]
    training: dict[str, list[float]] = {}  # noqa: RUF012 - never written to
    sampled: list[list[Any]] = []  # noqa: RUF012 - never written to


FLOWER = {"sepal_length": 5.1, "sepal_width": 3.5, "petal_length": 1.4, "petal_width": 0.2}
TALK = [{"role": "system", "content": "be short"}, {"role": "user", "content": "one two three"}]
NUMBERS = [float(n) for n in range(300)]

STYLES = [
    Style(
        "template_fastapi",
        [{"name": "iris", "route": "/api/v1/predict", "inputs": "", "shape": "row",
          "outputs": "label"}],
        [
            Ask("/health", method="GET"),
            Ask("/openapi.json", method="GET"),
            Ask("/api/v1/predict", 1, {"json": FLOWER}),
            Ask("/api/v1/predict", 1, {"json": dict(reversed(FLOWER.items()))}),
            Ask("/api/v1/predict", 0, {"json": FLOWER | {"petal_width": -1}}),
            Ask("/api/v1/predict", 0, {"json": [FLOWER]}),
        ],
        dict.fromkeys(FLOWER, NUMBERS),
        [[5.1, 3.5, 1.4, 0.2]] * 2,
    ),
    Style(
        "chat_fastapi",
        [{"name": name, "route": "/v1/chat/completions", "inputs": "", "shape": "row",
          "model_from": "body:model"} for name in ("small", "large")],
        [
            Ask("/v1/models", method="GET"),
            Ask("/v1/chat/completions", 1, {"json": {"model": "small", "messages": TALK}}),
            Ask("/v1/chat/completions", 1,
                {"json": {"model": "large", "messages": TALK, "stream": True}}),
            Ask("/v1/chat/completions", 0, {"json": {"model": "huge", "messages": TALK}}),
            Ask("/v1/chat/completions", 0, {"json": {"model": "small"}}),
        ],
    ),
    Style(
        "server_fastapi",
        [{"name": name, "route": "/models/{name}/predict", "inputs": "inputs",
          "outputs": "outputs", "model_from": "path:name"} for name in ("sum", "largest")],
        [
            Ask("/models", method="GET"),
            Ask("/models/sum", method="GET"),
            Ask("/models/sum/predict", 2, {"json": {"inputs": [[1, 2], [1, 2]]}}),
            Ask("/models/largest/predict", 3, {"json": {"inputs": [[1, 2], [3, 4], [5, 6]]}}),
            Ask("/models/other/predict", 0, {"json": {"inputs": [[1, 2]]}}),
            Ask("/models/sum/predict", 0, {"json": {"rows": []}}),
        ],
        {"a": NUMBERS, "b": NUMBERS},
        [[1, 2]],
    ),
    Style(
        "restx_flask",
        [{"name": "loans", "route": "/loans/decide", "inputs": "", "outputs": ""}],
        [
            Ask("/swagger.json", method="GET"),
            Ask("/loans/decide", 2, {"json": [{"age": 30, "income": 70_000.0}] * 2}),
            Ask("/loans/decide", 1, {"json": [{"income": 70_000.0, "age": 30}]}),
            Ask("/loans/decide", 0, {"json": [{"age": "old"}]}),
        ],
        {"age": NUMBERS, "income": NUMBERS},
        [[30, 70_000.0]] * 2,
    ),
    Style(
        "form_flask",
        [{"name": "houses", "route": "/houses/predict", "inputs": "form"}],
        [
            Ask("/houses/", method="GET"),
            Ask("/houses/predict", 1, {"data": {"rooms": "4", "area": "85.5"}}),
            Ask("/houses/predict", 0, {"data": {"rooms": "many"}}),
        ],
        {"rooms": NUMBERS, "area": NUMBERS},
        [[4, 85.5]],
    ),
    Style(
        "upload_flask",
        [{"name": "ocr", "route": "/read", "inputs": "files", "outputs": ""}],
        [
            Ask("/read", 1, {"data": {"picture": (io.BytesIO, b"one", "one.png")}}),
            Ask("/read", 2, {"data": {"picture": [(io.BytesIO, b"one", "one.png"),
                                                  (io.BytesIO, b"two", "two.png")]}}),
            Ask("/read", 0, {"data": {"other": "x"}}),
        ],
    ),
]  # fmt: skip


def made(module: str) -> Any:
    """Make a service as its server would: imported anew, or by its factory."""
    name = f"tests.apps.styles.{module}"
    sys.modules.pop(name, None)
    found = importlib.import_module(name)
    return found.create_app() if hasattr(found, "create_app") else found.app


def settings(style: Style, folder: Path) -> dict[str, Any]:
    models = [dict(model) for model in style.models]
    if style.training:
        Reference.build(style.training).save(folder / "reference.parquet")
        models[0]["reference"] = str(folder / "reference.parquet")
    quotas = {"requests": ["1000/minute"], "rows": ["1000/minute"]}
    return {"models": models, "quotas": quotas, "service": {"folder": str(folder)}}


Client = Callable[[Ask], tuple[int, list[tuple[str, str]], bytes]]


def client_of(app: Any, stack: ExitStack) -> Client:
    """Return what asks an app, and gives status, headers without the kit's, and body."""
    client: Any = app.test_client() if isinstance(app, Flask) else None
    if client is None:
        client = stack.enter_context(TestClient(app, raise_server_exceptions=False))

    def ask(request: Ask) -> tuple[int, list[tuple[str, str]], bytes]:
        opened = client.open if isinstance(app, Flask) else client.request
        target = (request.path,) if isinstance(app, Flask) else (request.method, request.path)
        options = {"method": request.method} if isinstance(app, Flask) else {}
        answer = opened(*target, **options, **{k: _fresh(v) for k, v in request.sent.items()})
        body = answer.data if isinstance(app, Flask) else answer.content
        heads = [(k.lower(), v) for k, v in answer.headers.items()]
        return answer.status_code, [h for h in heads if not h[0].startswith(OURS)], body

    return ask


def _fresh(sent: Any) -> Any:
    """Open files that are sent anew for each request."""
    if isinstance(sent, tuple) and callable(sent[0]):
        return (sent[0](sent[1]), *sent[2:])
    if isinstance(sent, dict):
        return {key: _fresh(value) for key, value in sent.items()}
    return [_fresh(value) for value in sent] if isinstance(sent, list) else sent


@pytest.fixture(params=STYLES, ids=lambda style: style.module)
def style(request: pytest.FixtureRequest) -> Style:
    return request.param


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_answers_are_the_same_and_rows_are_exact(
    style: Style, tmp_path: Path, stack: ExitStack
) -> None:
    """Every answer is what it is without a guard, byte for byte; rows and samples are right."""
    bare, app = made(style.module), made(style.module)
    adapter = mlguard_flask if isinstance(app, Flask) else mlguard_fastapi
    tester = GuardTester(adapter.MLGuard(app, settings(style, tmp_path)))
    without, guarded = client_of(bare, stack), client_of(app, stack)

    told = [(ask.path, guarded(ask)) for ask in style.asks]

    assert told == [(ask.path, without(ask)) for ask in style.asks]
    names = [model["name"] for model in style.models]
    rows = [tester.metric("mlguard_inference_rows_total", model=n, version="1") for n in names]
    assert sum(rows) == sum(ask.rows for ask in style.asks)
    assert [row for _, _, row in tester.sampled] == style.sampled
    unread = [
        tester.metric("mlguard_rows_unread_total", model=name, side=side)
        for name in names
        for side in ("inputs", "outputs")
    ]
    assert unread == [0.0] * len(unread)
