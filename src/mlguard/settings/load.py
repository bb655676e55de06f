"""How are the settings read?"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mlguard.errors import InvalidSettings, MLGuardError
from mlguard.settings.environment import override
from mlguard.settings.mistakes import sentences
from mlguard.settings.tables import Auth, Model, Settings, secret_bytes

_LEAST_PSEUDONYM_KEY = 16  # bytes


def load(
    source: str | os.PathLike[str] | Mapping[str, Any] | Settings,
    *,
    environ: Mapping[str, str] | None = None,
) -> Settings:
    """Read the settings, override them from the environment and find every mistake.

    Relative paths in a file are relative to that file.

    Raises:
        InvalidSettings: Names each wrong key, its value and what it must be.
    """
    environ = os.environ if environ is None else environ
    if isinstance(source, Settings):
        return source if source.resolved else _resolved(source, [], "settings", environ)
    if isinstance(source, Mapping):
        data, name, folder = _plain(source), "settings", Path.cwd()
    else:
        path = Path(source)
        data, name, folder = _read(path), str(path), path.resolve().parent
    problems = list(override(data, environ))
    _absolute(data, folder)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        raise InvalidSettings(*problems, *sentences(error, data), source=name) from None
    return _resolved(settings, problems, name, environ)


def _resolved(
    settings: Settings, problems: list[str], name: str, environ: Mapping[str, str]
) -> Settings:
    """Fetch what the settings only name, and raise all mistakes together."""
    secrets: dict[str, bytes] = {}
    problems += _named(settings, secrets, environ)
    if problems:
        raise InvalidSettings(*problems, source=name)
    settings.resolve(name, secrets)
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


def _absolute(data: dict[str, Any], folder: Path) -> None:
    tables = [("auth", "jwks_file"), ("auth", "secret_file"), ("drift", "report")]
    places = [(data.get(table), key) for table, key in tables]
    models = data.get("models")
    places += [(m, "reference") for m in models] if isinstance(models, list) else []
    for table, key in places:
        if isinstance(table, dict) and isinstance(table.get(key), str) and table[key]:
            table[key] = str(folder / table[key])


def _named(
    settings: Settings, secrets: dict[str, bytes], environ: Mapping[str, str]
) -> Iterator[str]:
    """Fetch what the settings only name: secrets, key files, references."""
    auth = settings.auth
    if auth and auth.jwks_file:
        if not auth.jwks_file.is_file():
            yield f"auth.jwks_file = '{auth.jwks_file}': no such file"
    elif auth:
        yield from _secret(auth, secrets, environ)
    variable = settings.service.pseudonym_key_env
    if variable:
        key = secrets["pseudonym"] = os.fsencode(environ.get(variable, ""))
        if len(key) < _LEAST_PSEUDONYM_KEY:
            must = f"that variable must hold at least {_LEAST_PSEUDONYM_KEY} bytes"
            yield f"service.pseudonym_key_env = {variable!r}: {must}"
    for model in settings.models:
        yield from _reference(model)


def _secret(auth: Auth, secrets: dict[str, bytes], environ: Mapping[str, str]) -> Iterator[str]:
    if auth.secret_env:
        place = f"auth.secret_env = {auth.secret_env!r}"
        secret = os.fsencode(environ.get(auth.secret_env, ""))
    else:
        place = f"auth.secret_file = '{auth.secret_file}'"
        try:
            secret = Path(str(auth.secret_file)).read_bytes().strip()
        except OSError as error:
            yield f"{place}: cannot be read: {error.strerror}"
            return
    least = max(map(secret_bytes, auth.algorithms))
    must = f"must hold a secret of at least {least} bytes for {', '.join(auth.algorithms)}"
    if not secret:
        yield f"{place}: is not set, or empty; it {must}"
    elif len(secret) < least:
        yield f"{place}: {must}, has {len(secret)}"
    elif secret.startswith(b"-----BEGIN"):
        yield f"{place}: {must}, and holds a key file; use `jwks_file` for public keys"
    secrets["auth"] = secret


def _reference(model: Model) -> Iterator[str]:
    if model.reference is None:
        return
    from mlguard.reference import Reference

    try:
        features = Reference.peek(model.reference)
    except MLGuardError as error:
        yield f"models[{model.name}].reference = '{model.reference}': {error}"
        return
    if model.features and model.features != features:
        yield (
            f"models[{model.name}].features = {list(model.features)}: "
            f"must be the reference's, in its order: {list(features)}"
        )
