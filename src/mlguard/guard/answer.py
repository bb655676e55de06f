"""What does an answer hold, before it leaves?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mlguard import bodies
from mlguard.guard.inference import InferenceContext, Settling
from mlguard.guard.several import SeveralInferences
from mlguard.messages import Compute

if TYPE_CHECKING:
    from mlguard.guard.exchange import Exchange

LARGE = 256 * 1024
"""Bytes from which parsing would hold up an event loop noticeably."""


class HeldAnswer:
    """A model's answer, kept until it is paid for.

    Args:
        exchange: The request.
        run: The inference that the answer ends.
        limit: Bytes that are kept at most.
    """

    def __init__(
        self, exchange: Exchange, run: InferenceContext | SeveralInferences, limit: int
    ) -> None:
        self._exchange = exchange
        self._run = run
        self._room = limit
        self._chunks: list[bytes] = []

    @staticmethod
    def reads(media_type: str) -> bool:
        """Say whether answers of this type are read."""
        return media_type == "application/json" or bodies.is_json(media_type)

    def add(self, chunk: bytes) -> bool:
        """Keep some bytes more; say whether there was room, else the answer goes on unread."""
        self._room -= len(chunk)
        if self._room < 0:
            self._chunks.clear()
            return False
        self._chunks.append(chunk)
        return True

    def settle(self, status: int) -> Settling:
        """Charge what the whole answer holds; return the refusal that withholds it.

        Args:
            status: Its HTTP status; an error holds no predictions.
        """
        exchange, run = self._exchange, self._run
        if status >= 400:
            exchange.end_run(status)
            return None
        raw = b"".join(self._chunks)
        rows: Any
        extra: Any
        if len(raw) < LARGE:
            rows, extra = run.read_answer(raw)
        else:
            rows, extra = yield Compute(lambda: run.read_answer(raw))
        withheld = (yield from run.extend(extra)) if extra else None
        exchange.end_run(status, rows)
        return withheld
