"""Has this address failed to authenticate too often?"""

from __future__ import annotations

from mlguard.quotas import Charge, MemoryLedger
from mlguard.settings import Rate


class Failures:
    """Refused tokens, counted by client address in this process.

    Fails open where the server does not say who the client is.

    Args:
        rate: How many may be refused in which time; None switches it off.
    """

    def __init__(self, rate: Rate | None) -> None:
        self._rates = (rate,) if rate else ()
        self._ledger = MemoryLedger()

    def wait(self, client: str, now: float) -> float:
        """Tell how many seconds it takes until another failure would be admitted.

        Args:
            client: The address, or its network.
            now: Seconds of a clock that runs forward.
        """
        return self._ledger.wait(self._charge(client), now) if self._rates and client else 0.0

    def count(self, client: str, now: float) -> None:
        """Count a refused token."""
        if self._rates and client:
            self._ledger.debit([self._charge(client)], now)

    def _charge(self, client: str) -> Charge:
        return Charge(client, "failures", self._rates, 1)
