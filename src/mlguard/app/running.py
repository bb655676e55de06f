"""How does a handler surround one run of a model?"""

from __future__ import annotations

from types import TracebackType

from mlguard.app.drivers import adrive, drive, on_event_loop
from mlguard.errors import BlockingCall
from mlguard.guard import InferenceContext
from mlguard.messages import Inference


class Running:
    """One inference: a context manager, `with` in sync code and `async with` in async code."""

    def __init__(self, run: InferenceContext) -> None:
        self._run = run

    def __enter__(self) -> Inference:
        if on_event_loop():
            raise BlockingCall("an event loop runs here: use `async with guard.inference(...)`")
        return drive(self._run.enter())

    async def __aenter__(self) -> Inference:
        return await adrive(self._run.enter())

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        drive(self._run.exit(error))

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await adrive(self._run.exit(error))
