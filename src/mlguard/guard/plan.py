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


class Plan:
    """How one model's rows are found, and which of them the drift check gets."""

    def __init__(
        self,
        model: Model,
        drift: Drift | None,
        metrics: Metrics,
        offer: Offer | None,
        rng: Random,
    ) -> None:
        features = model.features
        if model.reference and not features:
            from mlguard.reference import Reference

            features = Reference.peek(model.reference)
        self.name = model.name
        self.version = model.version
        self.scopes = frozenset(model.scopes)
        self.layout = Layout(features, model.inputs, model.outputs, model.protocol)
        self.checks_drift = drift is not None and model.reference is not None
        self.offer = offer if self.checks_drift else None
        self._drift = drift or Drift()
        self._metrics = metrics
        self._rng = rng

    def observe(self, inference: Inference) -> None:
        """Offer sampled rows to the drift check; never fails the request."""
        if self.offer is None or not inference.rows:
            return
        self._metrics.rows_observed(self.name, inference.version, inference.rows)
        if self._rng.random() >= self._drift.sample:
            return
        present = len(inference.inputs)
        wanted = min(self._drift.rows_per_request, present)
        if wanted == 1:
            self._sample(inference, self._rng.randrange(present))
        elif wanted:
            for index in self._rng.sample(range(present), wanted):
                self._sample(inference, index)

    def _sample(self, inference: Inference, index: int) -> None:
        row = self.layout.row(inference.inputs, index)
        if row is None:
            self._metrics.rows_dropped(self.name, inference.version, "shape")
        elif self.offer and self.offer(self.name, inference.version, row):
            self._metrics.rows_sampled(self.name, inference.version, 1)
        else:
            self._metrics.rows_dropped(self.name, inference.version, "queue_full")
