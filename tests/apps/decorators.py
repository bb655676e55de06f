"""How do decorators go wrong?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def forgetful(function: Callable[[], Any]) -> Callable[[], Any]:
    """Wrap without functools.wraps: what the function was marked with is lost."""

    def forgotten() -> Any:
        return function()

    return forgotten
