"""Who is calling: bearer tokens."""

from mlguard.auth.api_keys import ApiKeys
from mlguard.auth.bearer import Authenticator, Verification
from mlguard.auth.finding import KeysUnavailable
from mlguard.auth.jws import InvalidToken, verify_jws
from mlguard.auth.keyring import Keyring
from mlguard.auth.keys import KeySet
from mlguard.auth.revoking import revocation

__all__ = [
    "ApiKeys",
    "Authenticator",
    "InvalidToken",
    "KeySet",
    "Keyring",
    "KeysUnavailable",
    "Verification",
    "revocation",
    "verify_jws",
]
