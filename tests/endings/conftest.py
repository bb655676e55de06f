"""What do the tests of endings share?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.endings.service import Collector


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector
