"""What does a worker share with the other workers of its service on this host?"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

from mlguard.analyst import Analyst, AnalystConfig
from mlguard.app.background import Background
from mlguard.app.scrape import WorkersApart
from mlguard.errors import InvalidSettings
from mlguard.guard import Offer
from mlguard.host.database import Database, DatabaseFailed
from mlguard.host.folder import Folder
from mlguard.host.kept_calls import HostCalls
from mlguard.host.ledger import HostLedger
from mlguard.host.processes import Process, boot, supervisor
from mlguard.host.revocations import NEWEST, RevocationTable
from mlguard.host.snapshots import Snapshots
from mlguard.host.statements import BOOT
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.metrics import Family, Metrics, merge
from mlguard.revocations import Revocation, Revocations
from mlguard.settings import FeedbackSettings, Settings

if TYPE_CHECKING:
    from mlguard.redis.revocations import RevocationStore

_WAIT = 0.1  # seconds for which others may hold the file, where no quota says
_LOOK = 1.0
_POLL = 0.025
_SELDOM = 0.2  # seconds between two polls where nobody has scraped for a while
_A_WHILE = 60.0
_SYNC = 0.04
_EXCHANGE = 0.5
_LEASE = 2.0
_TOUCH = 3600.0
_ASKED = f"SELECT (SELECT asked FROM instance WHERE name = ?), {NEWEST}"  # noqa: S608
_TAKE = """
INSERT INTO lease VALUES (:name, :holder, :until)
ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until
WHERE holder = excluded.holder OR until < :now
"""


class Host:
    """A worker's part in the file of its service: metrics, revocations and, on host://, counts.

    Observers fail open: without the file requests go on, what is revoked holds in this worker, and
    is written when the file is back. What lifetimes need is not begun without.

    Args:
        settings: The service's.
        metrics: This worker's.
        known: What this worker refuses.

    Attributes:
        ledger: Counts quotas, where the settings say host://.
    """

    def __init__(self, settings: Settings, metrics: Metrics, known: Revocations) -> None:
        quotas, auth = settings.quotas, settings.auth
        is_counted = quotas is not None and quotas.store.startswith("host://")
        self._service = settings.service.name
        self._meeting = settings.meeting
        self._wanted = settings.folder
        self._is_lasting = quotas is not None and quotas.folder is not None
        self._needs_it = is_counted and quotas is not None and quotas.has_lifetime
        self._counts_apart = quotas is not None and quotas.store == "memory://"
        self._metrics = metrics
        self._log = RateLimitedLog()
        self._database = Database(
            wait=quotas.store_timeout if quotas and is_counted else _WAIT,
            is_lasting=self._is_lasting,
        )
        self._database.on_new(self._name_boot)  # first: what is counted of another is nothing
        self.ledger = (
            HostLedger(self._database, is_lasting=self._is_lasting) if is_counted else None
        )
        self._snapshots = Snapshots(self._database, metrics.snapshot, metrics.workers_lost)
        self._revocations = RevocationTable(self._database, known)
        self._database.on_new(self._revocations.renew)
        self._database.on_new(self._snapshots.renew)
        self._analyst = (
            Analyst(
                AnalystConfig.of(settings),
                self._database,
                on_up=metrics.set_drift_worker_up,
                on_restart=metrics.analyst_restarted,
                on_drop=metrics.rows_dropped,
            )
            if settings.drift and not settings.drift.store
            else None
        )
        self._store_url = auth.revocation_store if auth else None
        self._store = _store(self._store_url, self._service) if self._store_url else None
        self._begin()

    def _begin(self) -> None:
        self._folder: Folder | None = None
        self._is_open = False
        self._trouble = ""
        self._asked_at = 0.0
        self._touched = time.monotonic()
        self._is_store_away = False
        self._instance = Process.mine()

    @property
    def is_alone(self) -> bool:
        """Whether this worker has no siblings: its own numbers are then the instance's."""
        return self._instance == Process.mine()

    @property
    def offer(self) -> Offer | None:
        """Takes sampled rows, where drift is checked."""
        return self._analyst.offer if self._analyst else None

    def calls(self, feedback: FeedbackSettings) -> HostCalls:
        """Return where calls wait for their labels."""
        return HostCalls(
            self._database, most=feedback.max_calls, retention=float(feedback.retention)
        )

    def add_to(self, background: Background) -> None:
        """Name what is to be done in the background."""
        background.add("answers", _POLL, self._poll)
        background.add("host", _LOOK, self._look_after)
        if self.ledger is not None and self._needs_it:
            background.add("sync", _SYNC, self.ledger.sync)
        if self._store is not None:
            background.add("revocations", _EXCHANGE, self._exchange, may_wait=True)

    def start(self, maker: Process) -> None:
        """Meet the others, in this process; blocks for a moment.

        Args:
            maker: The process that made the service: this one, or one that has forked this one.

        Raises:
            InvalidSettings: Lifetimes need the file, and there is none.
        """
        self._begin()
        who = supervisor()
        self._instance = maker if who == Process.mine() else who
        try:
            self._open()
        except (OSError, DatabaseFailed) as error:
            if self._needs_it:
                raise InvalidSettings(f"lifetimes need a folder to be kept in: {error}") from None
            self._say(str(error))
        else:
            self._metrics.set_degraded("host", False)

    def key(self) -> bytes:
        """Return 32 secret bytes that all workers of the service on this host share.

        Raises:
            OSError: There is no folder that can be trusted.
        """
        folder = self._folder or self._find()
        return folder.key()

    def collect(self) -> list[Family]:
        """Return the sum over all workers of the instance.

        Raises:
            WorkersApart: They cannot meet, and this one has siblings.
        """
        try:
            families = self._collected()
        except DatabaseFailed as error:
            if not self.is_alone:
                raise WorkersApart(error) from None
            return self._metrics.snapshot()
        return self._with_analysts(families)

    def _with_analysts(self, families: list[Family]) -> list[Family]:
        """Add what the analyst told last."""
        return merge([families, self._analyst.families()]) if self._analyst else families

    def _collected(self) -> list[Family]:
        if not self._is_open:
            raise DatabaseFailed(self._trouble or "it is not open")
        return self._snapshots.collect()

    def collect_alone(self) -> list[Family] | None:
        """Return this worker's numbers where they are the instance's; None where others count."""
        if not self._is_open or not self._snapshots.is_alone:
            return None
        try:
            families = self._snapshots.collect_alone()
        except DatabaseFailed:  # `collect` says so
            return None
        return None if families is None else self._with_analysts(families)

    def learn(self, *revocations: Revocation) -> int:
        """Refuse what they name, the others after `share`; tell for how many there was no room."""
        return self._revocations.learn(revocations)

    def share(self) -> None:
        """Have the other workers refuse what is revoked here; blocks, and is tried again."""
        try:
            self._revocations.save()
        except DatabaseFailed as error:
            self._log.warning("revoke", "a revocation is kept here until it can be: %s", error)

    def tell(self, revocation: Revocation) -> int:
        """Do what `learn` and `share` do in a process that serves nothing, and tell other hosts.

        Raises:
            OSError: It cannot be kept, or not in the store of all hosts.
        """
        refused = 0
        try:
            self._folder = self._find()
            self._revocations.start()
            refused = self.learn(revocation)
            self._revocations.save()
        except DatabaseFailed as error:
            raise OSError(str(error)) from None
        finally:
            self._database.close()
            if self._store is not None:
                self._store.publish([revocation])
                self._store.close()
        return refused

    def close(self) -> None:
        """Write what is left for the others, and let go of the file."""
        is_open, self._is_open = self._is_open, False
        if is_open:
            if self._analyst is not None:
                self._analyst.close()
            with suppress(DatabaseFailed):
                self._snapshots.close()
        if self._store is not None:
            self._store.close()
        self._database.close()

    def _find(self) -> Folder:
        folder = Folder.of(self._meeting, self._wanted)
        folder.prepare()
        self._database.move(folder.database)
        return folder

    def _open(self) -> None:
        self._folder = self._find()
        self._name_boot()
        self._snapshots.start(self._instance)
        self._revocations.start()
        self._is_open = True

    def _poll(self) -> float:
        """See whether somebody asks for this worker's numbers, and what others revoked."""
        if self._is_open:
            with suppress(DatabaseFailed):  # `_look_after` says so
                ((asked, newest),) = self._database.read(_ASKED, (self._snapshots.instance,))
                self._snapshots.answer(asked or 0)
                self._revocations.read(newest or 0)
                self._asked_at = (asked or 0) / 1e9
        return _POLL if time.monotonic() - self._asked_at < _A_WHILE else _SELDOM

    def _look_after(self) -> float | None:
        """Do what requests need of the file, and say whether it can be done."""
        try:
            if not self._is_open:
                self._open()
            self._prepare_again()
            self._database.look_after()
            if self.ledger is not None:
                self.ledger.look_after()
            self._snapshots.write()
            self._snapshots.look_after()
            is_saved = self._revocations.save()
        except (OSError, DatabaseFailed) as error:
            self._say(str(error))
            return None
        self._say("")
        if self._analyst is not None:
            self._analyst.look_after()
        self._keep_young()
        if self._counts_apart:
            self._warn_apart()
        return None if is_saved else _POLL

    def _prepare_again(self) -> None:
        """Make a folder that was swept away; where that fails, nobody goes on in the old file."""
        try:
            if self._folder is not None:
                self._folder.prepare()
        except OSError:
            with suppress(DatabaseFailed):
                self._database.look_after()
            raise

    def _warn_apart(self) -> None:
        """Say, in one of several workers, that quotas in memory are not one count."""
        workers = self._snapshots.workers()
        if len(workers) > 1 and self._snapshots.name == min(workers):
            text = "%d workers count quotas apart, so each admits all: set quotas.store to host://"
            self._log.warning("apart", text, len(workers))

    def _keep_young(self) -> None:
        if self._folder is not None and time.monotonic() - self._touched > _TOUCH:
            self._touched = time.monotonic()
            self._folder.touch()

    def _name_boot(self) -> None:
        self._database.write(BOOT, (boot(),))

    def _say(self, trouble: str) -> None:
        if trouble and not self._trouble:
            LOGGER.warning("the workers of this host cannot meet: %s; requests go on", trouble)
        elif self._trouble and not trouble:
            LOGGER.warning("the workers of this host meet again")
        self._trouble = trouble
        self._metrics.set_degraded("host", bool(trouble))
        self._say_revocations()

    def _say_revocations(self) -> None:
        is_worse = self._is_store_away or self._revocations.is_full or bool(self._trouble)
        self._metrics.set_degraded("revocations", is_worse)

    def _exchange(self) -> None:
        """Compare what is revoked with the store of all hosts: one worker does, for its host."""
        if self._store is None or not self._leads("revocations"):
            return
        try:
            self._store.exchange(self._revocations)
            with suppress(DatabaseFailed):  # `_look_after` says so
                self._revocations.save()
        except Exception as error:  # noqa: BLE001 - what is known here holds
            self._is_store_away = True
            self._log.warning("store", "revocations are not kept in the store: %s", error)
        else:
            self._is_store_away = False
        self._say_revocations()

    def _leads(self, name: str) -> bool:
        """Say whether this worker is the one that does something for all; without a file, it is."""
        now, holder = time.monotonic(), self._snapshots.name
        values = {"name": name, "holder": holder, "until": now + _LEASE, "now": now}
        try:
            return self._database.write(_TAKE, values) > 0
        except DatabaseFailed:
            return True


def _store(url: str, service: str) -> RevocationStore:
    from mlguard.redis.revocations import RevocationStore  # what no Redis needs is not loaded

    return RevocationStore(url, service)
