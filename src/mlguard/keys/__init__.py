"""How do an issuer's keys come over the network, and API keys out of where they are kept?"""

from mlguard.keys.api_keys import KeyReader, KeyStore, key_store
from mlguard.keys.fetcher import KeyFetcher
from mlguard.keys.rings import rings

__all__ = ["KeyFetcher", "KeyReader", "KeyStore", "key_store", "rings"]
