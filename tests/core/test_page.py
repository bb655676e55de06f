"""Is a page what prometheus-client writes, byte for byte?"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import openmetrics
from prometheus_client.exposition import generate_latest

from mlguard.metrics import expose
from mlguard.metrics.families import Written

OPEN = "application/openmetrics-text; version=1.0.0"
VALUES = st.one_of(
    st.floats(), st.integers(-(10**9), 10**9), st.integers(0, 3).map(lambda n: n * 1e6)
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=8)
NAMES = st.sampled_from(["a", "some_seconds", "b_total", "odd.name", "x:y"])
EXEMPLARS = st.fixed_dictionaries(
    {
        "labels": st.dictionaries(st.sampled_from(["trace_id", "b"]), TEXTS, max_size=2),
        "value": st.floats(0, 1e9),
        "timestamp": st.none() | st.floats(0, 2e9),
    }
)


@st.composite
def families(draw: st.DrawFn) -> dict[str, Any]:
    name, kind = draw(NAMES), draw(st.sampled_from(["counter", "gauge", "histogram", "unknown"]))
    suffix = {"counter": "_total", "histogram": "_bucket"}.get(kind, "")
    labels = st.dictionaries(st.sampled_from(["model", "le", "a"]), TEXTS, max_size=3)
    samples = []
    for said in draw(st.lists(labels, max_size=4)):
        sample = {"name": name + suffix, "labels": said, "value": draw(VALUES)}
        if suffix and draw(st.booleans()):
            sample["exemplar"] = draw(EXEMPLARS)
        samples.append(sample)
    return {"name": name, "type": kind, "help": draw(TEXTS), "samples": samples}


@pytest.mark.parametrize("accept", ["", OPEN], ids=["classic", "OpenMetrics"])
@given(st.lists(families(), max_size=3))
def test_the_same_bytes(accept: str, told: list[dict[str, Any]]) -> None:
    """Whatever is told, the page is the library's."""
    library = openmetrics.exposition.generate_latest if accept else generate_latest

    assert expose(told, accept)[1] == library(Written(told))
