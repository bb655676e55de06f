"""What does a worker hold of its companion?"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from mlguard.host.folder import Folder
from mlguard.host.processes import supervisor
from mlguard.logs import LOGGER
from mlguard.metrics import Family
from mlguard.revocations import Revocation
from mlguard.runtime.companion import operators
from mlguard.runtime.companion.config import CompanionConfig
from mlguard.runtime.companion.courier import Courier, Row, new_name
from mlguard.runtime.companion.outbox import Outbox
from mlguard.runtime.companion.revoked_file import RevokedFile
from mlguard.runtime.companion.spawner import Spawner

MAX_ROWS = 10_000


class Companion:
    """A worker's way to the one process beside all workers of its service on this host.

    Fails open: without a companion inference goes on, and drift checks and common numbers pause.
    """

    def __init__(
        self,
        config: CompanionConfig,
        *,
        snapshot: Callable[[], list[Family]],
        on_state: Callable[[bool], None],
        on_drop: Callable[[str, str, str, int], None] = lambda *_: None,
        on_revoked: Callable[[list[Revocation]], None] = lambda _: None,
        max_rows: int = MAX_ROWS,
    ) -> None:
        """Remember what is needed; nothing starts before `start`.

        Args:
            config: Who we are.
            snapshot: Returns this worker's numbers; called in a thread of ours.
            on_state: Told, in some thread, whether the companion is there: whenever that changes.
            on_drop: Told the model, version, reason and count of rows lost after `offer`.
            on_revoked: Told in a thread of ours what any worker, operator or host revoked: what is
                known at each connection, then what comes; some of it more than once.
            max_rows: Rows that may wait.
        """
        self._config = config
        self._snapshot = snapshot
        self._on_state = on_state
        self._on_drop = on_drop
        self._on_revoked = on_revoked
        self._max_rows = max_rows
        self._rows: deque[Row] = deque()
        self._outbox = Outbox()
        self._courier: Courier | None = None
        self._pid = 0
        self._name = ""
        self._key = b""

    def start(self) -> None:
        """Begin, in this process: after a fork each child must start anew. Returns at once."""
        self._be_in_this_process()
        if self._courier is not None:
            return
        who = supervisor()
        try:
            folder = Folder.of(self._config, who)
            folder.prepare()
        except OSError as error:
            LOGGER.warning("no companion, as its folder cannot be trusted: %s", error)
            self._on_state(False)
            return
        self._courier = Courier(
            folder,
            Spawner(folder, self._config, who),
            self._rows,
            self._outbox,
            snapshot=self._snapshot,
            on_state=self._on_state,
            on_drop=self._on_drop,
            on_revoked=self._on_revoked,
            on_overdue=partial(operators.remember, self._config.service, root=folder.root),
            name=self._name,
        )
        self._courier.start()

    def offer(self, model: str, version: str, row: object) -> bool:
        """Queue a row for the drift check; False where it is lost, as too many wait."""
        if len(self._rows) >= self._max_rows:
            return False
        self._rows.append((model, version, row))
        return True

    def revoke(self, revocations: Sequence[Revocation]) -> None:
        """Have every worker of the service told, this one among them; returns at once.

        What is revoked is kept until the companion has written it down. Outside of a worker, as in
        a job of the same service, whoever runs is told and it is written down here, blocking.

        Raises:
            RevocationsFull: Too many wait for the companion already.
            OSError: Outside of a worker: it cannot be written down, or not in the store.
        """
        self._be_in_this_process()
        if self._courier is None:
            self._deliver(revocations)
        else:
            self._outbox.put(revocations)
            self._courier.ring()

    def _deliver(self, revocations: Sequence[Revocation]) -> None:
        """Do what the companion would have done."""
        config = self._config
        root = Folder.of(config, supervisor()).root if config.root else None
        spread = operators.spread(config.service, revocations, config.store, root=root)
        if trouble := spread.forgotten or spread.unpublished:
            raise trouble

    @property
    def has_handed_over(self) -> bool:
        """Whether the companion has written down all that was revoked here."""
        return self._outbox.is_empty

    def known_revocations(self) -> list[Revocation]:
        """Read what was revoked on this host, for a start before the companion is there.

        Raises:
            OSError: It cannot be read, or be trusted.
        """
        folder = Folder.of(self._config, supervisor())
        return RevokedFile(folder.root, self._config.service).read()

    def collect(self, timeout: float = 1.0) -> list[Family] | None:
        """Return the numbers of all workers as of now; None where they do not come in time.

        Waits: not for an event loop.
        """
        if self._courier is None or self._pid != os.getpid():
            return None
        return self._courier.ask(timeout)

    @property
    def is_alone(self) -> bool:
        """Whether this worker has no siblings: its own numbers are then the service's."""
        return supervisor().pid == os.getpid()

    def close(self, timeout: float = 1.0) -> None:
        """Hand over the last rows and numbers, waiting no longer than `timeout` seconds."""
        courier, self._courier = self._courier, None
        if courier is None or self._pid != os.getpid():
            return
        courier.stop(timeout)
        if left := self._outbox.overdue(0.0):
            root = Folder.of(self._config, supervisor()).root
            try:
                operators.remember(self._config.service, left, root=root)
            except (OSError, ValueError) as error:
                LOGGER.error("%d revocations are lost: %s", len(left), error)

    def key(self) -> bytes:
        """Return 32 secret bytes that all workers of this service on this host share.

        Call it after a fork, as what is shared hangs on the supervisor. Where the private folder
        cannot be trusted, the key is this worker's alone.
        """
        self._be_in_this_process()
        if not self._key:
            try:
                folder = Folder.of(self._config, supervisor())
                folder.prepare()
                self._key = folder.key()
            except OSError as error:
                LOGGER.warning("no common key, as its folder cannot be trusted: %s", error)
                self._key = secrets.token_bytes(32)
        return self._key

    def _be_in_this_process(self) -> None:
        """Forget what a fork has copied: the thread is not here, the rows are the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._name = new_name()
            self._rows = deque()
            self._outbox = Outbox()
            self._courier = None
            self._key = b""
