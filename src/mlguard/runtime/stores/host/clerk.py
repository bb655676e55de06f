"""What does the host's ledger do when it is asked?"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeAlias

from mlguard.ledger import FLIGHT, LIFETIME, WINDOW, Change, Limit, MemoryLedger, Note, Receipt
from mlguard.logs import Seldom
from mlguard.runtime.stores.host.journal import Journal
from mlguard.runtime.stores.host.lifetimes import HOMELESS, Lifetimes
from mlguard.runtime.stores.host.wire import (
    DONE,
    LATE,
    MAX_CHANGES,
    UNABLE,
    Junk,
    read_changes,
    read_order,
)

Counters: TypeAlias = Sequence[tuple[str, str, Limit]]
"""What is counted in: tag, account and limit of each."""


class Unable(Exception):
    """Why something cannot be done."""


class Clerk:
    """One ledger, its journals, and what may be asked of it.

    Args:
        ledger: What counts.
        journal: Where it writes down what a successor must know.
        lifetimes: Where it writes down what must never be forgotten.
    """

    def __init__(self, ledger: MemoryLedger, journal: Journal, lifetimes: Lifetimes) -> None:
        self._ledger = ledger
        self._journal = journal
        self._lifetimes = lifetimes
        self._notes: dict[tuple[str, str, str, str], Note] = {}
        self._log = Seldom()
        self._compactions: set[asyncio.Task[None]] = set()
        self._words: dict[str, Callable[..., object]] = {
            "debit": self._debit,
            "apply": self._apply,
            "complaint": self._complaint,
            "entries": self._entries,
            "reset": self._reset,
        }

    def begin(self) -> set[str]:
        """Take over from who was here before; return who holds something."""
        notes = self._journal.load(self._ledger.restore)
        holders = {note.holder for note in notes if note.kind == FLIGHT}
        self._journal.open()
        self._lifetimes.look_after()
        return holders

    def answer(self, message: list[Any], holder: str) -> list[object]:
        """Do what a message asks; raises where it cannot be understood."""
        number, deadline, what, *arguments = message
        if time.monotonic() > deadline:
            return [number, LATE]
        try:
            return [number, DONE, self._words[what](holder, *arguments)]
        except Unable as error:
            return [number, UNABLE, str(error)]

    def write(self) -> None:
        """Write down what has changed, before anybody is answered."""
        if self._notes:
            notes = list(self._notes.values())
            self._notes.clear()
            try:
                self._journal.append(notes)
            except OSError as error:
                # Counts are exact as long as this process lives.
                self._log.warning("journal", "the ledger would not survive: %s", error)

    def drop(self, holder: str) -> None:
        """Take back all that somebody holds who is gone."""
        self._ledger.drop(holder)
        self._keep(Note(FLIGHT, "", "", (), holder))
        self.write()

    def look_after(self) -> None:
        """Do what is to be done now and then."""
        self._lifetimes.look_after()
        for journal, lifetime in ((self._journal, False), (self._lifetimes_journal, True)):
            if journal is not None and journal.has_grown and not self._compactions:
                keys = self._ledger.keys(lifetime=lifetime)
                task = asyncio.create_task(journal.compact(keys, self._selected(lifetime)))
                self._compactions.add(task)
                task.add_done_callback(self._compactions.discard)

    def close(self) -> None:
        """Let go of the files."""
        self._lifetimes.close()
        self._journal.close()

    @property
    def _lifetimes_journal(self) -> Journal | None:
        return None if self._lifetimes.trouble else self._lifetimes.journal

    def _selected(self, lifetime: bool) -> Callable[[str], Iterable[Note]]:
        return lambda key: (n for n in self._ledger.notes(key) if (n.kind == LIFETIME) == lifetime)

    def _debit(self, holder: str, tag: str, lines: list[Any], written: list[Any]) -> Receipt:
        order, changes = read_order([tag, lines]), read_changes(written)
        charged = [(tag, line.account, line.limit) for line in order.lines]
        with_changes = [*charged, *((c.tag, c.account, c.limit) for c in changes)]
        before = self._before(with_changes, holder)
        if changes:
            self._ledger.settle(changes, holder)
        receipt = self._ledger.debit(order, holder)
        if changes or receipt.is_admitted or receipt.ended:
            self._keep_all(with_changes if changes else charged, holder, before)
        return receipt

    def _apply(self, holder: str, written: list[Any]) -> None:
        changes: list[Change] = read_changes(written)
        if len(changes) > MAX_CHANGES:
            raise Junk("too many changes")
        charged = [(c.tag, c.account, c.limit) for c in changes]
        before = self._before(charged, holder)
        self._ledger.settle(changes, holder)
        self._keep_all(charged, holder, before)

    def _complaint(self, _holder: str) -> str:
        return self._lifetimes.trouble

    def _entries(self, _holder: str, tag: str, account: str) -> object:
        return self._ledger.entries(tag, account)

    def _reset(self, _holder: str, tag: str, account: str, lifetime: bool) -> None:
        # Without a folder there is no sum to forget.
        if lifetime and self._lifetimes.trouble != HOMELESS:
            self._write_sums([Note(LIFETIME, tag + account, "", ())])
        self._ledger.reset(tag, account, lifetime=lifetime)
        self._keep(Note(WINDOW, tag + account, "", ()))

    def _before(self, charged: Counters, holder: str) -> list[Note]:
        """Write down what cannot be undone otherwise; an Unable where it cannot be counted."""
        if all(limit.kind != LIFETIME for _, _, limit in charged):
            return []
        if self._lifetimes.trouble:
            raise Unable(self._lifetimes.trouble)
        return [self._ledger.note(*counter, holder) for counter in charged]

    def _keep_all(self, charged: Counters, holder: str, before: list[Note]) -> None:
        notes = [self._ledger.note(*counter, holder) for counter in charged]
        if sums := [note for note in notes if note.kind == LIFETIME]:
            try:
                self._write_sums(sums)
            except Unable:
                for note in before:
                    self._ledger.restore(note)
                raise
        for note in notes:
            self._keep(note)

    def _write_sums(self, notes: list[Note]) -> None:
        if self._lifetimes.trouble:
            raise Unable(self._lifetimes.trouble)
        try:
            self._lifetimes.write(notes)
        except OSError as error:
            raise Unable(self._lifetimes.trouble) from error

    def _keep(self, note: Note) -> None:
        """Have it written down with the next; what was said of the same counter is past."""
        counter = (note.kind, note.key, note.field, note.holder)
        if note.kind != LIFETIME:
            self._notes.pop(counter, None)
            self._notes[counter] = note
