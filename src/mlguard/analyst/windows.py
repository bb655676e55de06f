"""Which rows are judged together?"""

from __future__ import annotations

from collections.abc import Iterable
from threading import Condition

from mlguard.analyst.config import DriftModel


class Windows:
    """Disjoint windows of rows for each model; one full window may wait, later rows are lost."""

    def __init__(self, models: Iterable[DriftModel], size: int) -> None:
        self._size = size
        self._models: dict[tuple[str, str], DriftModel] = {}
        self._filling: dict[DriftModel, list[object]] = {}
        self._waiting: dict[DriftModel, list[object]] = {}
        self._is_full = Condition()
        for model in models:
            self._models[model.name, model.version] = model
            # Rows of a version that is not configured are compared with the first that is.
            self._models.setdefault((model.name, ""), model)
            self._filling[model] = []

    def model(self, name: str, version: str) -> DriftModel | None:
        """Return the model whose windows such rows go to, None where there is none."""
        return self._models.get((name, version)) or self._models.get((name, ""))

    def add(self, model: DriftModel, row: object) -> bool:
        """Add a row; False where it is lost, as the checks do not keep up."""
        with self._is_full:
            if len(self._filling[model]) >= self._size:
                return False
            self._filling[model].append(row)
            self._move(model)
        return True

    def take(self, timeout: float | None = None) -> tuple[DriftModel, list[object]] | None:
        """Wait for a full window; the one that has waited longest comes first."""
        with self._is_full:
            if not self._is_full.wait_for(lambda: self._waiting, timeout):
                return None
            model = next(iter(self._waiting))
            rows = self._waiting.pop(model)
            self._move(model)
            return model, rows

    def _move(self, model: DriftModel) -> None:
        if len(self._filling[model]) >= self._size and model not in self._waiting:
            self._waiting[model], self._filling[model] = self._filling[model], []
            self._is_full.notify()
