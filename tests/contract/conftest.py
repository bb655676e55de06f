"""What do the contract's tests on both frameworks begin with?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.contract import authentication


@pytest.fixture(scope="module")
def auth_settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return authentication.auth_settings(tmp_path_factory.mktemp("keys"))
