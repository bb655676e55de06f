"""What do the metrics of a service say?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import httpx2
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True, slots=True)
class Sample:
    """One number of an exposition.

    Attributes:
        name: The metric's name.
        labels: Which of its series.
        value: The number.
    """

    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """One reading of /metrics.

    Args:
        text: The classic text format.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        families = text_string_to_metric_families(text)
        self._samples = [Sample(s.name, s.labels, s.value) for f in families for s in f.samples]

    @classmethod
    def of(cls, url: str) -> Scrape:
        """Read them as Prometheus does."""
        answer = httpx2.get(f"{url}/metrics", timeout=10, trust_env=False)
        answer.raise_for_status()
        return cls(answer.text)

    def series(self, name: str, **labels: str) -> list[Sample]:
        """Find the numbers of that name which carry these labels."""
        wanted = labels.items()
        return [s for s in self._samples if s.name == name and wanted <= s.labels.items()]

    def total(self, name: str, **labels: str) -> float:
        """Add up the numbers of that name."""
        return sum(s.value for s in self.series(name, **labels))

    def by(self, label: str, name: str) -> dict[str, float]:
        """Arrange the numbers of that name by one label."""
        return {s.labels[label]: s.value for s in self.series(name) if label in s.labels}

    def quantile(self, share: float, histogram: str, **labels: str) -> float:
        """Estimate a quantile from the buckets, as PromQL's histogram_quantile does: linearly."""
        buckets: dict[float, float] = {}
        for s in self.series(f"{histogram}_bucket", **labels):
            upper = float(s.labels["le"])
            buckets[upper] = buckets.get(upper, 0.0) + s.value
        if not buckets or not buckets.get(math.inf):
            return math.nan
        rank = share * buckets[math.inf]
        low, below = 0.0, 0.0
        for upper, count in sorted(buckets.items()):
            if count >= rank:
                is_last = math.isinf(upper)
                return low if is_last else low + (upper - low) * (rank - below) / (count - below)
            low, below = upper, count
        return low


@dataclass(frozen=True, slots=True)
class FeatureDrift:
    """How far one feature is from training.

    Attributes:
        name: The feature.
        score: Its distance.
        threshold: The distance from which it is drift.
    """

    name: str
    score: float
    threshold: float

    @property
    def detected(self) -> bool:
        """Whether it drifted."""
        return self.score >= self.threshold


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last drift check of a service.

    Attributes:
        checks: How many checks there have been.
        features: What the last one found.
    """

    checks: int
    features: tuple[FeatureDrift, ...]

    @classmethod
    def read(cls, scrape: Scrape) -> Verdict:
        """Find it in the metrics."""
        scores = scrape.by("feature", "mlguard_drift_score")
        thresholds = scrape.by("feature", "mlguard_drift_threshold")
        found = tuple(FeatureDrift(n, s, thresholds.get(n, math.inf)) for n, s in scores.items())
        return cls(int(scrape.total("mlguard_drift_checks_total")), found)

    @property
    def drifted(self) -> list[str]:
        """Names of the features that drifted."""
        return [f.name for f in self.features if f.detected]
