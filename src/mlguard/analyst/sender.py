"""How do a worker's rows get to whoever judges those of all hosts?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlguard import forks
from mlguard.analyst.config import DriftModel, model_of
from mlguard.analyst.queue import Drop, QueuedRow, RowQueue
from mlguard.ledger import StoreUnavailable
from mlguard.logs import RateLimitedLog
from mlguard.redis.rows import RowStreams


class RowSender:
    """A worker's way to the streams of rows that `mlguard drift serve` reads.

    Fails open: without its Redis inference goes on, and rows beyond some thousands are lost.

    Args:
        models: Those that have a reference.
        streams: Where rows go.
        on_drop: Told of rows that are lost after `offer`.
        on_away: Told by each look whether Redis is away.
    """

    def __init__(
        self,
        models: Sequence[DriftModel],
        streams: RowStreams,
        *,
        on_drop: Drop = lambda *_: None,
        on_away: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._models = tuple(models)
        self._streams = streams
        self._queue = RowQueue(on_drop)
        self._on_away = on_away
        self._log = RateLimitedLog()
        forks.watch(self)

    def before_fork(self) -> None:
        """Do nothing: connections are made where they are used."""

    def after_fork(self, *, in_child: bool) -> None:
        """Have none of the parent's rows in a child."""
        if in_child:
            self._queue.forget()

    def offer(self, model: str, version: str, values: object, said: object = None) -> bool:
        """Queue a row, and what was said of it; False where it is lost, as too many wait."""
        return self._queue.offer(model, version, values, said)

    def send(self) -> None:
        """Send what was offered; waits for Redis."""
        try:
            self._queue.hand_on(self._put)
        except StoreUnavailable as error:
            self._log.warning("away", "sampled rows wait: %s", error)
            self._on_away(True)
        else:
            self._on_away(False)

    def close(self) -> None:
        """Send the last rows."""
        self.send()
        self._streams.close()

    def _put(self, rows: Sequence[QueuedRow]) -> list[QueuedRow]:
        by_model: dict[DriftModel, list[QueuedRow]] = {}
        for row in rows:
            model = model_of(self._models, row.model, row.version)
            if model is not None:
                by_model.setdefault(model, []).append(row)
        lost: list[QueuedRow] = []
        for number, (model, theirs) in enumerate(by_model.items()):
            try:
                kept = self._streams.put(model.name, model.version, [x.written for x in theirs])
            except StoreUnavailable as error:
                if number == 0 and not error.may_be_done:
                    raise
                kept = 0  # some were sent already: better lost than judged twice
            lost += theirs[kept:]
        return lost
