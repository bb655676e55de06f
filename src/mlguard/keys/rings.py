"""Which keys does each issuer begin with?"""

from __future__ import annotations

from mlguard.auth import Keyring, KeySet
from mlguard.errors import InvalidSettings
from mlguard.settings import Issuer, Settings


def rings(settings: Settings) -> dict[str, Keyring]:
    """Make a keyring for each issuer: with its keys, or empty where they are fetched.

    Raises:
        InvalidSettings: Keys that are given cannot be used.
    """
    issuers = settings.auth.issuers if settings.auth else ()
    return {i.issuer: Keyring(None if i.is_fetched else _keys(settings, i)) for i in issuers}


def _keys(settings: Settings, issuer: Issuer) -> KeySet:
    """Build the keys that verify an issuer's tokens, or say which setting gives none."""
    try:
        if issuer.is_symmetric:
            secrets = settings.secrets_of(issuer)
            return KeySet.from_secrets(secrets, algorithm=issuer.algorithms[0])
        return _keys_of_file(issuer)
    except (OSError, ValueError) as error:
        problem = f"auth: {issuer.origin} of the issuer {issuer.issuer!r}: {error}"
        raise InvalidSettings(problem, source=settings.source) from error


def _keys_of_file(issuer: Issuer) -> KeySet:
    read = KeySet.from_pem if issuer.pem_file else KeySet.from_document
    path = issuer.pem_file or issuer.jwks_file
    keys = read(path.read_bytes() if path else b"", algorithms=issuer.algorithms)
    if keys.is_symmetric:
        raise ValueError("holds a secret, which never stands in a file of keys")
    return keys
