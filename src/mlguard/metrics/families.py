"""How do the numbers of many workers become one page?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeAlias

from prometheus_client import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

from mlguard.metrics.page import write
from mlguard.metrics.table import METRICS

Family: TypeAlias = dict[str, Any]
"""One metric, ready for JSON: `name`, `type`, `help` and `samples`, each with `name`, `labels`,
`value` and perhaps an `exemplar` of `labels`, `value` and `timestamp`."""

_Key: TypeAlias = tuple[str, frozenset[tuple[str, str]]]

_LARGEST = frozenset(metric.family for metric in METRICS if metric.merge == "largest")
_LARGEST_TYPES = {"info", "stateset"}
_LONGEST_ACCEPT = 512  # characters
_MAX_EXEMPLAR = 128  # characters, by OpenMetrics
_TIDY = re.compile(r"[a-z/-]+; version=\d+\.\d+\.\d+; charset=utf-8(; escaping=[a-z0-9-]+)?")


def families(collector: Collector) -> list[Family]:
    """Write down what `collector`, a registry for instance, says now."""
    return [
        {
            "name": metric.name,
            "type": metric.type,
            "help": metric.documentation,
            "samples": [_sample(s) for s in metric.samples if not s.name.endswith("_created")],
        }
        for metric in collector.collect()
    ]


def _sample(sample: Sample) -> dict[str, Any]:
    written = {"name": sample.name, "labels": sample.labels, "value": sample.value}
    if (exemplar := sample.exemplar) is not None:
        moment = None if exemplar.timestamp is None else float(exemplar.timestamp)
        written["exemplar"] = {
            "labels": exemplar.labels,
            "value": exemplar.value,
            "timestamp": moment,
        }
    return written


def merge(snapshots: Iterable[Iterable[Family]]) -> list[Family]:
    """Add up what several workers say; of exemplars the newest stays.

    Counts, histograms and gauges are added; a state (`mlguard_degraded`) is the largest.
    """
    merged: dict[str, tuple[Family, dict[_Key, dict[str, Any]]]] = {}
    for snapshot in snapshots:
        for family in snapshot:
            name = family["name"]
            if name not in merged:
                merged[name] = ({**family, "samples": []}, {})
            whole, samples = merged[name]
            largest = name in _LARGEST or whole["type"] in _LARGEST_TYPES
            for sample in family["samples"]:
                _add(samples, sample, largest=largest)
    return [{**whole, "samples": list(s.values())} for whole, s in merged.values()]


def _add(samples: dict[_Key, dict[str, Any]], sample: dict[str, Any], *, largest: bool) -> None:
    key = (sample["name"], frozenset(sample["labels"].items()))
    if key not in samples:
        samples[key] = dict(sample)
        return
    kept = samples[key]
    one, other = kept["value"], sample["value"]
    kept["value"] = max(one, other) if largest else one + other
    if "exemplar" in sample and _moment(sample) >= _moment(kept):
        kept["exemplar"] = sample["exemplar"]


def _moment(sample: dict[str, Any]) -> float:
    return (sample.get("exemplar") or {}).get("timestamp") or 0.0


def content_type(accept: str) -> str:
    """Choose the format that an Accept header asks for."""
    return _encoder(accept)[1]


def expose(families: Iterable[Family], accept: str = "") -> tuple[str, bytes]:
    """Return content type and body, in the format that the Accept header asks for.

    OpenMetrics, which alone carries exemplars, where it is asked for; else the classic text.
    """
    encode, kind = _encoder(accept)

    def library(some: Iterable[Family]) -> bytes:
        return encode(Written(some))

    if "escaping=allow-utf-8" in kind:
        return kind, library(families)
    if not kind.startswith("application/openmetrics"):
        return kind, write(families, library, has_exemplars=False)
    return kind, write(map(_with_short_exemplars, families), library, has_exemplars=True)


def _encoder(accept: str) -> tuple[Callable[[Collector], bytes], str]:
    try:
        encode, kind = choose_encoder(accept[:_LONGEST_ACCEPT])
    except (TypeError, ValueError):  # a version that is none
        return choose_encoder("")
    # The version is echoed from the header: only one that looks like a version.
    return (encode, kind) if _TIDY.fullmatch(kind) else choose_encoder("")


def _with_short_exemplars(family: Family) -> Family:
    """Leave out the exemplars that are too long to be told."""
    if not any("exemplar" in s and _exemplar(s["exemplar"]) is None for s in family["samples"]):
        return family
    return {
        **family,
        "samples": [
            {k: v for k, v in s.items() if k != "exemplar" or _exemplar(v)}
            for s in family["samples"]
        ],
    }


class Written(Collector):
    """Families, as prometheus-client's encoders want them."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """List the families, without exemplars that are too long."""
        for family in self._families:
            metric = Metric(family["name"], family["help"], family["type"])
            for sample in family["samples"]:
                exemplar = _exemplar(sample.get("exemplar"))
                metric.add_sample(sample["name"], sample["labels"], sample["value"], None, exemplar)
            yield metric


def _exemplar(written: dict[str, Any] | None) -> Exemplar | None:
    if not written or sum(len(k) + len(v) for k, v in written["labels"].items()) > _MAX_EXEMPLAR:
        return None
    return Exemplar(written["labels"], written["value"], written["timestamp"])
