"""How is a draft of settings written down, with what is guessed in it?"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from mlguard.cli.init.draft import Draft, ModelDraft, Proposal

SECRET = "MLGUARD_SECRET"  # noqa: S105 - the name of a variable
"""The variable with the secret of the tokens that are for trying things out."""

_COMMENT = 40  # columns before a comment beside a setting
_WIDEST = 100

_OBSERVE = """\
# mode = "observe"                      # decide and count, and refuse nobody yet"""
_AUTH = """\
[auth]                                  # tokens of your own, to begin with: `mlguard token mint`
issuer = "dev"
audience = {audience}
algorithms = ["HS256"]
secret_env = "{secret}"           # the variable with their secret, of at least 32 bytes
public = {public}{guessed}{pages}
# With an identity provider, whose public keys are fetched, in place of those four:
# issuer = "https://login.example.com/"
# audience = {audience}
# algorithms = ["RS256"]
"""
_KEYS = """\
# The app asks for a key in {header} itself. The kit can instead, and know callers by it:
# [auth.api_keys]
# header = {header}                     # `mlguard key create --subject NAME --import KEY`
"""
_PAGES = '\n# Swagger\'s pages would be public by "/docs/*" and "/openapi.json".'
_QUOTAS = """\
[quotas]                                # of each caller
store = "host://"                       # one count for all workers of a host; redis://... for hosts
requests = ["600/minute"]
rows = ["10000/hour"]                   # a batch of 1000 is 1000
"""
_TRACING = """\
[tracing]
endpoint = "console"                    # prints each trace; to a receiver: "http://127.0.0.1:4318"
"""


def settings_of(draft: Draft) -> str:
    """Write a settings file."""
    parts = [
        "\n".join(_head(draft)),
        "\n".join(["[service]", *_setting("name", draft.service), _OBSERVE]) + "\n",
        *("\n".join(_model(model)) + "\n" for model in draft.models),
        _auth(draft),
        _QUOTAS,
        _TRACING,
    ]
    if draft.metrics_path.guessed:
        parts.append("\n".join(["[metrics]", *_setting("path", draft.metrics_path)]) + "\n")
    return "\n".join(parts)


def _head(draft: Draft) -> Iterator[str]:
    yield f"# The settings of {draft.target}, as `mlguard init` found them."
    yield '# What is "guessed" may be wrong; `mlguard try` shows what comes of it.'
    yield ""


def _model(model: ModelDraft) -> Iterator[str]:
    yield "[[models]]"
    yield from _setting("name", model.name)
    if model.handler.models:
        yield "# its handler says what its rows are, with guard.inference(...)"
    for key, line in model.keys.items():
        yield from _setting(key, line)
    for said in model.unknown:
        broken = textwrap.wrap(f"could not tell: {said}", _WIDEST - 2)
        yield from (f"# {part}" for part in broken)
    reference = '# reference = "reference.parquet"'
    yield f"{reference:{_COMMENT}}# for drift: mlguard reference build training.csv"


def _setting(key: str, line: Proposal) -> Iterator[str]:
    text = f"{key} = {value(line.value)}"
    comment = f"# guessed: {line.guessed}" if line.guessed else ""
    if comment and len(text) >= _COMMENT:
        yield comment
        yield text
    else:
        yield f"{text:{_COMMENT}}{comment}".rstrip()


def _auth(draft: Draft) -> str:
    return _AUTH.format(
        audience=value(draft.service.value),
        secret=SECRET,
        public=value(draft.public),
        guessed="  # guessed: their names" if draft.public else "",
        pages=_PAGES if draft.has_pages else "",
    ) + (_KEYS.format(header=value(draft.key_header)) if draft.key_header else "")


def value(found: Any) -> str:
    """Write a text, or a list of texts, as TOML does."""
    if isinstance(found, list):
        inner = ", ".join(map(value, found))
        if len(inner) < _WIDEST - 20:
            return f"[{inner}]"
        return "[\n" + "".join(f"    {value(entry)},\n" for entry in found) + "]"
    return json.dumps(found).replace("\x7f", "\\u007f")
