"""How do the sampled rows of all hosts get to the one process that judges them?"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Sequence
from typing import Any, NamedTuple

from mlguard.ledger import StoreUnavailable
from mlguard.redis.calls import RedisCall, Script, marked, slot_of, taken
from mlguard.redis.servers import Servers

MAX_ROWS = 20_000  # of one model that wait
KEPT = 86_400  # seconds after the last of them
LEASE = 10.0  # seconds without a sign of life, after which another may judge
_TIMEOUT = 2.0
_SCRIPT = Script("rows.lua")


class Judged(NamedTuple):
    """How far the judging of a model's rows has come.

    Attributes:
        last: The last row of the last window.
        windows: How many there were.
        said: What was said of them.
    """

    last: str
    windows: int
    said: str


class WaitingRow(NamedTuple):
    """A row that waits.

    Attributes:
        id: Its place; later rows have larger ones.
        at: When it came, in seconds of Redis' clock.
        written: As it was put.
    """

    id: str
    at: float
    written: str


class RowStreams:
    """The rows of a service's models, each in a stream of its own, which is bounded.

    Whatever judges them holds a lease for each model. A window is closed in one step with what is
    said of it, so that it is judged once, however many judge, restart or fail. Its rows are kept
    until then.

    Args:
        url: Of the Redis; never shown, as it may hold a password.
        service: The service's name.
        most: Rows of a model that wait at most.
        timeout: Seconds that one round trip may take.

    Raises:
        ValueError: The URL has a problem.
    """

    def __init__(
        self, url: str, service: str, *, most: int = MAX_ROWS, timeout: float = _TIMEOUT
    ) -> None:
        self._servers = Servers(url, timeout)
        self._service = service
        self._most = most
        self._holder = secrets.token_hex(8)

    @property
    def shown(self) -> str:
        """The URL as it may be shown."""
        return self._servers.shown

    def put(self, model: str, version: str, written: Sequence[str]) -> int:
        """Add rows; return how many there was room for, the first ones.

        Raises:
            StoreUnavailable: Redis does not answer as it should; they may have been added even so
                where it says that.
        """
        return int(self._run("put", model, version, self._most, KEPT, *written)[0])

    def claim(self, model: str, version: str) -> Judged | None:
        """Be who judges a model's rows, for ten seconds more; None where another is."""
        found = self._run("claim", model, version, self._holder, round(1000 * LEASE))
        if found[0] is None:
            return None
        last, windows, said = found
        return Judged(_text(last), int(windows), _text(said))

    def read(self, model: str, version: str, after: str, most: int) -> list[WaitingRow]:
        """Return the rows that came after one, the oldest first, at most so many."""
        mark = self._mark(model, version)
        command = ("XRANGE", self._keys(mark)[0], f"({after}", "+", "COUNT", most)
        with self._servers.in_plain_words():
            entries = taken(self._servers.run([RedisCall(slot_of(mark), command)]))[0].rest
            return [_row(_text(id_), fields) for id_, fields in entries]

    def close_window(
        self, model: str, version: str, judged: Judged, last: str, said: str
    ) -> Judged | None:
        """Say what there is to say of a window; None where another has, or judges.

        Args:
            model: Whose rows they are.
            version: Of the model.
            judged: How far it was before.
            last: The last row of the window.
            said: What is said; the next who judges is told.
        """
        found = self._run("close", model, version, self._holder, judged.last, last, said)
        return None if found[0] is None else Judged(last, int(found[0]), said)

    def forget(self, model: str, version: str) -> int:
        """Delete the rows of a model that wait, and tell how many they were."""
        mark = self._mark(model, version)
        stream, slot = self._keys(mark)[0], slot_of(mark)
        calls = [RedisCall(slot, ("XLEN", stream)), RedisCall(slot, ("DEL", stream))]
        with self._servers.in_plain_words():
            return int(taken(self._servers.run(calls))[0].rest)

    def leave(self, model: str, version: str) -> None:
        """Let another judge a model's rows."""
        with contextlib.suppress(StoreUnavailable):
            self._run("leave", model, version, self._holder)

    def close(self) -> None:
        """Let the connections go."""
        self._servers.close()

    def _run(self, what: str, model: str, version: str, *asked: Any) -> list[Any]:
        mark = self._mark(model, version)
        call = RedisCall(slot_of(mark), asked, _SCRIPT, self._keys(mark), what)
        with self._servers.in_plain_words():
            found: list[Any] = taken(self._servers.run([call]))[0].rest
            return found

    def _mark(self, model: str, version: str) -> str:
        return marked(json.dumps([self._service, model, version]))

    def _keys(self, mark: str) -> tuple[str, str, str]:
        name = f"mlguard:{{{mark}}}:rows"
        return name, f"{name}:judge", f"{name}:judged"


def _row(id_: str, fields: Sequence[bytes]) -> WaitingRow:
    return WaitingRow(id_, int(id_.partition("-")[0]) / 1000, _text(fields[1]))


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
