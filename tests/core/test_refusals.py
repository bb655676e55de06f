"""What is a refused client told?"""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mlguard import refusals
from mlguard.messages import Deny


def written(deny: Deny, trace_id: str | None) -> bytes:
    """Write a document member by member."""
    document: dict[str, Any] = {
        "type": f"urn:mlguard:problem:{deny.code}",
        "title": deny.title,
        "status": deny.status,
        "code": deny.code,
    }
    document.update(deny.more)
    if trace_id:
        document["trace_id"] = trace_id
    return json.dumps(document, separators=(",", ":")).encode()


MEMBERS = st.sampled_from(["limit", "unit", "title", "status", "trace_id", "ü"])
VALUES = st.one_of(st.text(), st.integers(), st.none(), st.floats(allow_nan=False))


@examples(max_examples=200, deadline=None)
@given(
    deny=st.builds(
        Deny,
        st.integers(400, 599),
        st.sampled_from(["rate_exceeded", "x"]),
        st.text(),
        more=st.dictionaries(MEMBERS, VALUES),
    ),
    trace_id=st.one_of(st.none(), st.just("0" * 32), st.text()),
)
def test_documents(deny: Deny, trace_id: str | None) -> None:
    """A document that is put together of pieces has the bytes of one that is written as a whole."""
    assert refusals.body(deny, trace_id) == written(deny, trace_id)


@pytest.mark.parametrize(
    ("deny", "status", "code", "more"),
    [
        pytest.param(refusals.uri_too_long(8), 414, "uri_too_long", {"limit": 8}, id="uri"),
        pytest.param(
            refusals.header_too_large(8), 431, "header_too_large", {"limit": 8}, id="header"
        ),
        pytest.param(refusals.body_timeout(2.5), 408, "body_timeout", {"limit": 2.5}, id="slow"),
        pytest.param(
            refusals.rows_unreadable(5), 422, "rows_unreadable", {"largest_batch": 5}, id="junk"
        ),
        pytest.param(refusals.answer_withheld(None), 429, "answer_withheld", {}, id="answer"),
    ],
)
def test_refusals(deny: Deny, status: int, code: str, more: dict[str, Any]) -> None:
    """Each has a status and a code of its own, and says the bound that was not kept."""
    assert (deny.status, deny.code, dict(deny.more), deny.headers) == (status, code, more, ())
    assert deny.title.endswith(".")
    assert all(f"{bound:g}" in deny.title for bound in more.values())


def test_an_answer_that_fits_later() -> None:
    """What is withheld says of what there is too much, and when it would fit, before the rest."""
    deny = refusals.answer_withheld(7, (("RateLimit", "x"),), "tokens")

    assert deny.headers == (("Retry-After", "7"), ("RateLimit", "x"))
    assert deny.title == "The answer holds more tokens than the quota has left; it is withheld."


@pytest.mark.parametrize(
    "scopes",
    [
        pytest.param([f"scope{n}" for n in range(1000)], id="many"),
        pytest.param(["x" * 5000], id="a long one"),
    ],
)
def test_a_challenge_is_bounded(scopes: list[str]) -> None:
    """However many scopes a route wants, a challenge names what a header may hold, none in part."""
    ((_, challenge),) = refusals.scope_missing(frozenset(scopes)).headers

    assert len(challenge) < 1100
    named = challenge.partition('scope="')[2].removesuffix('"').split()
    assert set(named) <= set(scopes)
    assert bool(named) == (len(scopes) > 1) == ("scope=" in challenge)
