"""What does the analyst need to know?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlguard.settings import Model, Settings


@dataclass(frozen=True, slots=True)
class DriftModel:
    """One model whose inputs are compared with training.

    Attributes:
        name: The model's name, as in the settings.
        version: The version that its drift metrics carry.
        features: The names of a row's values, in their order.
        reference_path: The file that says what training looked like.
    """

    name: str
    version: str
    features: tuple[str, ...]
    reference_path: str


def model_of(models: Sequence[DriftModel], name: str, version: str) -> DriftModel | None:
    """Find whose window a row belongs to: of a version that is not configured, the first's."""
    named = [model for model in models if model.name == name]
    return next((m for m in named if m.version == version), named[0] if named else None)


@dataclass(frozen=True, slots=True)
class ScoredModel:
    """One model whose performance its scores tell.

    Attributes:
        name: The model's name, as in the settings.
        classes: Its classes, in the order of their scores.
        calibration_path: The file that says what its scores are worth; None takes them as they are.
    """

    name: str
    classes: tuple[str, ...]
    calibration_path: str | None = None


@dataclass(frozen=True, slots=True)
class AnalystConfig:
    """What the workers of one service tell their analyst.

    Attributes:
        service: The service's name.
        digest: Of the settings: workers with other settings have another analyst.
        models: The models to check for drift.
        window: Rows that are judged together; 0 is as many as a model's reference proposes.
        max_age: Seconds after which the rows of a window are judged without waiting for more.
        min_rows: Rows below which such a window is skipped.
        drifted_windows: Windows in which a feature must drift for its drift to last.
        last_windows: The last windows of which.
        rows_per_request: Rows that a request gives, all in all: a share of one where not each does.
        report: Where to write each check's HTML report; None writes none.
        secrets: Variables with secrets, which the analyst does not inherit.
        scored: The models whose performance is estimated.
    """

    service: str
    digest: str
    models: tuple[DriftModel, ...]
    window: int = 0
    max_age: float = 86_400.0
    min_rows: int = 200
    drifted_windows: int = 2
    last_windows: int = 2
    rows_per_request: float = 1.0
    report: str | None = None
    secrets: tuple[str, ...] = ()
    scored: tuple[ScoredModel, ...] = ()

    @classmethod
    def of(cls, settings: Settings) -> AnalystConfig:
        """Write down what a service's settings say."""
        from mlguard.settings import PREFIX, SECRET_URLS, Drift

        drift, auth = settings.drift or Drift(), settings.auth
        stores = [PREFIX + "__".join(path).upper() for path in SECRET_URLS]
        secrets = [name for issuer in (auth.issuers if auth else ()) for name in issuer.secret_env]
        keys = settings.service.pseudonym_key_env, drift.category_key_env
        return cls(
            service=settings.service.name,
            digest=settings.digest(),
            models=tuple(
                DriftModel(m.name, m.version, m.features, str(m.reference))
                for m in settings.models
                if m.reference
            ),
            window=drift.window or 0,
            max_age=drift.max_age,
            min_rows=drift.min_rows,
            drifted_windows=drift.drifted_windows,
            last_windows=drift.last_windows,
            rows_per_request=drift.rows_per_request * drift.sample,
            report=str(drift.report) if drift.report else None,
            secrets=(*secrets, *stores, *filter(None, keys)),
            scored=tuple(_scored(m) for m in settings.models if _has_scores(m)),
        )

    def report_of(self, model: DriftModel) -> Path | None:
        """Tell where the report of a model is written; None where none is."""
        path = Path(self.report) if self.report else None
        if path is None or len(self.models) == 1:
            return path
        name = re.sub(r"[^\w.-]", "_", model.name)
        return path.with_name(f"{path.stem}-{name}{path.suffix}")

    def rows_wanted(self, model: DriftModel) -> int:
        """Tell how many rows a verdict on a model takes.

        Raises:
            InvalidReference: Its reference would say so, and cannot be read.
        """
        if self.window:
            return self.window
        from mlguard.drift.reference import Reference

        return Reference.peek_window(model.reference_path)

    def requests_for(self, rows: int) -> int:
        """Tell how many requests give so many rows at least, whatever they hold."""
        return math.ceil(rows / self.rows_per_request)

    def to_json(self) -> str:
        """Write it down for the analyst's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> AnalystConfig:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        models = tuple(
            DriftModel(**{**model, "features": tuple(model["features"])})
            for model in fields.pop("models")
        )
        scored = tuple(
            ScoredModel(**{**model, "classes": tuple(model["classes"])})
            for model in fields.pop("scored")
        )
        secrets = tuple(fields.pop("secrets"))
        return cls(**fields, models=models, secrets=secrets, scored=scored)


def _has_scores(model: Model) -> bool:
    """Say whether a model's performance may be estimated."""
    return model.reference is not None and model.task == "classification"


def _scored(model: Model) -> ScoredModel:
    from mlguard.performance.task import TWO

    calibration = str(model.calibration) if model.calibration else None
    return ScoredModel(model.name, model.classes or TWO, calibration)
