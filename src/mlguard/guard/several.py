"""What happens around several inferences that one body asks for?"""

from __future__ import annotations

from collections.abc import Sequence

from opentelemetry import context as runtime

from mlguard.guard.inference import InferenceContext, Settling
from mlguard.messages import Deny

Extra = list[dict[str, int]]
"""Of each inference, what is to be charged beyond what was."""


class SeveralInferences:
    """Inferences of one request, each with its span, its rows and its debit; they end together.

    Each takes as long as the handler: nobody sees where one ends and the next begins.

    Attributes:
        context: In which the span of the request is the current one.
    """

    def __init__(self, runs: Sequence[InferenceContext]) -> None:
        self._runs = runs
        self.context = runtime.get_current()

    def of(self, model: str) -> InferenceContext | None:
        """Return the run of a model, where there is one."""
        return next((run for run in self._runs if run.inference.model == model), None)

    @property
    def reads_answers(self) -> bool:
        """Whether predictions of any of them are looked for in answers."""
        return any(run.reads_answers for run in self._runs)

    def restart(self) -> None:
        """Start the clocks: the handler begins."""
        for run in self._runs:
            run.restart()

    def returned(self) -> None:
        """Stop the clocks, unless the answer turns out to be made while it is sent."""
        for run in self._runs:
            run.returned()

    def read_answer(self, raw: bytes) -> tuple[list[int | None], Extra]:
        """Read what each predicted in an answer that has not left yet."""
        read = [run.read_answer(raw) for run in self._runs]
        extra = [more for _, more in read]
        return [rows for rows, _ in read], extra if any(extra) else []

    def extend(self, extra: Extra) -> Settling:
        """Charge what the answer holds beyond what was reserved, all or nothing."""
        paid: list[InferenceContext] = []
        for run, more in zip(self._runs, extra, strict=True):
            withheld: Deny | None = (yield from run.extend(more)) if more else None
            if withheld is not None:
                for other in paid:
                    other.give_back()
                return withheld
            if more:
                paid.append(run)
        return None

    def end(
        self,
        status: int,
        error: BaseException | None,
        *,
        sent: bool = False,
        answered: Sequence[int | None] | None = None,
    ) -> None:
        """End each of them, as `InferenceContext.end` does."""
        for run, rows in zip(self._runs, answered or [None] * len(self._runs), strict=True):
            run.end(status, error, sent=sent, answered=rows)
