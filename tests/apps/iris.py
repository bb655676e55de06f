"""What do both guarded test services serve, and to whom?"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jose import jwt
from numpy.typing import NDArray

FEATURES = ("sepal_length", "sepal_width", "petal_length", "petal_width")
MEANS, DEVIATIONS = (5.8, 3.1, 3.8, 1.2), (0.8, 0.4, 1.2, 0.5)
SECRET = "a secret of the tests, longer than 32 bytes"
ISSUER, AUDIENCE = "https://login.example.com/", "iris-api"


def rows(count: int, *, seed: int, shift: float = 0.0) -> NDArray[np.float64]:
    """Draw flowers; `shift` lengthens their petals by so many standard deviations."""
    drawn = np.random.default_rng(seed).normal(MEANS, DEVIATIONS, (count, len(FEATURES)))
    drawn[:, 2] += shift * DEVIATIONS[2]
    return drawn.round(3)


def predict(instances: list[list[float]]) -> list[str]:
    """Tell the species by the length of the petals, in centimetres."""
    lengths = np.asarray(instances, float)[:, 2]
    return np.array(["setosa", "versicolor", "virginica"])[
        np.searchsorted([2.5, 4.9], lengths)
    ].tolist()


def save_reference(path: Path, *, count: int = 1000) -> Path:
    """Build the reference of the training data."""
    import pandas as pd

    from mlguard.reference import Reference

    Reference.build(pd.DataFrame(rows(count, seed=0), columns=list(FEATURES))).save(path)
    return path


def write_settings(folder: Path, *tables: str, model: str = "") -> Path:
    """Write a settings file that guards the model; `tables` are further TOML tables."""
    text = f"""
[service]
name = "iris-api"

[[models]]
name = "iris"
version = "3"
route = "/predict"
inputs = "instances"
outputs = "predictions"
features = [{", ".join(f'"{name}"' for name in FEATURES)}]
{model}

[auth]
issuer = "{ISSUER}"
audience = "{AUDIENCE}"
secret_env = "IRIS_SECRET"
algorithms = ["HS256"]
public = ["/health"]

[quotas]
requests = ["100000/minute"]
rows = ["10000000/hour"]
"""
    path = folder / "mlguard.toml"
    path.write_text("\n".join([text, *tables]))
    return path


def environment(settings: Path) -> dict[str, str]:
    """The variables that a guarded test service is started with."""
    return {"SETTINGS": str(settings), "IRIS_SECRET": SECRET}


def settings_path() -> str:
    """Where the service that is being started finds its settings."""
    return os.environ["SETTINGS"]


def bearer(**claims: Any) -> Mapping[str, str]:
    """The Authorization header of a caller; `claims` replace the good ones."""
    now = int(time.time())
    good = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 3600}
    token = jwt.encode({**good, **claims}, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}"}
