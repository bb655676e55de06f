"""What does the benchmark's service serve, to whom, and under which settings?"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
BODY = json.dumps({"instances": [[5.9, 3.0, 4.2, 1.5]]}).encode()
ANSWER = {"predictions": ["versicolor"]}
SECRET = "a secret of the benchmark, longer than 32 bytes"
ISSUER, AUDIENCE = "https://login.example.com/", "iris-api"
UNREACHED = "1000000000/minute"
PARTS = ("model", "auth", "quotas", "tracing", "drift")

Tables = Mapping[str, Mapping[str, Any]]
"""Settings by table."""


def predict(instances: list[list[float]]) -> list[str]:
    """Tell the species by the length of the petals: the same trivial model for everybody."""
    return ["setosa" if row[2] < 2.5 else "versicolor" for row in instances]


def bearer(subject: str = "alice", **others: Any) -> str:
    """Sign a token that every contestant with authentication accepts."""
    from jose import jwt

    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": subject, "iat": now, "exp": now + 3600}
    # flask-jwt-extended wants these two.
    claims |= {"jti": "1", "type": "access", **others}
    return f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"


def settings(
    name: str,
    endpoint: str,
    *,
    parts: Iterable[str] = PARTS,
    reference: Path | None = None,
    changes: Tables | None = None,
) -> dict[str, Any]:
    """Write the kit's settings with some of its parts on.

    Args:
        name: Of the service.
        endpoint: Takes its spans.
        parts: Which are on.
        reference: What drift compares with.
        changes: What stands in the tables instead, or besides.
    """
    on = set(parts)
    tables: dict[str, Any] = {"service": {"name": name, "host_file": "drift" in on}}
    if "model" in on:
        tables["models"] = [_model(reference if "drift" in on else None)]
    if "auth" in on:
        tables["auth"] = _auth()
    if "quotas" in on:
        tables["quotas"] = {"requests": [UNREACHED], "rows": [UNREACHED]}
    if "tracing" in on:
        tables["tracing"] = {"endpoint": endpoint}
    if "drift" in on:
        tables["drift"] = {"window": 1000}
    for table, keys in (changes or {}).items():
        tables[table] = {**tables.get(table, {}), **keys}
    return tables


def _model(reference: Path | None) -> dict[str, Any]:
    model = {
        "name": "iris",
        "version": "3",
        "route": "/predict",
        "inputs": "instances",
        "outputs": "predictions",
        "features": list(FEATURES),
    }
    return model | ({"reference": str(reference)} if reference else {})


def _auth() -> dict[str, Any]:
    return {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "secret_env": "BENCHMARK_SECRET",
        "algorithms": ["HS256"],
    }


def build_reference(path: Path) -> Path:
    """Write what the inputs looked like in training.

    In a process of its own: pandas would make every garbage collection here slower.
    """
    import multiprocessing

    builder = multiprocessing.get_context("spawn").Process(target=_build, args=(path,))
    builder.start()
    builder.join()
    return path


def _build(path: Path) -> None:
    import numpy as np
    import pandas as pd

    from mlguard.reference import Reference

    rows = np.random.default_rng(0).normal((5.8, 3.1, 3.8, 1.2), (0.8, 0.4, 1.2, 0.5), (1000, 4))
    Reference.build(pd.DataFrame(rows, columns=list(FEATURES))).save(path)
