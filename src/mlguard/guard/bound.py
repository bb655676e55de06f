"""What is known of a route before any request?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlguard.metrics import METHODS

if TYPE_CHECKING:
    from mlguard.guard.choice import Choice, Together
    from mlguard.guard.models import ServedModel

UNKNOWN_METHOD = "HTTP"  # OpenTelemetry's name of a span whose method is not known


class BoundRoute:
    """One route of an app, and what the settings say of it: made once, looked at by each request.

    Attributes:
        host: As the framework spells it, "" for any.
        template: As the framework spells it, "" where nothing matched.
        model: The model that the settings place there; None where they place none. Where several
            share the route, the one that takes the rest, or the first.
        choice: Which of several models a request asks; None where there is no question.
        scopes: What a caller must have been granted.
        is_public: Whether no token is needed.
        is_counted: Whether quotas hold.
        observes: Whether nothing is refused, only told.
    """

    __slots__ = (
        "_names",
        "choice",
        "host",
        "is_counted",
        "is_public",
        "model",
        "observes",
        "scopes",
        "template",
    )

    def __init__(
        self,
        host: str,
        template: str,
        *,
        model: ServedModel | None = None,
        choice: Choice | Together | None = None,
        scopes: frozenset[str] = frozenset(),
        is_public: bool = False,
        is_counted: bool = True,
        observes: bool = False,
    ) -> None:
        self.host = host
        self.template = template
        self.model = model
        self.choice = choice
        self.scopes = scopes
        self.is_public = is_public
        self.is_counted = is_counted
        self.observes = observes
        self._names: dict[str, str] = {}

    def span_name(self, method: str) -> str:
        """Name the server span of a request, free of what clients write."""
        name = self._names.get(method)
        if name is None:
            if method != "WS" and method not in METHODS:
                method = UNKNOWN_METHOD
            name = f"{method} {self.template}" if self.template else method
            self._names[method] = name
        return name
