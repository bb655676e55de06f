"""What was sent through a guard, and what did each part see of it?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan

from mlguard.cli.sending import Request, Response

Sample = tuple[str, Mapping[str, str], float]
"""A metric's name, its labels and by how much it rose."""


@dataclass
class Trial:
    """What was sent, and what each part saw of it.

    Attributes:
        settings: Where the settings are from.
        request: What was sent.
        origin: Where the example is from.
        who: Who called.
        answer: What came back.
        rows: The rows that each model was asked, by its name and version.
        left: What is left of each limit.
        drift: What the drift check got.
        spans: Those of the request.
        metrics: What was counted: samples with their labels.
        log: What the kit said.
        refused: What came back to who shows no credential; None where all may ask.
        wrong: What is not as it should be, and what to do; "" where all is well.
    """

    settings: str
    request: Request
    origin: str
    who: str
    answer: Response
    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)
    drift: list[str] = field(default_factory=list)
    spans: list[ReadableSpan] = field(default_factory=list)
    metrics: list[Sample] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    refused: Response | None = None
    wrong: str = ""


def code(answer: Response) -> str:
    """Tell the code of a refusal of the kit's, "" where it is none."""
    return str(problem(answer).get("code", ""))


def title(answer: Response) -> str:
    """Tell the sentence of a refusal of the kit's."""
    return str(problem(answer).get("title", ""))


def problem(answer: Response) -> dict[str, Any]:
    """Read a refusal of the kit's (RFC 9457); empty where it is none."""
    if not answer.header("content-type").startswith("application/problem+json"):
        return {}
    found = json.loads(answer.body)
    return found if isinstance(found, dict) else {}
