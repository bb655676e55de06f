"""Can a page of another origin use the examples, and read what the guard says?"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.datasets import load_diabetes
from sklearn.dummy import DummyClassifier
from starlette.testclient import TestClient

from examples.train import NAMES
from mlguard.app.front import GuardedApp
from mlguard.reference import Reference
from mlguard.testing import GuardTester

FEATURES = [NAMES.get(name, name) for name in load_diabetes().feature_names]
PAGE = "http://localhost:3000"
ASKED = {"instances": [[1.0] * len(FEATURES)]}


@pytest.fixture(params=["fastapi", "flask"])
def example(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Any, GuardTester]]:
    rows = np.random.default_rng(0).normal(size=(200, len(FEATURES)))
    model = DummyClassifier().fit(rows, ["low", "high"] * 100)
    joblib.dump(model, tmp_path / "model.joblib")
    named = dict(zip(FEATURES, rows.T.tolist(), strict=True))
    Reference.build(named).save(tmp_path / "reference.parquet")
    monkeypatch.setenv("MODEL", str(tmp_path / "model.joblib"))
    monkeypatch.setenv("JWT_SECRET", "0" * 64)
    monkeypatch.setenv("MLGUARD_MODELS__DIABETES__REFERENCE", str(tmp_path / "reference.parquet"))
    module = importlib.import_module(f"examples.{request.param}_service")
    guard: GuardedApp[Any] = module.guard
    tester = GuardTester(guard)
    app = module.app
    yield (TestClient(app) if request.param == "fastapi" else app.test_client()), tester
    del sys.modules[module.__name__]


def test_a_page_may_ask(example: Any) -> None:
    """Its preflight passes without a token, and it reads answers and refusals."""
    client, tester = example
    asks = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type",
    }

    preflight = client.options("/predict", headers=asks)
    answered = client.post("/predict", json=ASKED, headers={"Origin": PAGE, **tester.headers()})
    refused = client.post("/predict", json=ASKED, headers={"Origin": PAGE})

    assert preflight.status_code == 200
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    assert (answered.status_code, refused.status_code) == (200, 401)
    for answer in (answered, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "RateLimit-Policy" in answer.headers["Access-Control-Expose-Headers"]
