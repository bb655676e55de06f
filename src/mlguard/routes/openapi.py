"""What does the app's OpenAPI document say of the guard? Credentials, and refusals."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mlguard import refusals
from mlguard.routes.coverage import Covered
from mlguard.settings import Auth

Document = dict[str, Any]

BEARER = "HTTPBearer"
"""What FastAPI calls the scheme of `Depends(guard.caller)`: of both there is one."""

KEY = "MLGuardKey"

_PROBLEM = "MLGuardProblem"
_CONVERTER = re.compile(r"\{(\w+):\w+\}")
_SCHEMA = {
    "type": "object",
    "title": "Refusal",
    "description": "RFC 9457: why a request was refused.",
    "required": ["type", "title", "status", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": "Stable; what a program distinguishes."},
        "trace_id": {"type": "string"},
    },
}


class GuardedDocument:
    """The document of an app, as its guard adds to it; made anew where the app's is.

    Args:
        make: Makes the app's own.
        covered: Tells what covers its routes.
        media_type: Tells the type of refusals' bodies, None for problem documents.
        auth: Whose credentials are accepted; None where nobody is asked for any.
    """

    def __init__(
        self,
        make: Callable[[], Document],
        covered: Callable[[], Iterable[Covered]],
        media_type: Callable[[], str | None],
        auth: Auth | None,
    ) -> None:
        self._schemes = schemes(auth) if auth else {}
        self._make = make
        self._covered = covered
        self._media_type = media_type
        self._last: tuple[Document, Document] | None = None

    def __call__(self) -> Document:
        """Write it."""
        own = self._make()
        if self._last is None or self._last[0] is not own:
            self._last = own, described(own, self._covered(), self._media_type(), self._schemes)
        return self._last[1]


def schemes(auth: Auth) -> Document:
    """Say how credentials are sent: each scheme of security, by its name."""
    found: Document = {}
    is_bearer = bool(auth.api_keys) and not auth.key_header
    if auth.issuers or is_bearer:
        found[BEARER] = {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT" if auth.issuers else "API key",
            "description": f"A {'token of the configured issuer' if auth.issuers else 'key'}.",
        }
    if auth.api_keys and not is_bearer:
        header = auth.api_keys.header
        found[KEY] = {"type": "apiKey", "in": "header", "name": header, "description": "A key."}
    return found


def described(
    document: Document, covered: Iterable[Covered], media_type: str | None, schemes: Document
) -> Document:
    """Add to a document what the guard demands of each operation, and how it refuses.

    Args:
        document: OpenAPI 3; it is left as it is.
        covered: What covers the routes of the app.
        media_type: The type of refusals' bodies, None for problem documents.
        schemes: How credentials are sent, by the schemes' names.
    """
    by_operation = {
        (_CONVERTER.sub(r"{\1}", each.route.template), method.lower()): each
        for each in covered
        for method in each.route.methods
    }
    paths = {
        path: {
            method: _operation(told, by_operation.get((path, method)), media_type, schemes)
            for method, told in item.items()
        }
        for path, item in document.get("paths", {}).items()
    }
    components = {**document.get("components", {})}
    own, schemas = components.get("securitySchemes", {}), components.get("schemas", {})
    if schemes or own:
        components["securitySchemes"] = own | schemes
    if media_type is None:
        components["schemas"] = {**schemas, _PROBLEM: _SCHEMA}
    return {**document, "paths": paths, "components": components}


def _operation(
    told: Any, covered: Covered | None, media_type: str | None, schemes: Document
) -> Any:
    if covered is None or not isinstance(told, Mapping) or not covered.route.is_guarded:
        return told
    answers, said = {**told.get("responses", {})}, {**told}
    if not covered.is_public:
        if schemes:
            said["security"] = _secured(told.get("security", []), schemes)
        missing = f"No {covered.credential}, or one that does not hold"
        answers.setdefault("401", _refusal(missing, media_type))
        if covered.scopes:
            scopes = " ".join(sorted(covered.scopes))
            answers.setdefault("403", _refusal(f"The caller lacks a scope: {scopes}", media_type))
    if covered.quotas:
        answers.setdefault("429", _refusal("Too much was asked; retry later", media_type))
    said["responses"] = answers
    return said


def _secured(security: list[dict[str, Any]], schemes: Iterable[str]) -> list[dict[str, Any]]:
    """Demand one of the credentials beside whatever else is demanded."""
    # `Depends(guard.caller)` demands a bearer, as FastAPI knows it before any settings.
    others = [{name: said for name, said in each.items() if name != BEARER} for each in security]
    return [{scheme: [], **other} for other in others or [{}] for scheme in schemes]


def _refusal(description: str, media_type: str | None) -> dict[str, Any]:
    if media_type is not None:
        return {"description": description, "content": {media_type: {}}}
    schema = {"$ref": f"#/components/schemas/{_PROBLEM}"}
    return {"description": description, "content": {refusals.CONTENT_TYPE: {"schema": schema}}}
