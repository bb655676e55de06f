"""What came of the play?"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from examples.demo.clients import Tally
from examples.demo.scrape import Scrape, Verdict
from examples.demo.spans import Span
from examples.demo.thief import NO_COPY, Copy


@dataclass(slots=True)
class Seen:
    """What came of the play, by framework.

    Attributes:
        clients: What each client got.
        stolen: The thief's copies.
        unasked: The copy that asked the service nothing.
        free: The copy that no quota hindered.
        before: The drift verdict on ordinary patients.
        after: The drift verdict on those the new monitors measured.
        scrapes: The metrics at the end.
        traces: One trace: its id and its spans.
    """

    clients: dict[str, list[Tally]] = field(default_factory=dict)
    stolen: dict[str, Copy] = field(default_factory=dict)
    unasked: Copy = NO_COPY
    free: Copy = NO_COPY
    before: dict[str, Verdict] = field(default_factory=dict)
    after: dict[str, Verdict] = field(default_factory=dict)
    scrapes: dict[str, Scrape] = field(default_factory=dict)
    traces: dict[str, tuple[str, list[Span]]] = field(default_factory=dict)

    def save(self, folder: Path, seconds: float) -> None:
        """Write it down for programs: summary.json, and the metrics as they were scraped."""
        summary = {
            "seconds": round(seconds, 1),
            "copy_without_asking": self.unasked.agreement,
            "copy_without_quota": self.free.agreement,
            "frameworks": {framework: self._facts(framework) for framework in self.clients},
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=1))
        for framework, scrape in self.scrapes.items():
            (folder / f"metrics-{framework.lower()}.txt").write_text(scrape.text)

    def _facts(self, framework: str) -> Mapping[str, Any]:
        copy = self.stolen[framework]
        return {
            "clients": {t.client: _client(t) for t in self.clients[framework]},
            "latency_seconds": {
                title: {name: _finite(seconds) for name, seconds in quantiles.items()}
                for title, quantiles in latency(self.scrapes[framework]).items()
            },
            "drifted_before": self.before[framework].drifted,
            "drifted_after": self.after[framework].drifted,
            "drift_scores": {f.name: f.score for f in self.after[framework].features},
            "copy": {"rows": copy.rows, "agreement": copy.agreement},
            "trace": _parents(self.traces[framework][1]),
        }


def latency(scrape: Scrape) -> dict[str, dict[str, float]]:
    """Read the quantiles in seconds: of whole answered requests, and of the inference in them."""
    answered = {"http_route": "/predict", "http_response_status_code": "200"}
    metrics = {
        "whole request": ("http_server_request_duration_seconds", answered),
        "inference": ("mlguard_inference_duration_seconds", {"model": "diabetes"}),
    }
    return {
        title: {f"p{s * 100:.0f}": scrape.quantile(s, metric, **labels) for s in (0.5, 0.95, 0.99)}
        for title, (metric, labels) in metrics.items()
    }


def _client(tally: Tally) -> Mapping[str, Any]:
    refused = dict(tally.refused)
    return {"answered": tally.answered, "rows": tally.rows, "refused": refused}


def _parents(spans: Sequence[Span]) -> Mapping[str, str | None]:
    """Name the span above each span."""
    names = {span.span: span.name for span in spans}
    return {span.name: names.get(span.parent) for span in spans}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(value, 6)
