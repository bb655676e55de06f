"""What do the tests of both adapters share?"""

from __future__ import annotations

from typing import Any

from tests.contract.client import SETTINGS

ROWS = {"instances": [[1.0, 2.0]] * 3}


def settings(route: str | None = "/predict", **tables: Any) -> dict[str, Any]:
    """One model, guarded on this route without code, or in its handler where there is none."""
    model: dict[str, Any] = {"name": "sum", "inputs": "instances", "outputs": "predictions"}
    model |= {"route": route} if route else {}
    auth = {**SETTINGS["auth"], "public": []}
    return {**SETTINGS, "models": [model], "auth": auth, **tables}
