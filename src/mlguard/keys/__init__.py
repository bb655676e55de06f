"""How do an issuer's keys come over the network, and in time?"""

from mlguard.keys.fetcher import KeyFetcher
from mlguard.keys.rings import rings

__all__ = ["KeyFetcher", "rings"]
