"""What holds for every test?"""

import os

import pytest

# OpenTelemetry reads this once per process, and some tests instrument apps before the kit does.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

pytest.register_assert_rewrite("tests.contract.contract", "tests.servers")


@pytest.fixture(autouse=True)
def _own_host(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a host of its own: workers of services of one name would meet."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("run")))
