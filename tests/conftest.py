"""What holds for every test?"""

import os

import pytest

# OpenTelemetry reads this once per process, and some tests instrument apps before the kit does.
os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")

pytest.register_assert_rewrite("tests.contract.contract", "tests.servers")
