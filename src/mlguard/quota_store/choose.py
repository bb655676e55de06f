"""Which store do the settings name?"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from mlguard.host.ledger import HostLedger
from mlguard.metrics import Metrics
from mlguard.quota_store.failover import Failover
from mlguard.quota_store.store import Store
from mlguard.settings import Quotas
from mlguard.urls import redacted_url


def failover(
    quotas: Quotas,
    service: str,
    host: HostLedger | None,
    metrics: Metrics,
    wake: Callable[[float], None],
) -> Failover:
    """Make the ledger that counts in the store which the settings name. Starts nothing.

    Args:
        quotas: The settings, which name a store beyond this process.
        service: Its name.
        host: Counts for this host, where the settings say so.
        metrics: Told whether the store is away, and how long it takes.
        wake: Has a store looked after within so many seconds.
    """
    return Failover(
        (lambda: host) if host else maker(quotas, service),
        name=redacted_url(quotas.store),
        share=quotas.local_share,
        lifetime=quotas.has_lifetime,
        on_away=lambda is_away: metrics.set_degraded("quotas", is_away),
        on_call=metrics.quota_stored,
        wake=wake,
    )


def maker(quotas: Quotas, service: str) -> Callable[[], Store]:
    """Return what makes a process's own end of the Redis that the settings name."""
    from mlguard.redis import RedisStore

    return lambda: RedisStore(
        quotas.store,
        prefix=f"{quotas.prefix}:{service}",
        timeout=quotas.store_timeout,
        holder=secrets.token_hex(8),
        lease=quotas.lease,
    )
