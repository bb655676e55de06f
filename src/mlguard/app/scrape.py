"""What does Prometheus get, and what when many ask at once?"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import NamedTuple, TypeAlias

from mlguard.messages import Headers
from mlguard.metrics import content_type

Exposed: TypeAlias = tuple[int, str, bytes]
"""The status, the content type and the text."""


class WorkersApart(Exception):
    """Other workers cannot be asked, and one's numbers would pass for everyone's."""


class Page(NamedTuple):
    """An answer to a scrape.

    Attributes:
        status: The HTTP status.
        headers: With the length of the body.
        body: The text.
    """

    status: int
    headers: Headers
    body: bytes

    @classmethod
    def of(cls, exposed: Exposed) -> Page:
        """Add what a client is told of the text."""
        status, said, text = exposed
        return cls(status, (("Content-Type", said), ("Content-Length", str(len(text)))), text)


class SingleFlight:
    """Make a page once for all who ask while it is being made; holds for one process.

    Args:
        expose: Writes a page for an Accept header; may block.
        hand_over: Has something done by a thread that may wait.
        expose_at_once: Does what `expose` does, where that neither blocks nor takes long; None
            where it may.
    """

    def __init__(
        self,
        expose: Callable[[str], Exposed],
        hand_over: Callable[[Callable[[], None]], None],
        expose_at_once: Callable[[str], Exposed | None] = lambda _: None,
    ) -> None:
        self._expose = expose
        self._expose_at_once = expose_at_once
        self._lock = threading.Lock()
        self._flying: dict[str, Future[Page]] = {}
        self._hand_over = hand_over

    def ask(self, accept: str) -> Future[Page]:
        """Return the page that is being made, or make it: here, or by a thread."""
        kind = content_type(accept)
        with self._lock:
            page = self._flying.get(kind)
            if page is not None:
                return page
            page = Future()
            page.set_running_or_notify_cancel()  # who waits no longer cancels it for nobody
            exposed = self._expose_at_once(accept)
            if exposed is not None:
                page.set_result(Page.of(exposed))
                return page
            self._flying[kind] = page
        self._hand_over(partial(self._make, accept, kind, page))
        return page

    def _make(self, accept: str, kind: str, page: Future[Page]) -> None:
        try:
            made = Page.of(self._expose(accept))
        except Exception as error:  # noqa: BLE001 - whoever asks is told
            self._forget(kind)
            page.set_exception(error)
        else:
            self._forget(kind)
            page.set_result(made)

    def _forget(self, kind: str) -> None:
        with self._lock:
            del self._flying[kind]
