"""What if another library keeps OpenTelemetry's context, as ddtrace does?

OpenTelemetry's entry point `opentelemetry_context` lets it; its tokens are its own business.
"""

from __future__ import annotations

import contextvars
from typing import Any

from opentelemetry import context
from opentelemetry.context.context import Context


class Token:
    """A token that shows nothing."""

    __slots__ = ("_inner",)

    def __init__(self, inner: contextvars.Token[Context]) -> None:
        self._inner = inner


class Foreign:
    """A runtime context with such tokens."""

    def __init__(self) -> None:
        self._current: contextvars.ContextVar[Context] = contextvars.ContextVar("foreign")

    def attach(self, given: Context) -> Token:
        return Token(self._current.set(given))

    def get_current(self) -> Context:
        return self._current.get(Context())

    def detach(self, token: Token) -> None:
        self._current.reset(token._inner)


def install() -> None:
    """Take the place of OpenTelemetry's own, as its entry point would."""
    runtime: Any = Foreign()
    context._RUNTIME_CONTEXT = runtime
