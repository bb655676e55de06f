"""What have all workers counted, the departed included?"""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import asdict

from mlguard.host.processes import Process
from mlguard.metrics import Family, merge

MAX_WORKERS = 1024


class Totals:
    """The last snapshot of each worker, and the sum of those that are gone.

    Args:
        gone: What `dump` wrote in an earlier life.
    """

    def __init__(self, gone: bytes | None = None) -> None:
        self._gone: list[Family] = json.loads(gone) if gone else []
        self._last: dict[tuple[Process, str], list[Family]] = {}
        self._expected: set[tuple[Process, str]] = set()
        self._swept: set[tuple[Process, str]] = set()

    def put(self, process: Process, name: str, snapshot: list[Family]) -> bool:
        """Remember the newest snapshot of a worker; say whether it is a new one's.

        A process may hold several workers, by name.
        """
        is_new = (process, name) not in self._last
        if (process, name) in self._swept or (is_new and len(self._last) >= MAX_WORKERS):
            return False
        self._last[process, name] = snapshot
        return is_new

    def roster(self) -> bytes:
        """Write down which workers are known."""
        return json.dumps([[asdict(process), name] for process, name in self._last]).encode()

    def expect(self, roster: bytes) -> None:
        """Remember the workers that an earlier companion knew."""
        self._expected = {(Process(**process), name) for process, name in json.loads(roster)}

    def are_complete(self) -> bool:
        """Say whether every expected worker that still runs has told its numbers again."""
        self._expected = {key for key in self._expected if key not in self._last and key[0].runs()}
        return not self._expected

    def sweep(self, heard: Container[tuple[Process, str]] = ()) -> bool:
        """Add up the workers whose process is gone; say whether there were any.

        Args:
            heard: Workers that may still be heard: what they sent before they went is under way.
        """
        gone = [key for key in self._last if key not in heard and not key[0].runs()]
        if gone:
            self._swept.update(gone)
            self._gone = merge([self._gone, *(_lasting(self._last.pop(key)) for key in gone)])
        return bool(gone)

    def families(self) -> list[Family]:
        """Return the sum over all workers."""
        return merge([self._gone, *self._last.values()])

    def dump(self) -> bytes:
        """Write down the sum of the workers that are gone."""
        return json.dumps(self._gone).encode()


def _lasting(snapshot: list[Family]) -> list[Family]:
    return [family for family in snapshot if family["type"] in ("counter", "histogram", "summary")]
