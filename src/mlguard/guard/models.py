"""What is known of a model before any request?"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from mlguard.bodies import Layout
from mlguard.messages import Inference
from mlguard.metrics import Metrics
from mlguard.settings import Drift, Model

Offer = Callable[[str, str, list[Any]], bool]
"""Takes a sampled row of a model and version; False where there was no room."""


class ServedModel:
    """How one model's rows are found, and which of them the drift check gets."""

    def __init__(self, model: Model, drift: Drift | None, offer: Offer | None, rng: Random) -> None:
        features = model.features
        if model.reference and not features:
            from mlguard.drift.reference import Reference

            features = Reference.peek(model.reference)
        self.name = model.name
        self.span_name = f"inference {model.name}"
        self.version = model.version
        self.scopes = frozenset(model.scopes)
        self.layout = Layout(features, model.inputs, model.outputs, model.protocol)
        self.checks_drift = drift is not None and model.reference is not None
        self.offer = offer if self.checks_drift else None
        self._drift = drift or Drift()
        self._rng = rng

    def sample(self, inference: Inference) -> tuple[Any, ...]:
        """Pick the rows that the drift check gets, as they came."""
        inputs = inference.inputs
        present = len(inputs)
        if not present or self._rng.random() >= self._drift.sample:
            return ()
        wanted = min(self._drift.rows_per_request, present)
        if wanted == 1:
            return (_pick(inputs, self._rng.randrange(present) if present > 1 else 0),)
        return tuple(_pick(inputs, index) for index in self._rng.sample(range(present), wanted))

    def hand_on(self, metrics: Metrics, version: str, sampled: tuple[Any, ...]) -> None:
        """Offer sampled rows to the drift check, off the request's path."""
        for row in sampled:
            values = self.layout.row((row,), 0)
            if values is None:
                metrics.rows_dropped(self.name, version, "shape")
            elif self.offer and self.offer(self.name, version, values):
                metrics.rows_sampled(self.name, version, 1)
            else:
                metrics.rows_dropped(self.name, version, "queue_full")


def _pick(rows: Any, index: int) -> Any:
    """Take one row; of a DataFrame by its place, with the names of its columns."""
    return rows.iloc[index].to_dict() if hasattr(rows, "iloc") else rows[index]
