"""What is known of all workers, at this moment?"""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from threading import Condition, Lock, Thread
from typing import Any

from mlguard.host.processes import Process
from mlguard.logs import Seldom
from mlguard.metrics import Family, merge
from mlguard.revocations import Revocation
from mlguard.runtime.companion.drift_metrics import DriftMetrics
from mlguard.runtime.companion.frames import Junk, Message, read_revocations, receive
from mlguard.runtime.companion.keeper import Keeper
from mlguard.runtime.companion.link import Link
from mlguard.runtime.companion.teller import Tellers
from mlguard.runtime.companion.totals import Totals
from mlguard.runtime.companion.windows import Windows

DEPARTED = "departed.json"
WORKERS = "workers.json"
MAX_CONNECTIONS = 256
_POLL_WAIT = 0.5  # seconds
_RETURN_WAIT = 3.0
_LAST_WORDS = 5.0
_OPERATOR_WAIT = 5.0


class Hub:
    """All workers' connections, a thread for each.

    What a companion that follows must know is saved at once, by name: it may have to soon.
    """

    def __init__(
        self,
        *,
        service: str,
        authkey: bytes,
        totals: Totals,
        windows: Windows,
        metrics: DriftMetrics,
        keeper: Keeper,
        tellers: Tellers,
        save: Callable[[str, bytes], None],
        counts_apart: bool = False,
    ) -> None:
        self._authkey = authkey
        self._service = service
        self._keeper = keeper
        self._tellers = tellers
        self._save = save
        self._totals = totals
        self._windows = windows
        self._metrics = metrics
        self._counts_apart = counts_apart
        self._log = Seldom()
        self._connections = 0
        self._links: set[Link] = set()
        self._changed = Condition()
        self._collecting = Lock()
        self._polls = 0
        self._last_company = time.monotonic()
        self._patient_until = time.monotonic() + _RETURN_WAIT
        self.farewells: set[Process] = set()

    def welcome(self, connection: Connection) -> None:
        """Serve a new connection in a thread of its own."""
        with self._changed:
            is_full = self._connections >= MAX_CONNECTIONS
            self._connections += not is_full
        if is_full:
            self._log.warning("full", "more than %d workers: one is sent away", MAX_CONNECTIONS)
            connection.close()
            return
        Thread(target=self._serve, args=(connection,), daemon=True).start()

    def loneliness(self) -> float:
        """Return for how many seconds no worker has been connected; 0 while one is."""
        with self._changed:
            # A worker's child may hold its connection open when the worker is dead.
            if any(link.process.runs() for link in self._links):
                self._last_company = time.monotonic()
                return 0.0
            return time.monotonic() - self._last_company

    def sweep(self) -> None:
        """Add up the workers that are gone."""
        now = time.monotonic()
        with self._changed:
            for link in self._links:
                if link.gone_since is None and not link.process.runs():
                    link.gone_since = now
            # A dead worker's child may hold its connection open for ever.
            heard = {
                (link.process, link.name)
                for link in self._links
                if link.gone_since is None or now - link.gone_since < _LAST_WORDS
            }
            if self._totals.sweep(heard):
                self._keep(DEPARTED, self._totals.dump())
                self._keep(WORKERS, self._totals.roster())

    def _keep(self, name: str, content: bytes) -> None:
        """Save for a companion that follows; where that fails, this one goes on."""
        try:
            self._save(name, content)
        except OSError as error:
            self._log.warning("save", "%s cannot be saved: %s", name, error)

    def collect(self) -> list[Family]:
        """Ask every worker, and return the sum; one that does not answer counts as last seen.

        After a restart the workers are waited for: a total that falls would pass for a reset.
        """
        with self._collecting:
            with self._changed:
                patience = self._patient_until - time.monotonic()
                self._changed.wait_for(self._totals.are_complete, max(0.0, patience))
            self._polls += 1
            number = self._polls
            with self._changed:
                links = list(self._links)
            polled = [link for link in links if link.poll(number)]
            with self._changed:
                self._changed.wait_for(
                    lambda: all(k.answered == number or k not in self._links for k in polled),
                    _POLL_WAIT,
                )
                return merge(
                    [
                        self._totals.families(),
                        self._metrics.families(),
                        self._keeper.families(),
                    ]
                )

    def _serve(self, connection: Connection) -> None:
        link = Link(connection)
        try:
            with connection:
                # As multiprocessing's own Listener does, but here, where it keeps no one waiting.
                deliver_challenge(connection, self._authkey)
                answer_challenge(connection, self._authkey)
                message = receive(connection)
                if "operator" in message:
                    self._obey(link)
                    return
                self._greet(link, message)
                while True:
                    self._hear(link, receive(connection))
        except (OSError, EOFError):
            pass
        except Exception as error:  # noqa: BLE001 - one worker must not stop the others
            self._log.warning("junk", "a connection was closed: %r", error)
        finally:
            self._tellers.remove(link.teller)
            with self._changed:
                self._connections -= 1
                if link in self._links:
                    self._links.discard(link)
                    self._last_company = time.monotonic()
                self._changed.notify_all()

    def _greet(self, link: Link, message: Message) -> None:
        hello = message["hello"]
        link.process = Process(int(hello["process"]["pid"]), str(hello["process"]["started"]))
        link.name = str(hello["name"])
        with self._changed:
            self._links.add(link)
            workers = len({link.process for link in self._links if link.gone_since is None})
        if workers > 1 and self._counts_apart:
            text = "%d workers count quotas apart, so each admits all: set quotas.store to host://"
            self._log.warning("apart", text, workers)
        self._tellers.add(link.teller)
        # Only now: what is learned meanwhile is in the book, or it is told to the link.
        link.teller.tell(self._keeper.book.entries())

    def _hear(self, link: Link, message: Message) -> None:
        if "rows" in message:
            self._take_rows(message["rows"])
        elif "snapshot" in message:
            self._take_snapshot(link, message["snapshot"], message["poll"])
        elif "ask" in message:
            self._take_ask(link, int(message["ask"]))
        elif "revoke" in message:
            number = int(message["number"])
            self._keeper.take(read_revocations(message["revoke"])).add_done_callback(
                lambda kept: link.teller.acknowledge(number, kept.result())
            )
        elif "bye" in message:
            self.farewells.add(link.process)
        else:
            raise Junk(f"a message of no known kind: {sorted(message)[:3]}")

    def _obey(self, operator: Link) -> None:
        """Do what an operator says, which is no worker."""
        operator.send({"service": self._service})
        refused = 0
        while "revoke" in (message := receive(operator.connection)):
            ordered = read_revocations(message["revoke"])
            if message["more"]:
                refused += self._keeper.book.learn(ordered)
            else:
                refused += self._take_order(ordered)
                operator.send({"revoke_done": int(message["number"]), "refused": refused})

    def _take_order(self, ordered: list[Revocation]) -> int:
        """Return, when every worker has been told, how many there was no room for."""
        deadline = time.monotonic() + _OPERATOR_WAIT
        refused = self._keeper.take(ordered).result(_OPERATOR_WAIT)
        if not self._tellers.have_told(deadline):
            raise TimeoutError("a revocation is not known everywhere")
        return refused

    def _take_rows(self, rows: list[Any]) -> None:
        for name, version, row in rows:
            model = self._windows.model(name, version)
            if model is not None and not self._windows.add(model, row):
                self._metrics.dropped(model, "busy")

    def _take_snapshot(self, link: Link, snapshot: list[Family] | None, poll: int | None) -> None:
        if snapshot is not None:
            _verify(snapshot)
        with self._changed:
            if snapshot is not None and self._totals.put(link.process, link.name, snapshot):
                self._keep(WORKERS, self._totals.roster())
            if poll is not None:
                link.answered = poll
            self._changed.notify_all()

    def _take_ask(self, link: Link, number: int) -> None:
        with self._changed:
            link.asked = number
            if not link.is_told:
                return
            link.is_told = False
        Thread(target=self._tell, args=(link,), daemon=True).start()

    def _tell(self, link: Link) -> None:
        number = 0
        try:
            while True:
                with self._changed:
                    link.is_told = number == link.asked
                    number = link.asked
                    if link.is_told:
                        return
                link.send({"families": self.collect(), "ask": number})
        except OSError:
            pass
        except Exception as error:  # noqa: BLE001 - one worker must not stop the others
            self._log.warning("collect", "the workers' numbers cannot be told: %r", error)


def _verify(snapshot: list[Family]) -> None:
    """Stop what would spoil everybody's sum."""
    for family in snapshot:
        for sample in family["samples"]:
            if not isinstance(sample["value"], int | float):
                raise Junk("a sample without a number")
    merge([snapshot, snapshot])
