"""Is what only drift checks need installed?"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from mlguard.errors import MissingExtra

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str) -> ModuleType:
    """Import a package of the drift extra.

    Raises:
        MissingExtra: It is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        message = f"a reference needs {module}: pip install 'mlguard-core[drift]'"
        raise MissingExtra(message) from error
