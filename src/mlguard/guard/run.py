"""What happens around one inference?"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextvars import Token
from typing import Any

from opentelemetry import context, trace
from opentelemetry.trace import Status, StatusCode

from mlguard.errors import Refused
from mlguard.guard.parts import Parts
from mlguard.guard.plan import Plan
from mlguard.ledger import Receipt
from mlguard.messages import Debit, Deny, Inference, Outcome
from mlguard.quotas import Admission, Charged
from mlguard.tracing import reset, sampled_trace

Charge = Callable[[str, Mapping[str, int]], Admission]
"""Debits units of a model for whoever asked: `Exchange.admit`."""

Entering = Generator[Debit, Receipt | None, Inference]

LONGEST_VERSION = 64  # characters


class Run:
    """One inference, from its debit to its settlement.

    Args:
        parts: What it meets.
        plan: Of its model.
        charge: Debits what it costs; None where nobody asked.
        rows: The rows, or how many they are.
        asked: How many they are, where that is known otherwise.
        found: Whether the body showed rows; None where no body was looked into.
    """

    def __init__(
        self,
        parts: Parts,
        plan: Plan,
        charge: Charge | None,
        rows: Any,
        *,
        asked: int | None = None,
        found: bool | None = None,
    ) -> None:
        self._parts = parts
        self.plan = plan
        self._charge = charge
        self._charges: list[Charged] = []
        self._found = found
        number, inputs = _count(rows)
        self.inference = Inference(plan.name, plan.version, asked or number, inputs)

    def enter(self) -> Entering:
        """Spend the quota, open the span and make it the current one.

        Raises:
            Refused: The quota does not admit it.
        """
        yield from self.ask(self._parts.amounts(self.inference))
        self.begin()
        self._token = self.attach()
        return self.inference

    def exit(self, error: BaseException | None) -> None:
        """End what `enter` began."""
        reset(self._token)
        # Both frameworks' HTTP exceptions are answers, not failures of the model.
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int) and 400 <= status < 500:
            self.end(status, None, None)
        else:
            self.end(200, None, error)

    def ask(self, amounts: Mapping[str, int]) -> Generator[Debit, Receipt | None, None]:
        """Spend the quota for so many rows and other units.

        Raises:
            Refused: The quota does not admit them.
        """
        if self._charge is None:
            return
        charged = yield from self._charge(self.plan.name, amounts)
        if isinstance(charged, Deny):
            raise Refused(charged)
        self.pay(charged)

    def pay(self, charged: Charged) -> None:
        """Take note of what was charged for it."""
        self._charges.append(charged)

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
        outputs: Any = None,
    ) -> None:
        """Stop the clock, settle the debit and tell the observers.

        Args:
            status: The HTTP status; 4xx and 5xx mean that the model was not asked, unless it
                is known what it predicted.
            answered: How many rows were predicted, None where unknown.
            error: What stopped the run.
            sent: Whether some of the answer had left: then it is paid for.
            outputs: What the answer holds, for functions that count it.
        """
        parts, inference = self._parts, self.inference
        seconds = inference.seconds = parts.timer() - self._began
        failed = type(error).__name__ if error else str(status) if status >= 500 else None
        asked = failed is None and status < 400
        inference.version = str(inference.version)[:LONGEST_VERSION]
        has_predicted = inference.predictions is not None
        if asked:
            self._tell_unread(answered)
        if asked or has_predicted:
            said = _count(inference.predictions)[0] if has_predicted else 0
            inference.rows = max(inference.rows, answered or 0, said)
            if not has_predicted:
                inference.predictions = outputs
            self._settle()
        elif not sent and not isinstance(error, parts.departures):
            self._refund()
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

    def _refund(self) -> None:
        """Charge nothing for a model that was not asked."""
        for charged in self._charges:
            charged.settle(dict.fromkeys(charged.amounts, 0))

    def _settle(self) -> None:
        """Make the first debit cost what all together did not."""
        if not self._charges:
            return
        paid: Counter[str] = Counter()
        for charged in self._charges:
            paid.update(charged.amounts)
        took = self._parts.amounts(self.inference)
        extra = {u: n - paid[u] for u, n in took.items() if u in paid and n > paid[u]}
        if extra:
            for unit, units in extra.items():
                self._parts.metrics.quota_debt(self.plan.name, unit, units)
            first = self._charges[0]
            first.settle({u: first.amounts.get(u, 0) + n for u, n in extra.items()})

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

    def enter(self) -> Entering:
        """Spend the quota for rows that the body did not show."""
        inference = self.inference
        if self._number > inference.rows:
            yield from self._run.ask({"rows": self._number - inference.rows})
            inference.rows = self._number
        if not len(inference.inputs):
            inference.inputs = self._inputs
        return inference

    def exit(self, error: BaseException | None) -> None:
        """Leave the end to the route."""


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
