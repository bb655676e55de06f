"""One ledger for all workers of a service on a host, in a process of its own."""

from mlguard.runtime.stores.host.found import running
from mlguard.runtime.stores.host.store import HostStore

__all__ = ["HostStore", "running"]
