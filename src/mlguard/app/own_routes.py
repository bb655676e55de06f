"""Which routes does the kit add to an app, behind its guard? Those that the settings want."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote

from mlguard import refusals
from mlguard.app.service import Service
from mlguard.bodies import parse
from mlguard.errors import Refused
from mlguard.messages import Headers
from mlguard.performance.labels import MOST_ROWS
from mlguard.settings import Settings

MAX_QUERY = 1024  # characters that are read
_PAGE = "text/html"  # in UTF-8, which both frameworks say
# A page of ours runs no script, and is nobody's to keep.
_OF_PAGES = (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"))


class OwnAnswer(NamedTuple):
    """What a route of the kit's own answers.

    Attributes:
        status: The HTTP status.
        media_type: Of the body.
        body: Its bytes.
        headers: Others.
    """

    status: int
    media_type: str
    body: bytes
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class OwnRoute:
    """A route that an adapter adds to its app.

    Attributes:
        name: What the framework calls it.
        path: Its path.
        method: Its method.
        scope: What a token must grant.
        most: Bytes of a body that are read; one more tells that there are too many.
        answer: Answers a body and a query string; may block for a moment, and raise `Refused`.
    """

    name: str
    path: str
    method: str
    scope: str
    most: int
    answer: Callable[[bytes, str], OwnAnswer]


def own_routes(service: Service) -> list[OwnRoute]:
    """List the routes that the settings of a service want."""
    found, settings = [], service.settings
    if settings.feedback and settings.feedback.route:
        route, scope = settings.feedback.route, settings.feedback.scope
        most = settings.service.max_body
        take = partial(_take_labels, service)
        found.append(OwnRoute("mlguard_feedback", route, "POST", scope, most, take))
    if settings.drift and settings.drift.route:
        route, scope = settings.drift.route, settings.drift.scope
        show = partial(_show_drift, _reports(settings))
        found.append(OwnRoute("mlguard_drift", route, "GET", scope, 0, show))
    return found


async def answered(route: OwnRoute, chunks: AsyncIterable[bytes], query: str) -> OwnAnswer:
    """Read a body as far as the route does, and answer it, never blocking the event loop."""
    body = b""
    async for chunk in chunks:
        body += chunk
        if len(body) > route.most:
            break
    return await asyncio.to_thread(route.answer, body, query)


def _take_labels(service: Service, body: bytes, _: str) -> OwnAnswer:
    """Queue the labels of a body.

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
    told = {"taken": sum(taken), "dropped": len(taken) - sum(taken)}
    # 202, RFC 9110 section 15.3.3: what becomes of them is not known yet.
    return OwnAnswer(202, "application/json", json.dumps(told).encode())


def _labels(document: Any) -> list[dict[str, Any]] | None:
    labels = document if isinstance(document, list) else [document]
    return labels if labels and all(map(_is_label, labels)) else None


def _is_label(label: Any) -> bool:
    if not isinstance(label, dict) or not isinstance(label.get("call_id"), str):
        return False
    truths = label.get("truths")
    return isinstance(truths, list) and 0 < len(truths) <= MOST_ROWS


def _reports(settings: Settings) -> dict[str, Path]:
    from mlguard.analyst.config import AnalystConfig

    config = AnalystConfig.of(settings)
    return {model.name: path for model in config.models if (path := config.report_of(model))}


def _show_drift(reports: dict[str, Path], _: bytes, query: str) -> OwnAnswer:
    """Show the report of the model that the query names, or of the only one; else a list."""
    asked = parse_qs(query[:MAX_QUERY]).get("model", [""])[0]
    if not asked and len(reports) > 1:
        return OwnAnswer(200, _PAGE, _listed(list(reports)), _OF_PAGES)
    path = reports.get(asked) if asked else next(iter(reports.values()), None)
    if path is None:
        return OwnAnswer(404, "text/plain", b"no such model has a reference\n")
    try:
        return OwnAnswer(200, _PAGE, path.read_bytes(), _OF_PAGES)
    except FileNotFoundError:
        return OwnAnswer(404, "text/plain", b"no window was checked yet\n")
    except OSError:
        return OwnAnswer(503, "text/plain", b"the report cannot be read\n")


def _listed(names: list[str]) -> bytes:
    links = (f'<li><a href="?model={quote(name)}">{html.escape(name)}</a>' for name in names)
    return f"<!doctype html><title>Drift</title><ul>{''.join(links)}</ul>\n".encode()
