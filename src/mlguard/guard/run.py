"""What happens around one inference?"""

from __future__ import annotations

import asyncio
import operator
from collections.abc import Callable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from mlguard.errors import BlockingCall, Refused
from mlguard.guard.parts import Parts
from mlguard.guard.plan import Plan
from mlguard.messages import Deny, Inference, Outcome
from mlguard.quotas import Debit
from mlguard.tracing import reset, sampled_trace

Charge = Callable[..., Debit | Deny | None]
"""Debits rows of a model for whoever asked: `Exchange.charge`."""

LONGEST_VERSION = 64  # characters


class Run:
    """One inference: a context manager, `with` in sync code and `async with` in async code."""

    def __init__(
        self,
        parts: Parts,
        plan: Plan,
        charge: Charge | None,
        rows: Any,
        *,
        asked: int | None = None,
        debit: Debit | None = None,
        found: bool | None = None,
    ) -> None:
        self._parts = parts
        self.plan = plan
        self._charge = charge
        self._debits = [debit] if debit else []
        self._found = found  # rows in the body, None where no body was looked into
        number, inputs = _count(rows)
        self.inference = Inference(plan.name, plan.version, asked or number, inputs)

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
        # Both frameworks' HTTP exceptions are answers, not failures of the model.
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int) and 400 <= status < 500:
            self.end(status, None, None)
        else:
            self.end(200, None, error)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.__exit__(kind, error, tb)

    def _enter(self) -> Inference:
        self.ask(self.inference.rows)
        self.begin()
        self._token = self.attach()
        return self.inference

    def ask(self, rows: int) -> None:
        """Spend the quota for so many rows.

        Raises:
            Refused: The quota does not admit them.
        """
        if self._charge is None:
            return
        debit = self._charge(self.plan.name, rows, request=False)
        if isinstance(debit, Deny):
            raise Refused(debit)
        self._debits += [debit] if debit else []

    def begin(self) -> None:
        """Open the span and start the clock."""
        inference = self.inference
        self._span = self._parts.tracer.start_span(
            f"inference {inference.model}",
            attributes={
                "mlguard.model.name": inference.model,
                "mlguard.inference.rows": inference.rows,
            },
        )
        self._began = self._parts.timer()

    def attach(self) -> Token[Any]:
        """Make its span the current one."""
        return context.attach(trace.set_span_in_context(self._span))

    def end(
        self,
        status: int,
        answered: int | None,
        error: BaseException | None,
        *,
        sent: bool = False,
    ) -> None:
        """Stop the clock, settle the debit and tell the observers.

        Args:
            status: The HTTP status; 4xx means that the model was not asked.
            answered: How many rows were predicted, None where unknown.
            error: What stopped the run.
            sent: Whether some of the answer had left: then it is paid for.
        """
        parts, inference = self._parts, self.inference
        seconds = parts.timer() - self._began
        failed = type(error).__name__ if error else str(status) if status >= 500 else None
        asked = failed is None and status < 400
        inference.version = str(inference.version)[:LONGEST_VERSION]
        if asked:
            self._tell_unread(answered)
            said = 0 if inference.predictions is None else _count(inference.predictions)[0]
            inference.rows = max(inference.rows, answered or 0, said)
        # Who leaves while the model runs has had it run.
        if not sent and not isinstance(error, asyncio.CancelledError):
            self._settle(inference.rows if asked else 0)
        self._end_span(failed)
        if asked or failed:
            self._tell(Outcome(inference, seconds, failed, sampled_trace(self._span)))

    def _tell_unread(self, answered: int | None) -> None:
        """Say where the settings look for rows or predictions and an answered call has none."""
        told = self._found or len(self.inference.inputs)  # by the body, or by the handler
        if self._found is None or (told and not self._found):
            return
        if not told:
            self._parts.unread(self.plan.name, "inputs")
        if self.plan.layout.reads_answers and answered is None:
            self._parts.unread(self.plan.name, "outputs")

    def _settle(self, rows: int) -> None:
        """Make the first debit cost what the others did not."""
        now = self._parts.timer()
        for debit in self._debits[1:]:
            if not rows:
                debit.settle(0, now)
        if self._debits:
            others = sum(debit.rows for debit in self._debits[1:])
            self._debits[0].settle(max(0, rows - others), now)

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
            self._parts.observer_succeeded()
        except Exception as error:  # noqa: BLE001 - observers fail open
            self._parts.observer_failed(error)

    def _observe(self, outcome: Outcome) -> None:
        inference = outcome.inference
        self._parts.metrics.inference_ended(
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

    def __init__(self, run: Run, rows: Any) -> None:
        self._run = run
        self.inference = run.inference
        self._number, self._inputs = _count(rows)

    def _enter(self) -> Inference:
        """Spend the quota for rows that the body did not show."""
        inference = self.inference
        if self._number > inference.rows:
            self._run.ask(self._number - inference.rows)
            inference.rows = self._number
        if not len(inference.inputs):
            inference.inputs = self._inputs
        return inference

    def __exit__(self, *_: object) -> None:
        """Leave the end to the route."""


def _on_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _count(rows: Any) -> tuple[int, Any]:
    """Count rows given as a number or as themselves, and tell what can be sampled of them.

    Raises:
        ValueError: A number below zero.
        TypeError: Neither a number nor anything that has a length.
    """
    if isinstance(rows, str | Mapping):
        return 1, ()
    try:
        number = operator.index(rows)
    except TypeError:
        return len(rows), rows
    if number < 0:
        raise ValueError(f"{number} rows: must not be below zero")
    return number, ()
