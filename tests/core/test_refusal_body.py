"""What does the app itself say to a refused client? Without a framework."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mlguard.guard import Refusal, RefusalBody
from mlguard.messages import Deny

DENY = Deny(429, "quota_exceeded", "The quota is spent.", (("Retry-After", "7"),), {"unit": "rows"})


def test_what_it_is_told() -> None:
    """A function of the app is told all that the problem document would say."""
    told: list[Refusal] = []
    body = RefusalBody(lambda refusal: told.append(refusal) or {}, "application/json")

    assert body.write(DENY, "abc") == b"{}"
    assert told == [
        Refusal(429, "quota_exceeded", "The quota is spent.", 7, "abc", {"unit": "rows"})
    ]


def test_bytes() -> None:
    """Bytes are sent as they are, in the type that was named."""
    body = RefusalBody(lambda refusal: refusal.title.encode(), "text/plain; charset=utf-8")

    assert body.write(DENY, None) == b"The quota is spent."
    assert body.media_type == "text/plain; charset=utf-8"


def test_a_failure_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """What a function fails by stands in the log, once."""

    def failing(_: Refusal) -> dict[str, Any]:
        raise LookupError("no word")

    body = RefusalBody(failing, "application/json")
    with caplog.at_level(logging.WARNING, "mlguard"):
        assert [body.write(DENY, None) for _ in range(3)] == [None] * 3

    (record,) = caplog.records
    assert record.getMessage().endswith("is sent instead: LookupError('no word')")


async def _async(_: Refusal) -> dict[str, Any]:
    return {}


@pytest.mark.parametrize(
    ("function", "media_type", "error"),
    [
        (_async, "application/json", TypeError),
        ("text", "application/json", TypeError),
        (dict, "text", ValueError),
        (dict, "text/plain\r\nX-Header: 1", ValueError),
    ],
    ids=["async", "no function", "no type", "a header more"],
)
def test_mistakes(function: Any, media_type: str, error: type[Exception]) -> None:
    """What cannot write a body is refused at once."""
    with pytest.raises(error, match=r"guard\.refusal_body"):
        RefusalBody(function, media_type)
