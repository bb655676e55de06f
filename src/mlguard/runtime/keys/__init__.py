"""How do an issuer's keys come over the network, and in time?"""

from mlguard.runtime.keys.fetcher import KeyFetcher

__all__ = ["KeyFetcher"]
