"""What does a request say of the model that it asks? A parameter, a query, or a key of its body."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from mlguard.bodies import texts_at
from mlguard.messages import Call
from mlguard.pointers import keys_of

LONGEST = 256
"""Characters of a name; what is longer is nobody's."""


class Selector(NamedTuple):
    """Where something is said.

    Attributes:
        kind: "path", "query" or "body".
        key: The parameter.
        keys: Those of the place in the body.
    """

    kind: str
    key: str
    keys: tuple[str, ...] = ()

    @classmethod
    def of(cls, text: str | None) -> Selector | None:
        """Read it as the settings spell it."""
        if text is None:
            return None
        kind, _, key = text.partition(":")
        return cls(kind, key, keys_of(key) if kind == "body" else ())

    @property
    def is_early(self) -> bool:
        """Whether it is known before a body is read."""
        return self.kind != "body"

    def by(
        self, call: Call, parameters: Mapping[str, Any], body: bytes = b""
    ) -> Sequence[str] | None:
        """List all that is said there; None where nobody can tell.

        Readers differ in which of several they take, so all count.

        Args:
            call: The request.
            parameters: Those of the path, as the framework read them.
            body: The request's.
        """
        if self.kind == "path":
            return [str(parameters[self.key])[: LONGEST + 1]] if self.key in parameters else []
        if self.kind == "query":
            return self._by_query(call)
        found = texts_at(body, self.keys) if body else []
        return None if found is None else [text[: LONGEST + 1] for text in found]

    def _by_query(self, call: Call) -> list[str] | None:
        if call.uri > len(call.path) + len(call.query):  # only its beginning was kept
            return None
        pairs = parse_qsl(call.query, keep_blank_values=True)
        return [value[: LONGEST + 1] for name, value in pairs if name == self.key]
