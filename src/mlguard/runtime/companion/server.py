"""How does a companion live and end?"""

from __future__ import annotations

import time
from multiprocessing.connection import Listener
from threading import Event, Thread

from mlguard.host.folder import Folder
from mlguard.host.processes import Process
from mlguard.logs import LOGGER
from mlguard.redis.revocations import RevocationStore
from mlguard.runtime.companion.book import Book
from mlguard.runtime.companion.checker import Checker
from mlguard.runtime.companion.config import CompanionConfig
from mlguard.runtime.companion.drift_metrics import DriftMetrics
from mlguard.runtime.companion.hub import DEPARTED, WORKERS, Hub
from mlguard.runtime.companion.keeper import Keeper
from mlguard.runtime.companion.revoked_file import RevokedFile
from mlguard.runtime.companion.teller import Tellers
from mlguard.runtime.companion.totals import Totals
from mlguard.runtime.companion.windows import Windows

_TICK = 0.5  # seconds
_MAX_LONELINESS = 10.0
_TOUCH_EVERY = 3600.0


def serve(config: CompanionConfig, folder: Folder, supervisor: Process, stop: Event) -> None:
    """Live until `stop`, until the supervisor is gone, or until no worker came for 10 seconds."""
    folder.prepare()
    with folder.lock("companion") as is_first:
        if not is_first:
            return
        metrics = DriftMetrics()
        windows = Windows(config.drift_models, config.window)
        tellers = Tellers()
        keeper = _keeper(config, folder, tellers)
        keeper.start()
        hub = Hub(
            service=config.service,
            authkey=folder.authkey(),
            totals=_totals(folder),
            windows=windows,
            metrics=metrics,
            keeper=keeper,
            tellers=tellers,
            save=folder.save,
            counts_apart=config.counts_apart,
        )
        with folder.listen() as listener:
            Thread(target=_accept, args=(listener, hub), daemon=True).start()
            if config.drift_models:
                Thread(target=Checker(config, windows, metrics).run, daemon=True).start()
            LOGGER.info("the companion of %s is up", config.service)
            is_service_over = _live(folder, hub, keeper, supervisor, stop)
        keeper.stop()
        if is_service_over:
            folder.remove()


def _live(folder: Folder, hub: Hub, keeper: Keeper, supervisor: Process, stop: Event) -> bool:
    """Look after the workers until it is time to end; return whether none will come again."""
    next_touch = 0.0
    while not stop.wait(_TICK):
        if not folder.is_there():
            LOGGER.warning("the folder %s was swept away", folder.path)
            return False
        if time.monotonic() >= next_touch:
            next_touch = time.monotonic() + _TOUCH_EVERY
            folder.touch()
            keeper.touch()
        hub.sweep()
        is_orphan = supervisor in hub.farewells or not supervisor.runs()
        if hub.loneliness() > (0 if is_orphan else _MAX_LONELINESS):
            return is_orphan
    return False


def _keeper(config: CompanionConfig, folder: Folder, tellers: Tellers) -> Keeper:
    store = RevocationStore(config.store, config.service) if config.store else None
    return Keeper(Book(tellers.tell), RevokedFile(folder.root, config.service), store)


def _totals(folder: Folder) -> Totals:
    totals = Totals()
    try:
        totals = Totals(folder.load(DEPARTED))
        totals.expect(folder.load(WORKERS) or b"[]")
    except (OSError, TypeError, ValueError) as error:
        LOGGER.warning("what departed workers had counted is lost: %s", error)
    return totals


def _accept(listener: Listener, hub: Hub) -> None:
    while True:
        try:
            hub.welcome(listener.accept())
        except OSError:  # out of descriptors, or a client that left at once
            time.sleep(0.1)
