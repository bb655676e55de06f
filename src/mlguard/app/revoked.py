"""Does this process know what other hosts revoked before it started?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlguard.errors import InvalidSettings
from mlguard.logs import LOGGER
from mlguard.revocations import Revocation


class FirstReading:
    """Reads the store of all hosts once: at the start, or again and again until that goes well.

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
        self._is_over = True
        self._said = ""

    def start(self) -> None:
        """Read; blocks for a moment.

        Raises:
            InvalidSettings: The store forgets, or is unfit otherwise.
        """
        self._is_over = False
        try:
            self._read()
        except ConnectionError as error:
            LOGGER.warning(
                "what other hosts revoked is not known, and tokens get a 503 until it is: %s", error
            )

    def look_after(self) -> None:
        """Read where that has not gone well yet; blocks for a moment."""
        if self._is_over:
            return
        try:
            self._read()
        except ConnectionError:
            return
        except InvalidSettings as error:
            if str(error) != self._said:
                LOGGER.warning("%s", error)
            self._said = str(error)
        else:
            LOGGER.warning("what other hosts revoked is known")

    def close(self) -> None:
        """Try no more."""
        self._is_over = True

    def _read(self) -> None:
        if complaint := self._store.complaint():
            raise InvalidSettings(f"auth.revocation_store: {complaint}")
        self._on_read(self._store.read())
        self._is_over = True
        self._store.close()
