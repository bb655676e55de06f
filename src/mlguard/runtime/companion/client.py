"""What does a worker hold of its companion?"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Callable

from mlguard.logs import LOGGER
from mlguard.metrics import Family
from mlguard.runtime.companion.config import CompanionConfig
from mlguard.runtime.companion.courier import Courier, Row, new_name
from mlguard.runtime.companion.folder import Folder
from mlguard.runtime.companion.processes import supervisor
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
        max_rows: int = MAX_ROWS,
    ) -> None:
        """Remember what is needed; nothing starts before `start`.

        Args:
            config: Who we are.
            snapshot: Returns this worker's numbers; called in a thread of ours.
            on_state: Told, in some thread, whether the companion is there: whenever that changes.
            on_drop: Told the model, version, reason and count of rows lost after `offer`.
            max_rows: Rows that may wait.
        """
        self._config = config
        self._snapshot = snapshot
        self._on_state = on_state
        self._on_drop = on_drop
        self._max_rows = max_rows
        self._rows: deque[Row] = deque()
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
            snapshot=self._snapshot,
            on_state=self._on_state,
            on_drop=self._on_drop,
            name=self._name,
        )
        self._courier.start()

    def offer(self, model: str, version: str, row: object) -> bool:
        """Queue a row for the drift check; False where it is lost, as too many wait."""
        if len(self._rows) >= self._max_rows:
            return False
        self._rows.append((model, version, row))
        return True

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
        if courier is not None and self._pid == os.getpid():
            courier.stop(timeout)

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
            self._courier = None
            self._key = b""
