"""What happens around one inference?"""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context
from opentelemetry.trace import Span

from mlguard.bodies import NO_JSON, BodyReading, PassingBody, There
from mlguard.call_ids import new_call_id
from mlguard.errors import Refused
from mlguard.guard.models import ServedModel
from mlguard.guard.record import Record
from mlguard.messages import Compute, Debit, Deny, Inference, Outcome
from mlguard.performance import MOST_ROWS
from mlguard.quotas import Reservation
from mlguard.tracing import attach, detach, sampled_trace

if TYPE_CHECKING:
    from mlguard.guard.exchange import Exchange
    from mlguard.guard.parts import Parts

Entering = Generator[Debit | Compute, Any, Inference]
Leaving = Generator[Debit | Compute, Any, None]
Settling = Generator[Debit | Compute, Any, Deny | None]

LONGEST_VERSION = 64  # characters


class InferenceContext:
    """One inference, from its debit to its settlement.

    Args:
        parts: What it meets.
        model: Which.
        exchange: The request whose caller asks and pays; None where nobody does.
        rows: The rows, or how many they are; not where `reading` says it.
        number: How many rows they are, where the handler says it.
        reading: What the request's body showed; None where no body was looked into.
        passing: Counts the body while the handler reads it; None where it was read before.

    Attributes:
        context: In which its span is the current one, once it is open.
        passing: Counts the body while the handler reads it; None where nothing is left to count.
    """

    _span: Span
    context: Context

    def __init__(
        self,
        parts: Parts,
        model: ServedModel,
        exchange: Exchange | None,
        rows: Any = (),
        *,
        number: int | None = None,
        reading: BodyReading | None = None,
        passing: PassingBody | None = None,
    ) -> None:
        self._parts = parts
        self.model = model
        self.passing = passing
        self._exchange = exchange
        self._charges: list[Reservation] = []
        self._reading = reading
        if reading is None:
            asked, inputs = model.layout.given(rows, number)
            self._least = asked
        else:
            asked, inputs = reading.rows, reading.table
            self._least = reading.least
        self.inference = Inference(
            model.name, model.version, asked, () if inputs is None else inputs
        )
        self._has_outputs = self._is_settled = False
        self._answer: There | None = NO_JSON  # until one is read
        self._decided = self._began = self._returned = 0.0

    @property
    def reads_answers(self) -> bool:
        """Whether predictions are looked for in answers."""
        return self.model.layout.reads_answers

    def of(self, model: str) -> InferenceContext | None:
        """Return this one where it is a run of that model."""
        return self if self.inference.model == model else None

    # ---- in a handler

    def enter(self) -> Entering:
        """Spend the quota, open the span and make it the current one.

        Raises:
            Refused: The quota does not admit it.
        """
        yield from self.ask(self._parts.amounts(self.inference))
        self.open()
        self.start()
        self._token = attach(self.context)
        return self.inference

    def exit(self, error: BaseException | None) -> Leaving:
        """End what `enter` began, where what it predicted can be paid.

        Raises:
            Refused: The predictions are more rows than the quota has left: they are withheld.
        """
        detach(self._token)
        # Both frameworks' HTTP exceptions are answers, not failures of the model.
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        if isinstance(status, int) and 400 <= status < 500:
            self.end(status, None)
        elif error is not None:
            self.end(200, error)
        else:
            extra = self.beyond(None)
            withheld = (yield from self.extend(extra)) if extra else None
            self.end(200, None)
            if withheld is not None:
                raise Refused(withheld)

    def ask(self, amounts: Mapping[str, int]) -> Leaving:
        """Spend the quota for so many rows and other units.

        Raises:
            Refused: The quota does not admit them.
        """
        if self._exchange is None:
            return
        charged = yield from self._exchange.admit(self.model.name, amounts)
        if isinstance(charged, Deny):
            raise Refused(charged)
        self.pay(charged)

    # ---- everywhere

    def give_back(self) -> None:
        """Cost nothing of what was charged last."""
        charged = self._charges.pop()
        charged.settle(dict.fromkeys(charged.amounts, 0))

    def pay(self, charged: Reservation) -> None:
        """Take note of what was charged for it."""
        self._charges.append(charged)

    def open(self) -> None:
        """Open its span."""
        inference = self.inference
        if self.model.keep is not None and not inference.id:
            inference.id = new_call_id(self._parts.clock())
            if self._exchange is not None:
                self._exchange.name_call(inference.id)
        self._span, self.context = self._parts.tracing.inference_span(
            self.model.span_name, {"mlguard.model.name": inference.model}
        )
        self._decided = self._parts.timer()

    def start(self) -> None:
        """Start the clock: the model's handler begins."""
        if not self._began:
            self._began = self._parts.timer()

    def restart(self) -> None:
        """Start the clock, and the span with it: until now it waited."""
        self.start()
        self._parts.tracing.restart(self._span)

    def returned(self) -> None:
        """Stop the clock, unless the answer turns out to be made while it is sent."""
        self._returned = self._parts.timer()

    @property
    def _seconds(self) -> float:
        """How long the model took: until its handler returned, where the whole answer was there."""
        now = self._parts.timer()
        until = self._returned if self._is_settled and self._returned else now
        return until - self._began

    def read_answer(self, raw: bytes) -> tuple[int | None, dict[str, int]]:
        """Read an answer that has not left yet.

        Returns:
            How many rows it holds, None where that cannot be told; what is to be charged for it
            beyond what was.
        """
        if self._reading is None:
            raise AssertionError("only an inference of the settings is read")
        rows, outputs, scores, there = self.model.layout.answered(raw, self._reading)
        self._answer = there
        inference = self.inference
        if inference.predictions is None:
            inference.predictions = outputs
            self._has_outputs = True
        if inference.scores is None:
            inference.scores = scores
        return rows, self.beyond(rows)

    def beyond(self, answered: int | None) -> dict[str, int]:
        """Tell what is to be charged beyond what was, now that the rows are known."""
        self._is_settled = True
        if answered == self.inference.rows and self._has_outputs and not self._parts.counting:
            return {}  # as was reserved
        self.start()
        self.inference.seconds = self._seconds
        return self._extra(self._took(answered))

    def settle_passing(self) -> Settling:
        """Charge the rows that have passed, before the answer leaves; return what refuses it."""
        self._take_passing()
        self.start()
        self.inference.seconds = self._seconds
        extra = self._extra(self._took(None))
        withheld = (yield from self.extend(extra)) if extra else None
        if withheld is not None:
            self.passing = None
            self._is_settled = True
        return withheld

    def _take_passing(self) -> None:
        """Take note of the rows that have passed until now."""
        if self.passing is None:
            return
        self._reading = reading = self.passing.reading()
        self._least = max(self._least, reading.least)
        inference = self.inference
        inference.rows = max(inference.rows, reading.rows)
        table: Any = reading.table
        if not len(inference.inputs) and table is not None:
            inference.inputs = table

    def extend(self, extra: dict[str, int]) -> Settling:
        """Charge it, before the answer leaves; return what refuses it."""
        if self._exchange is None:
            return None
        charged = yield from self._exchange.extend(self.model.name, extra)
        if isinstance(charged, Deny):
            self.inference.rows -= extra.get("rows", 0)  # nobody gets them
            return charged
        self.pay(charged)
        self._owe(extra)
        return None

    def end(
        self,
        status: int,
        error: BaseException | None,
        *,
        sent: bool = False,
        answered: int | None = None,
    ) -> None:
        """Stop the clock, settle the debit and tell the observers.

        Args:
            status: The HTTP status; 4xx and 5xx mean that the model was not asked, unless it
                is known what it predicted.
            error: What stopped it.
            sent: Whether some of the answer had left: then it is paid for.
            answered: How many rows were predicted, None where unknown.
        """
        parts, inference = self._parts, self.inference
        self._take_passing()
        self.start()
        seconds = inference.seconds = self._seconds
        failed = type(error).__name__ if error else str(status) if status >= 500 else None
        asked = failed is None and status < 400
        inference.version = str(inference.version)[:LONGEST_VERSION]
        if asked and self._reading is not None:
            self._tell_unread(self._reading, answered)
        if asked or inference.predictions is not None:
            extra = {} if self._is_settled else self._extra(self._took(answered))
            if extra:
                self._owe(extra)
                first = self._charges[0]
                first.settle({u: first.amounts.get(u, 0) + n for u, n in extra.items()})
        elif not sent and not isinstance(error, parts.departures):
            for charged in self._charges:
                charged.settle(dict.fromkeys(charged.amounts, 0))
        self._finish(failed, parts.timer() - self._began - seconds)
        if asked or failed:
            self._record(seconds, failed)

    def _took(self, answered: int | None) -> int:
        """Tell how many rows it turns out to have taken, and charge no more than those."""
        inference = self.inference
        told = inference.predictions is not None and not self._has_outputs  # by the handler
        said = self.model.layout.told(inference.predictions, inference.rows) if told else None
        if said is None and (answered is None or answered == inference.rows):
            return inference.rows
        rows = max(self._least, answered or 0, said or 0)
        paid = self._paid("rows")
        if rows < paid and len(self._charges) == 1:
            self._charges[0].settle({"rows": rows})
        inference.rows = rows
        return rows

    def _paid(self, unit: str) -> int:
        paid = 0
        for charged in self._charges:
            paid += charged.amounts.get(unit, 0)
        return paid

    def _extra(self, rows: int) -> dict[str, int]:
        """Tell what was taken beyond what was charged."""
        if not self._charges:
            return {}
        if not self._parts.counting:
            more = rows - self._paid("rows")
            return {"rows": more} if more > 0 and "rows" in self._charges[0].amounts else {}
        took = self._parts.amounts(self.inference)
        owed = {unit: units - self._paid(unit) for unit, units in took.items()}
        return {u: n for u, n in owed.items() if n > 0 and u in self._charges[0].amounts}

    def _owe(self, extra: Mapping[str, int]) -> None:
        for unit, units in extra.items():
            self._parts.metrics.quota_debt(self.model.name, unit, units)

    def _tell_unread(self, reading: BodyReading, answered: int | None) -> None:
        """Say where the settings look for rows or predictions and an answered call has none."""
        told = len(self.inference.inputs)  # by the body, or by the handler
        if not told and reading.there is not None:
            self._unread("inputs", reading.there, is_counted=answered is not None)
        is_told = self.inference.predictions is not None
        if self._answer is not None and not is_told and self.model.layout.reads_answers:
            self._unread("outputs", self._answer, is_counted=False)

    def _unread(self, side: str, there: There, *, is_counted: bool) -> None:
        exchange = self._exchange
        route = f"{exchange.call.method} {exchange.bound.template}" if exchange else "a call"
        self._parts.unread(self.model, side, there, route, is_counted=is_counted)

    def _finish(self, failed: str | None, ago: float) -> None:
        inference = self.inference
        told = {
            "mlguard.model.version": inference.version,
            "mlguard.inference.rows": inference.rows,
        }
        if failed:
            told["error.type"] = failed
        self._parts.tracing.finish(
            self._span,
            attributes=told,
            error=failed is not None,
            end_ns=time.time_ns() - int(ago * 1e9),
        )

    def _record(self, seconds: float, failed: str | None) -> None:
        inference, model = self.inference, self.model
        observes = failed is None and model.offer is not None and inference.rows > 0
        sampled: tuple[Any, ...] = ()
        answers: tuple[Any, ...] = ()
        missing = ""
        if observes:
            try:
                sampled, answers, missing = model.sample(inference)
            except Exception:  # noqa: BLE001 - rows may be whatever a handler gives
                missing = "unreadable"
        outcome = Outcome(
            inference.model,
            inference.version,
            seconds,
            0 if failed else inference.rows,
            failed,
            self._began - self._decided if self._reading else None,
            sampled,
            observes,
            answers,
            missing=missing,
        )
        if inference.id and failed is None:
            outcome.call_id = inference.id
            if inference.rows <= MOST_ROWS:
                outcome.predictions, outcome.scores = inference.predictions, inference.scores
        if self._exchange is not None:
            self._exchange.observed(outcome, self._span)
        else:
            trace_id = sampled_trace(self._span)
            self._parts.recorder.put(
                Record(trace_id=trace_id, outcomes=[outcome], spans=[self._span])
            )


class JoinedInference(InferenceContext):
    """A handler's inference on a route where the settings have opened it: the same one."""

    def __init__(self, run: InferenceContext, rows: Any, number: int | None = None) -> None:
        self._run = run
        self.inference = run.inference
        self._number, self._inputs = run.model.layout.given(rows, number)

    def enter(self) -> Entering:
        """Spend the quota for rows that the body did not show."""
        inference, run = self.inference, self._run
        if self._number > inference.rows:
            yield from run.ask({"rows": self._number - inference.rows})
            inference.rows = self._number
        run._least = max(run._least, self._number)
        if not len(inference.inputs):
            inference.inputs = self._inputs
        return inference

    def exit(self, error: BaseException | None) -> Leaving:
        """Leave the end to the route."""
        yield from ()
