"""Do all workers of a host count in one file, whatever dies? Real processes, real signals."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from hypothesis import settings as examples
from hypothesis.stateful import rule

from mlguard.host.database import Database
from mlguard.host.ledger import HostLedger
from tests.core.ledgers import Hooks, LedgerMachine


class HostMachine(LedgerMachine):
    """The ledger of a host, which is also closed and opened, swept and restored at any moment."""

    def make(self, clock: Callable[[], float]) -> Hooks:
        self.folder = tempfile.TemporaryDirectory(prefix="mg")
        self.database = Database(Path(self.folder.name) / "host.db", wait=2.0, is_lasting=True)
        self.ledger = HostLedger(self.database, is_lasting=True, timer=clock, hold=1e9)
        self.ledger.start()
        ledger = self.ledger
        return Hooks(ledger.debit, ledger.apply, ledger.entries, ledger.reset)

    @rule()
    def reopen(self) -> None:
        self.database.close()
        self.ledger.start()

    @rule()
    def look_after(self) -> None:
        self.ledger.look_after()
        self.database.look_after()

    def teardown(self) -> None:
        if hasattr(self, "database"):
            self.database.close()
            self.folder.cleanup()


TestHostMachine = HostMachine.TestCase
TestHostMachine.settings = examples(max_examples=60, stateful_step_count=40, deadline=None)
