"""What is known of a model before any request?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from mlguard.bodies import Layout, SourceLayout, SourceRequest
from mlguard.bodies.texts import Reader, readers_of
from mlguard.errors import InvalidSettings
from mlguard.guard.selector import Selector
from mlguard.messages import Call, Inference, Outcome
from mlguard.metrics import Metrics
from mlguard.performance import MOST_ROWS, MOST_VALUES, KeptCall, Said, Task
from mlguard.performance.task import TWO
from mlguard.pointers import SOURCES
from mlguard.settings import REST, Drift, Model, Settings

Offer = Callable[[str, str, list[Any], Said | None], bool]
"""Takes a sampled row of a model and version, and what was said of it; False without room."""


Keep = Callable[[KeptCall], str]
"""Takes what is kept of a call; says what becomes of it, as `mlguard_feedback_calls_total` does."""


class ServedModel:
    """How one model's rows are found, and which of them the drift check gets.

    Attributes:
        told_by: Where a request names it; None where its route has no other.
        names: What clients call it.
        version_from: Where a request names the version; None where none does.
        versions: Those that it may name.
        task: What its predictions are, where its performance is to be known.
        keep: Takes what is kept of its calls; None where labels are not expected.
    """

    def __init__(
        self,
        model: Model,
        drift: Drift | None,
        offer: Offer | None,
        rng: Random,
        keep: Keep | None = None,
    ) -> None:
        self.name = model.name
        self.span_name = f"inference {model.name}"
        self.version = model.version
        self.told_by = Selector.of(model.model_from)
        self.names = (model.name, *model.aliases)
        self.version_from = Selector.of(model.version_from)
        self.versions = frozenset((model.version, *model.versions))
        self.scopes = frozenset(model.scopes)
        self.layout = make_layout(model)
        self.task = task_of(model)
        self.keep = keep if self.task is not None else None
        self.checks_drift = drift is not None and model.reference is not None
        self.offer = offer if self.checks_drift else None
        self._drift = drift or Drift()
        self.rng = rng

    def layout_of(self, call: Call) -> Layout | SourceRequest:
        """Tell how one request is read."""
        layout = self.layout
        if isinstance(layout, SourceLayout):
            return layout.request(call.content_type, call.query)
        return layout

    def version_of(self, said: Sequence[str] | None) -> str:
        """Tell which version answers, by what a request says of it; never a client's word."""
        if not said:
            return self.version
        return said[0] if said[0] in self.versions and len({*said}) == 1 else REST

    def sample(self, inference: Inference) -> tuple[tuple[Any, ...], tuple[Any, ...], str]:
        """Pick the rows that the drift check gets, and what was said of each, as they came.

        Returns:
            Both, and why there are none although there should be.
        """
        inputs = inference.inputs
        present = len(inputs)
        if self._drift.sample < 1 and self.rng.random() >= self._drift.sample:
            return (), (), ""
        if not present:
            return (), (), "unseen"
        wanted = min(self._drift.rows_per_request, present)
        if wanted == 1:
            indices = [self.rng.randrange(present) if present > 1 else 0]
        else:
            indices = self.rng.sample(range(present), wanted)
        rows = tuple([self.layout.pick(inputs, index) for index in indices])
        if self.task is None or inference.rows != present:
            return rows, (), ""
        one, said, sure = self.layout.one, inference.predictions, inference.scores
        return rows, tuple([one(said, sure, present, index) for index in indices]), ""

    def hand_on(self, metrics: Metrics, outcome: Outcome) -> None:
        """Offer sampled rows to the drift check, off the request's path."""
        version = outcome.version
        if outcome.missing:
            metrics.rows_dropped(self.name, version, outcome.missing)
        answers = outcome.answers or (None,) * len(outcome.sampled)
        for row, answer in zip(outcome.sampled, answers, strict=True):
            values, wrong = self._values(row)
            if values is None:
                metrics.rows_dropped(self.name, version, wrong)
            elif self.offer and self.offer(self.name, version, values, self._said(answer)):
                metrics.rows_sampled(self.name, version, 1)
            else:
                metrics.rows_dropped(self.name, version, "queue_full")

    def _values(self, row: Any) -> tuple[list[Any] | None, str]:
        try:
            return self.layout.values(row)
        except Exception:  # noqa: BLE001 - a row may be whatever a handler gives
            return None, "unreadable"

    def hand_over(self, metrics: Metrics, outcome: Outcome) -> None:
        """Have a call's predictions kept until its labels come, off the request's path."""
        if self.keep is None:
            return
        result, rows = "unreadable", outcome.rows
        if rows > MOST_ROWS:
            result = "too_large"
        elif answers := self.layout.each(outcome.predictions, outcome.scores, rows):
            said = [self._said(answer) for answer in answers]
            if sum(map(len, filter(None, said))) > MOST_VALUES:
                result = "too_large"
            elif any(said):
                result = self.keep(KeptCall(outcome.call_id, self.name, outcome.version, said))
        metrics.call_kept(self.name, outcome.version, result)

    def _said(self, answer: tuple[Any, Any] | None) -> Said | None:
        return self.task.said(*answer) if self.task is not None and answer is not None else None


def make_layout(model: Model) -> Layout:
    """Tell where a model's requests and answers hold rows.

    Raises:
        InvalidReference: Its reference cannot be read.
        InvalidSettings: A package is missing that what it reads needs.
    """
    features, reference = model.features, model.reference
    source = model.inputs if model.inputs in SOURCES else None
    if source is None:
        if reference and not features:
            from mlguard.drift.reference import Reference

            features = Reference.peek(reference)
        outputs, scores = model.outputs, model.scores
        return Layout(features, model.inputs, outputs, model.protocol, scores, model.shape)
    if SourceLayout.lacks(source):
        raise InvalidSettings(
            f"models[{model.name}].inputs = {source!r}: needs python-multipart; "
            "pip install 'mlguard-core[forms]'"
        )
    readers: dict[str, Reader] = {}
    if reference:
        from mlguard.drift.reference import Reference

        readers = readers_of(Reference.peek_profile(reference))
        features = features or tuple(readers)
    return SourceLayout(source, features, model.outputs, model.scores, model.shape, readers)


def task_of(model: Model) -> Task | None:
    """Tell what a model's predictions are, where the settings say it."""
    return Task(model.task, model.classes or TWO, model.threshold) if model.task else None


def tasks_of(settings: Settings) -> dict[str, Task]:
    """Tell what the predictions of each model are, where the settings say it."""
    found = {model.name: task_of(model) for model in settings.models}
    return {name: task for name, task in found.items() if task is not None}
