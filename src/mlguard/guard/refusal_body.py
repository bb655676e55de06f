"""What does the app itself say to a refused client, in place of a problem document?"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mlguard.logs import RateLimitedLog
from mlguard.messages import Deny

_MEDIA_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(; ?[\w-]+=[\w\"-]+)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class Refusal:
    """What an app's own function is told of a refusal.

    Attributes:
        status: The HTTP status, which stays, whatever the body says.
        code: The stable code that a program distinguishes.
        title: One sentence for a person.
        retry_after: Seconds after which trying again may help; None where nobody knows.
        trace_id: The trace of the request; None without one.
        more: What else the problem document would say, as `limit` and `largest_batch`.
    """

    status: int
    code: str
    title: str
    retry_after: int | None = None
    trace_id: str | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


Writes: TypeAlias = Callable[[Refusal], Mapping[str, Any] | bytes]
"""Writes a body: a mapping becomes JSON."""


class RefusalBody:
    """Bodies of refusals as a function of the app writes them; where it fails, ours are sent.

    Args:
        function: The app's; what it does must take no time.
        media_type: Of the bodies.

    Raises:
        TypeError: The function is async, or does not take one argument.
        ValueError: No media type.
    """

    def __init__(self, function: Writes, media_type: str) -> None:
        call = getattr(function, "__call__", None)  # noqa: B004 - of an object with one
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call):
            raise TypeError("guard.refusal_body: the function must not be async")
        if not callable(function):
            raise TypeError(f"guard.refusal_body({function!r}): must be a function of a refusal")
        if not _MEDIA_TYPE.fullmatch(media_type):
            raise ValueError(f'guard.refusal_body: media_type = {media_type!r} must be like "a/b"')
        self._function = function
        self.media_type = media_type
        self._log = RateLimitedLog()

    def write(self, deny: Deny, trace_id: str | None) -> bytes | None:
        """Write a body; None where the function fails, or says what is no body."""
        wait = next((value for name, value in deny.headers if name == "Retry-After"), None)
        seen = Refusal(
            deny.status,
            deny.code,
            deny.title,
            int(wait) if wait else None,
            trace_id,
            dict(deny.more),
        )
        try:
            body = self._function(seen)
            return body if isinstance(body, bytes) else _json(body)
        except Exception as error:  # noqa: BLE001 - a refusal is sent, whatever the app does
            text = "guard.refusal_body failed, and the problem document is sent instead: %r"
            self._log.warning("refusal body", text, error)
            return None


def _json(body: object) -> bytes:
    if not isinstance(body, Mapping):
        raise TypeError(f"it must return a mapping or bytes, not {type(body).__name__}")
    return json.dumps(dict(body), separators=(",", ":")).encode()
