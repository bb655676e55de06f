"""Which key signs for this issuer? Its secret, or a key pair that is made for trying things out."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from mlguard.auth import InvalidToken, KeySet, verify_jws
from mlguard.auth.minting import Signer, make_key, mint, secret_signer, signer
from mlguard.errors import InvalidSettings
from mlguard.host.private import write
from mlguard.settings import Issuer, Settings


class SigningKey(NamedTuple):
    """What signs.

    Attributes:
        algorithm: For the header's `alg`.
        kid: For the header's `kid`; None for none.
        sign: Signs.
    """

    algorithm: str
    kid: str | None
    sign: Signer


def signing_key(settings: Settings, issuer: Issuer) -> SigningKey:
    """Find what signs for an issuer, or make it where its `jwks_file` is not there.

    Raises:
        InvalidSettings: Only the issuer has it, or what is there signs nothing that is accepted.
    """
    if issuer.is_symmetric:
        newest, algorithm = settings.secrets_of(issuer)[-1], issuer.algorithms[0]
        return SigningKey(algorithm, None, secret_signer(newest, algorithm))
    if issuer.jwks_file is None:
        raise InvalidSettings(
            f"only the issuer {issuer.issuer!r} has private keys of its {issuer.origin}: to try "
            "things out, let settings of your own name a `jwks_file` or a `secret_env`",
            source=settings.source,
        )
    public, private = issuer.jwks_file, issuer.jwks_file.with_suffix(".private.pem")
    if not public.exists() and not private.exists():
        _make(issuer, public, private)
    return _read(issuer, public, private)


def _make(issuer: Issuer, public: Path, private: Path) -> None:
    pem, jwk = make_key(issuer.algorithms[0])
    try:
        write(private, pem, is_lasting=True)
        public.write_text(json.dumps({"keys": [jwk]}, indent=2) + "\n")
    except OSError as error:
        raise InvalidSettings(f"cannot be made: {error}", source=str(public)) from error
    text = f"made {public}, and {private} to sign with: keep that one off every server"
    print(text, file=sys.stderr)


def _read(issuer: Issuer, public: Path, private: Path) -> SigningKey:
    """Take the pair that was made before, and try it."""
    if not private.exists():
        raise InvalidSettings(
            f"{private} is missing, and only the issuer has private keys of {public}: "
            "to try things out, name a `jwks_file` that is not there yet, and both are made"
        )
    if not public.exists():
        raise InvalidSettings(
            f"{public} is missing, but {private} is there: bring the one back, "
            "or remove the other, and both are made anew"
        )
    try:
        document = public.read_bytes()
        jwk = json.loads(document)["keys"][0]
        key = SigningKey(jwk["alg"], jwk["kid"], signer(private.read_bytes(), jwk["alg"]))
        trial = mint({}, key.algorithm, key.sign, kid=key.kid)
        verify_jws(trial, KeySet.from_document(document, algorithms=issuer.algorithms))
    except (OSError, ValueError, LookupError, TypeError, InvalidToken) as error:
        raise InvalidSettings(
            f"{private} cannot sign for {public}: {error}; remove both, and they are made anew"
        ) from error
    return key
