"""What holds for every test of an adapter?"""

import pytest


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWIN_SECRET", "x" * 40)
