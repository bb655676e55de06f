"""Does this process know what other hosts revoked before it started?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import Event, Thread

from mlguard.errors import InvalidSettings
from mlguard.logs import LOGGER
from mlguard.revocations import Revocation

_PAUSE = 0.5  # seconds
_LAST_TRY = 1.0


class FirstReading:
    """Reads the store of all hosts once: at the start, or in a thread until that goes well.

    Args:
        url: Of the store.
        service: The service's name.
        on_read: Told what is revoked.
    """

    def __init__(
        self, url: str, service: str, on_read: Callable[[Sequence[Revocation]], None]
    ) -> None:
        from mlguard.redis.revocations import RevocationStore  # what no Redis needs is not loaded

        self._store = RevocationStore(url, service)
        self._on_read = on_read
        self._is_over = Event()
        self._thread: Thread | None = None

    def start(self) -> None:
        """Read; blocks for a moment.

        Raises:
            InvalidSettings: The store forgets, or is unfit otherwise.
        """
        self._is_over.clear()
        try:
            self._read()
        except ConnectionError as error:
            LOGGER.warning(
                "what other hosts revoked is not known, and tokens get a 503 until it is: %s", error
            )
            self._thread = Thread(target=self._go_on, name="mlguard-revoked", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Try no more."""
        self._is_over.set()
        if self._thread is not None:
            self._thread.join(_LAST_TRY)

    def _read(self) -> None:
        if complaint := self._store.complaint():
            raise InvalidSettings(f"auth.revocation_store: {complaint}")
        self._on_read(self._store.read())
        self._store.close()

    def _go_on(self) -> None:
        said = ""
        while not self._is_over.wait(_PAUSE):
            try:
                self._read()
            except ConnectionError:
                continue
            except InvalidSettings as error:
                if str(error) != said:
                    LOGGER.warning("%s", error)
                said = str(error)
            else:
                LOGGER.warning("what other hosts revoked is known")
                return
