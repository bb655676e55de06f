"""Which app does a real server serve? The one that the environment names."""

from __future__ import annotations

import json
import os
from types import ModuleType
from typing import Any

from benchmarks.contestants import BARE, HAND, OTEL

VARIABLE = "BENCHMARK_SERVED"


def fastapi() -> Any:
    """Make the FastAPI app."""
    from benchmarks import fastapi_stacks

    return _app(fastapi_stacks)


def flask() -> Any:
    """Make the Flask app."""
    from benchmarks import flask_stacks

    return _app(flask_stacks)


def _app(stacks: ModuleType) -> Any:
    told = json.loads(os.environ[VARIABLE])
    if told["stack"] == BARE:
        return stacks.bare().app
    if told["stack"] == OTEL:
        return stacks.otel(told["endpoint"]).app
    if told["stack"] == HAND:
        return stacks.assembled(told["endpoint"]).app
    return stacks.guarded(told["settings"]).app
