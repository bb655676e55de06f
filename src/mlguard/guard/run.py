"""What happens around one inference?"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import Token
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from mlguard.errors import BlockingCall, Refused
from mlguard.guard.plan import Plan
from mlguard.messages import Deny, Inference, Outcome
from mlguard.quotas import Charge
from mlguard.tracing import trace_id

if TYPE_CHECKING:
    from mlguard.guard.exchange import Exchange
    from mlguard.guard.guard import Guard


class Run:
    """One inference: a context manager, `with` in sync code and `async with` in async code."""

    def __init__(
        self,
        guard: Guard,
        plan: Plan,
        exchange: Exchange | None,
        rows: Any,
        *,
        charged: list[Charge] | None = None,
        asked: int | None = None,
    ) -> None:
        self._guard = guard
        self.plan = plan
        self._exchange = exchange
        self._charges = charged
        counted = isinstance(rows, int)
        number = asked if asked is not None else rows if counted else len(rows)
        self.inference = Inference(plan.name, plan.version, number, () if counted else rows)

    def __enter__(self) -> Inference:
        if _on_event_loop():
            raise BlockingCall("an event loop runs here: use `async with guard.inference(...)`")
        return self._enter()

    async def __aenter__(self) -> Inference:
        return self._enter()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        reset(self._token)
        predictions = self.inference.predictions
        self.end(200, None if predictions is None else _length(predictions), error)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, tb)

    def _enter(self) -> Inference:
        if self._exchange is not None:
            self._charges, verdict = self._exchange.charge(
                self.plan.name, self.inference.rows, request=False
            )
            if isinstance(verdict, Deny):
                self._exchange.refuse(verdict)
                raise Refused(verdict)
        self.begin()
        self._token = self.attach()
        return self.inference

    def begin(self) -> None:
        """Open the span and start the clock."""
        inference = self.inference
        self._span = self._guard.tracer.start_span(
            f"inference {inference.model}",
            attributes={
                "mlguard.model.name": inference.model,
                "mlguard.inference.rows": inference.rows,
            },
        )
        self._since = self._guard.clock()
        self._began = self._guard.timer()

    def attach(self) -> Token[Any]:
        """Make its span the current one."""
        return context.attach(trace.set_span_in_context(self._span))

    def end(self, status: int, answered: int | None, error: BaseException | None) -> None:
        """Stop the clock, settle the debit and tell the observers.

        Args:
            status: The HTTP status; 4xx means that the model was not asked.
            answered: How many rows were predicted, None where unknown.
            error: What stopped the run.
        """
        guard, inference = self._guard, self.inference
        seconds = guard.timer() - self._began
        failed = type(error).__name__ if error else str(status) if status >= 500 else None
        asked = failed is None and status < 400
        if asked:
            inference.rows = max(inference.rows, answered or 0)
        if guard.quota is not None and self._charges:
            guard.quota.settle(
                self._charges, inference.rows if asked else 0, self._since, guard.clock()
            )
        self._end_span(failed)
        if asked or failed:
            sampled = self._span.get_span_context().trace_flags.sampled
            self._tell(
                Outcome(inference, seconds, failed, trace_id(self._span) if sampled else None)
            )

    def _end_span(self, failed: str | None) -> None:
        span = self._span
        if span.is_recording():
            span.set_attribute("mlguard.model.version", self.inference.version)
            span.set_attribute("mlguard.inference.rows", self.inference.rows)
            if failed:
                span.set_attribute("error.type", failed)
                span.set_status(Status(StatusCode.ERROR))
        span.end()

    def _tell(self, outcome: Outcome) -> None:
        """Tell the observers; what fails there never fails the request."""
        try:
            self._observe(outcome)
        except Exception as error:  # noqa: BLE001 - observers fail open
            self._guard.observer_failed(error)

    def _observe(self, outcome: Outcome) -> None:
        inference = outcome.inference
        self._guard.metrics.inference_ended(
            inference.model,
            inference.version,
            outcome.seconds,
            inference.rows if outcome.error_type is None else 0,
            outcome.error_type,
            outcome.trace_id,
        )
        if outcome.error_type is None:
            self.plan.observe(inference)


class Joined(Run):
    """A handler's inference on a route where the settings have opened it: the same one."""

    def __init__(self, run: Run) -> None:
        self.inference = run.inference

    def _enter(self) -> Inference:
        return self.inference

    def __exit__(self, *_: object) -> None:
        """Leave the end to the route."""


def reset(token: Token[Any]) -> None:
    """Undo the setting of a context variable, unless another context did it.

    A streamed answer may be closed in another context than it was begun in.
    """
    with suppress(ValueError):
        token.var.reset(token)


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _length(value: Any) -> int:
    try:
        return len(value)
    except TypeError:
        return 1
