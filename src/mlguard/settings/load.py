"""How are the settings read?"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.performance.task import TWO
from mlguard.settings.environment import PREFIX, override
from mlguard.settings.issuers import Auth, Issuer
from mlguard.settings.mistakes import SECRET_URLS, place, sentences
from mlguard.settings.tables import Model, Settings
from mlguard.settings.values import secret_bytes
from mlguard.urls import has_password

_LEAST_KEY = 16  # bytes
NAMED = frozenset({"secrets", "keys", "references"})


def load(
    source: str | os.PathLike[str] | Mapping[str, Any] | Settings,
    *,
    environ: Mapping[str, str] | None = None,
    named: Collection[str] = NAMED,
) -> Settings:
    """Read the settings, override them from the environment and find every mistake.

    Relative paths in a file are relative to that file.

    Args:
        source: A path, a mapping or Settings.
        environ: The environment; default: this process's.
        named: Of what the settings only name, that which must be there.

    Raises:
        InvalidSettings: Names each wrong key, its value and what it must be.
    """
    environ = os.environ if environ is None else environ
    if isinstance(source, Settings):
        if source.resolved:
            return source
        return _resolved(source, source.model_dump(mode="json"), [], "settings", environ, named)
    if isinstance(source, Mapping):
        data, name, folder = _plain(source), "settings", Path.cwd()
    else:
        path = Path(source)
        data, name, folder = _read(path), str(path), path.resolve().parent
    problems = [*_passwords(data), *override(data, environ)]
    try:
        settings = Settings.model_validate(data, context={"folder": folder})
    except ValidationError as error:
        raise InvalidSettings(*problems, *sentences(error, data), source=name) from None
    return _resolved(settings, data, problems, name, environ, named)


def _resolved(
    settings: Settings,
    data: Mapping[str, Any],
    problems: list[str],
    name: str,
    environ: Mapping[str, str],
    named: Collection[str],
) -> Settings:
    """Fetch what the settings only name, and raise all mistakes together."""
    secrets: dict[str, tuple[bytes, ...]] = {}
    pseudonym_key = category_key = None
    issuers = _issuers(settings.auth, data)
    if "secrets" in named:
        problems += _auth(issuers, secrets, environ)
        pseudonym_key, problem = _key(
            "service.pseudonym_key_env", settings.service.pseudonym_key_env, environ
        )
        problems += [problem] if problem else []
        variable = settings.drift.category_key_env if settings.drift else None
        category_key, problem = _key("drift.category_key_env", variable, environ)
        problems += [problem] if problem else []
    if "keys" in named:
        problems += _key_files(issuers)
    for model in settings.models if "references" in named else ():
        problems += _reference(model, category_key, is_compared=settings.drift is not None)
        problems += _calibration(model)
    if problems:
        raise InvalidSettings(*problems, source=name)
    settings.resolve(name, secrets, pseudonym_key, category_key)
    return settings


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise InvalidSettings(
            "no such file: give the path of the settings file", source=str(path)
        ) from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidSettings(f"is not TOML: {error}", source=str(path)) from None
    except (OSError, ValueError) as error:
        raise InvalidSettings(f"cannot be read: {error}", source=str(path)) from None


def _plain(value: Any) -> Any:
    """Copy mappings and sequences, so that overriding never writes into the caller's."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _passwords(data: Mapping[str, Any]) -> Iterator[str]:
    """Find a password that stands in the settings; the environment may hold one."""
    for path in SECRET_URLS:
        store: Any = data
        for key in path:
            store = store.get(key) if isinstance(store, Mapping) else None
        if isinstance(store, str) and has_password(store):
            variable = PREFIX + "__".join(path).upper()
            yield (
                f"{'.'.join(path)}: passwords never stand in the settings; set {variable} instead"
            )


def _issuers(auth: Auth | None, data: Mapping[str, Any]) -> list[tuple[str, Issuer]]:
    """List the issuers, each with its place in the file."""
    issuers = auth.issuers if auth else ()
    return [(place(("auth", "issuers", n), data), issuer) for n, issuer in enumerate(issuers)]


def _auth(
    issuers: Sequence[tuple[str, Issuer]],
    secrets: dict[str, tuple[bytes, ...]],
    environ: Mapping[str, str],
) -> Iterator[str]:
    """Fetch the secrets that issuers name."""
    for where, issuer in issuers:
        if issuer.is_symmetric:
            found = list(_secrets(issuer, where, environ))
            yield from (problem for _, problem in found if problem)
            secrets[issuer.issuer] = tuple(secret for secret, _ in found)


def _key_files(issuers: Sequence[tuple[str, Issuer]]) -> Iterator[str]:
    """Look for the files with public keys that issuers name."""
    for where, issuer in issuers:
        for key in ("jwks_file", "pem_file"):
            path = getattr(issuer, key)
            if path and not os.path.isfile(path):  # noqa: PTH113 - which takes any path
                hint = "; `mlguard token mint` makes one to try things out" if "jwks" in key else ""
                yield f"{where}.{key} = '{path}': no such file{hint}"


def _secrets(issuer: Issuer, where: str, environ: Mapping[str, str]) -> Iterator[tuple[bytes, str]]:
    """Yield each secret, and what is wrong with it."""
    least = secret_bytes(issuer.algorithms[0])
    must = f"must hold a secret of at least {least} bytes for {issuer.algorithms[0]}"
    for variable in issuer.secret_env:
        secret = os.fsencode(environ.get(variable, ""))
        problem = _unfit(secret, least, must)
        yield secret, problem and f"{where}.secret_env = {variable!r}: {problem}"
    for path in issuer.secret_file:
        place = f"{where}.secret_file = '{path}'"
        try:
            secret = path.read_bytes().strip()
        except (OSError, ValueError) as error:
            yield b"", f"{place}: cannot be read: {getattr(error, 'strerror', error)}"
            continue
        problem = _unfit(secret, least, must)
        yield secret, problem and f"{place}: {problem}"


def _unfit(secret: bytes, least: int, must: str) -> str:
    if not secret:
        return f"is not set, or empty; it {must}"
    if secret.startswith(b"-----BEGIN"):
        return f"{must}, and holds a key file; use `pem_file` for public keys"
    return f"{must}, has {len(secret)}" if len(secret) < least else ""


def _key(place: str, variable: str | None, environ: Mapping[str, str]) -> tuple[bytes | None, str]:
    """Fetch the key in a variable, and tell what is wrong with it."""
    if variable is None:
        return None, ""
    key = os.fsencode(environ.get(variable, ""))
    if len(key) >= _LEAST_KEY:
        return key, ""
    must = f"that variable must hold at least {_LEAST_KEY} bytes"
    return None, f"{place} = {variable!r}: {must}"


def _reference(model: Model, category_key: bytes | None, *, is_compared: bool) -> Iterator[str]:
    if model.reference is None:
        return
    from mlguard.drift.hashing import CategoryHash
    from mlguard.drift.reference import Reference

    try:
        features = Reference.peek(model.reference)
        hashed = Reference.peek_key(model.reference)
    except MLGuardError as error:
        yield f"models[{model.name}].reference = '{model.reference}': {error}"
        return
    key = CategoryHash(category_key).name if category_key else ""
    if is_compared and key != hashed:
        with_key = "with another key than" if hashed and key else "without the key of"
        where = with_key if key else "with a key, and there is no"
        yield (
            f"models[{model.name}].reference = '{model.reference}': its categories were hashed "
            f"{where} drift.category_key_env: build it anew, or change that"
        )
    if model.features and model.features != features:
        yield (
            f"models[{model.name}].features = {list(model.features)}: "
            f"must be the reference's, in its order: {list(features)}"
        )


def _calibration(model: Model) -> Iterator[str]:
    if model.calibration is None:
        return
    from mlguard.performance.calibration import ScoreCalibration

    key = f"models[{model.name}].calibration = '{model.calibration}'"
    try:
        learned = ScoreCalibration.load(model.calibration).classes
    except MLGuardError as error:
        yield f"{key}: {error}"
        return
    if learned != (model.classes or TWO):
        yield f"{key}: must be of the model's classes, in their order, and is of {list(learned)}"
