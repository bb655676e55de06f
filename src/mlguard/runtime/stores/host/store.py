"""How do all workers of a service on a host count in one ledger, without a server?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

from mlguard.host.folder import Folder
from mlguard.host.processes import supervisor
from mlguard.ledger import Change, Entry, Order, Receipt
from mlguard.logs import LOGGER, Seldom
from mlguard.runtime.companion.config import CompanionConfig
from mlguard.runtime.companion.spawner import Spawner
from mlguard.runtime.stores.host.client import Client, unavailable
from mlguard.runtime.stores.host.lifetimes import HOMELESS
from mlguard.runtime.stores.host.links import LoopLink, Place, Unsent
from mlguard.runtime.stores.host.wire import Junk, read_receipt, write_changes, write_order

PATIENCE = 5.0  # seconds for the ledger to come up
_RETRY = 0.02


class HostStore:
    """A worker's way to the ledger that all workers of its service on this host share.

    The ledger is a process of its own, which the workers start where there is none. Where one
    cannot connect it raises at once, and the ledger is started in a thread.

    Args:
        config: Who we are.
        path: The folder where lifetime sums outlive reboots; None keeps none.
        timeout: The longest that a call takes, in seconds.
        holder: Who holds what is charged in flight; each process is told apart.
    """

    def __init__(
        self, config: CompanionConfig, *, path: Path | None, timeout: float = 0.1, holder: str
    ) -> None:
        self._config = replace(config, drift_models=(), report=None, store=None)
        self._path = path
        self._timeout = timeout
        self._holder = holder
        self._homes: dict[int, _Home] = {}

    def start(self) -> None:
        """Have the ledger up, in this process: call it before requests. Blocks, 5 seconds at most.

        Where it does not come up, that is logged, and tried again when it is asked.
        """
        if not self._home.bring_up():
            LOGGER.warning("the host's ledger did not come up")

    def debit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Make the changes, which have the order's tag, and then the debit; blocks."""
        return self._home.client.debit(order, changes)

    async def adebit(self, order: Order, changes: Sequence[Change] = ()) -> Receipt:
        """Do what `debit` does, never blocking the event loop."""
        deadline = time.monotonic() + self._timeout
        written = (*write_order(order), write_changes(changes))
        return read_receipt(await self._home.ask(deadline, "debit", *written))

    def apply(self, changes: Sequence[Change]) -> None:
        """Make changes of any tags; blocks. With none, it tells whether the ledger is there."""
        self._home.client.apply(changes)

    def complaint(self, *, lifetime: bool) -> str | None:
        """Say what makes the store unfit; blocks.

        Args:
            lifetime: Whether something is counted that must never be forgotten.
        """
        if not hasattr(socket, "AF_UNIX"):  # pragma: no cover - Windows
            return "this platform has no Unix sockets"
        if not lifetime:
            return None
        return HOMELESS if self._path is None else self._home.client.complaint() or None

    def entries(self, tag: str, account: str) -> list[Entry]:
        """Tell an operator what an account has used; blocks."""
        return self._home.client.entries(tag, account)

    def reset(self, tag: str, account: str, *, lifetime: bool) -> None:
        """Forget what an account has used in windows, and ever where that is meant too; blocks."""
        self._home.client.reset(tag, account, lifetime=lifetime)

    def close(self) -> None:
        """Let the connections go."""
        home = self._homes.pop(os.getpid(), None)
        if home is not None:
            home.close()

    @property
    def _home(self) -> _Home:
        """What this process has; a fork's child makes its own."""
        pid = os.getpid()
        home = self._homes.get(pid)
        if home is None:
            holder = f"{self._holder}-{pid}-{secrets.token_hex(4)}"
            fresh = _Home(self._config, self._path, self._timeout, holder)
            home = self._homes.setdefault(pid, fresh)
            for other in [other for other in list(self._homes) if other != pid]:
                self._homes.pop(other, None)
        return home


class _Home:
    """What one process holds of the ledger."""

    def __init__(
        self, config: CompanionConfig, path: Path | None, timeout: float, holder: str
    ) -> None:
        who = supervisor()
        self._folder = Folder.of(config, who)
        self._place = Place(self._folder, holder)
        self._timeout = timeout
        self._is_alone = who.pid == os.getpid()
        self._spawner = Spawner(
            self._folder,
            config,
            who,
            module="mlguard.runtime.stores.host",
            lock="spawn-ledger",
            more={"path": str(path) if path else None},
        )
        self._spawning = Lock()
        self._closing = Event()
        self._log = Seldom()
        self._links: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLink] = (
            weakref.WeakKeyDictionary()
        )
        self._linking = Lock()
        self.client = Client(self._place, timeout, self._summon)

    async def ask(self, deadline: float, what: str, *arguments: object) -> Any:
        """Ask without blocking the loop, over the connection of the loop that runs."""
        try:
            try:
                return await self._link().ask(deadline, what, *arguments)
            except Unsent:
                return await self._link().ask(deadline, what, *arguments)
        except (OSError, Junk) as error:
            unavailable(error)

    def bring_up(self) -> bool:
        """Have a ledger that answers; blocks. Say whether there is one."""
        with self._spawning:
            return self._bring_up()

    def close(self) -> None:
        """Let the connections go."""
        self._closing.set()
        with self._spawning:
            self._spawner.leave()
        if self._is_alone:
            self.client.leave()
        self.client.close()
        with self._linking:
            links = list(self._links.items())
            self._links.clear()
        for loop, link in links:
            if loop.is_running() and loop is not _running_loop():
                with contextlib.suppress(RuntimeError):  # it has ended just now
                    loop.call_soon_threadsafe(link.close, loop)
            else:
                link.close(loop)

    def _link(self) -> LoopLink:
        loop = asyncio.get_running_loop()
        link = self._links.get(loop)
        if link is None or not link.is_open:
            try:
                link = LoopLink(self._place)
            except OSError:
                self._summon()
                raise
            with self._linking:
                for other in [other for other in self._links if other.is_closed()]:
                    self._links.pop(other).close(other)
                self._links[loop] = link
        return link

    def _summon(self) -> None:
        """Have the ledger started by a thread, unless one does already."""
        if not self._closing.is_set() and self._spawning.acquire(blocking=False):
            try:
                Thread(target=self._summoned, name="mlguard-ledger", daemon=True).start()
            except RuntimeError:  # the interpreter ends
                self._spawning.release()

    def _summoned(self) -> None:
        try:
            self._bring_up()
        finally:
            self._spawning.release()

    def _bring_up(self) -> bool:
        patience = time.monotonic() + PATIENCE
        while not self._closing.is_set():
            try:
                self._folder.prepare()
                self.client.greet()
            except (FileNotFoundError, ConnectionError):
                self._spawner.ensure()
            except TimeoutError:
                pass  # one that is there and hangs
            except (OSError, Junk) as error:
                self._log.warning("reach", "the host's ledger cannot be reached: %s", error)
                return False
            else:
                self._spawner.arrived()
                self._spawner.leave()
                return True
            if time.monotonic() > patience:
                return False
            self._closing.wait(_RETRY)
        return False


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
