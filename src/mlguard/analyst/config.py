"""What does a companion need to know?"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field


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


@dataclass(frozen=True, slots=True)
class CompanionConfig:
    """What the workers of one service tell their companion.

    Attributes:
        service: The service's name.
        digest: Of the settings: workers with other settings have another companion.
        drift_models: The models to check for drift; none switches the check off.
        window: Rows that are judged together.
        report: Where to write each check's HTML report; None writes none.
        secrets: Variables with secrets, which the companion does not inherit.
        root: The folder for the private folder, where the platform's own will not do.
        counts_apart: Whether each worker counts its quotas alone.
        store: The Redis where the hosts of the service meet; its URL may hold a password.
    """

    service: str
    digest: str
    drift_models: tuple[DriftModel, ...] = ()
    window: int = 1000
    report: str | None = None
    secrets: tuple[str, ...] = ()
    root: str | None = None
    counts_apart: bool = False
    store: str | None = field(default=None, repr=False)

    def to_json(self) -> str:
        """Write it down for the companion's standard input."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CompanionConfig:
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        models = (
            DriftModel(**{**model, "features": tuple(model["features"])})
            for model in fields.pop("drift_models")
        )
        return cls(**{**fields, "secrets": ()}, drift_models=tuple(models))
