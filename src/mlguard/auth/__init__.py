"""Who is calling: bearer tokens."""

from mlguard.auth.bearer import Authenticator
from mlguard.auth.jws import InvalidToken, verify_jws
from mlguard.auth.keys import KeySet

__all__ = ["Authenticator", "InvalidToken", "KeySet", "verify_jws"]
