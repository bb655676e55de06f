"""What is answered where labels are sent to?"""

from __future__ import annotations

import json
from typing import Any

from mlguard import refusals
from mlguard.app.service import Service
from mlguard.bodies import parse
from mlguard.errors import Refused
from mlguard.performance.labels import MOST_ROWS

TAKEN = 202  # RFC 9110 section 15.3.3: what becomes of them is not known yet


def take_labels(service: Service, body: bytes) -> bytes:
    """Queue the labels of a body; return the answer's, which is JSON and has the status 202.

    Raises:
        Refused: There is none, or no room for all.
    """
    if len(body) > service.settings.service.max_body:
        raise Refused(refusals.body_too_large(service.settings.service.max_body))
    feedback, labels = service.feedback, _labels(parse(body))
    if feedback is None or labels is None:
        raise Refused(refusals.labels_unreadable())
    taken = [feedback.label(each["call_id"], each["truths"]) for each in labels]
    if not any(taken):
        raise Refused(refusals.overloaded())
    return json.dumps({"taken": sum(taken), "dropped": len(taken) - sum(taken)}).encode()


def _labels(document: Any) -> list[dict[str, Any]] | None:
    labels = document if isinstance(document, list) else [document]
    return labels if labels and all(map(_is_label, labels)) else None


def _is_label(label: Any) -> bool:
    if not isinstance(label, dict) or not isinstance(label.get("call_id"), str):
        return False
    truths = label.get("truths")
    return isinstance(truths, list) and 0 < len(truths) <= MOST_ROWS
