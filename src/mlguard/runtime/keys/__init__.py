"""How do an issuer's keys come over the network, and in time?"""

from mlguard.runtime.keys.fetcher import KeyFetcher
from mlguard.runtime.keys.rings import rings

__all__ = ["KeyFetcher", "rings"]
