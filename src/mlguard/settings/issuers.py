"""Whose tokens are accepted?"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, StrictBool, StrictInt, field_serializer, model_validator
from pydantic.fields import FieldInfo

from mlguard.settings.values import (
    HMAC,
    PUBLIC_KEY,
    Algorithms,
    FilePath,
    FilePaths,
    HeaderName,
    MediaTypes,
    Name,
    Rate,
    RateOrOff,
    RouteText,
    Scopes,
    StoreUrl,
    Table,
    Text,
    Texts,
    Url,
    Variables,
    contradiction,
)
from mlguard.urls import is_secure, redacted_url

_NO_ISSUER = re.compile("[?#@]")


class Issuer(Table):
    """Whose tokens are accepted, and how they spell what they say.

    Without a source of keys, one of the five that end in `_url`, `_file` and `_env`, they are found
    through the issuer's OpenID Connect discovery.

    Attributes:
        name: Names the entry for the environment and for `--issuer`.
        issuer: The `iss` that tokens must carry, to the last character.
        audience: The `aud` of accepted tokens, one or several.
        audience_claim: The claim with the audience.
        algorithms: The signature algorithms accepted: one of HS256, HS384 and HS512 with a secret,
            else of RS, PS and ES 256, 384 and 512 and EdDSA.
        jwks_url: Where the issuer's JSON Web Key Set is fetched.
        jwks_file: A JSON Web Key Set with the issuer's public keys.
        pem_file: The issuer's public keys or certificates as PEM.
        secret_env: Names the variables with the HMAC secrets, oldest to newest.
        secret_file: The files with the HMAC secrets, oldest to newest.
        typ: The `typ` headers accepted; "none" stands for a token without one.
        subject_claim: The claim that names the caller.
        scope_claim: The claim with what the caller may do; without it `scope`, else `scp`.
        tenant_claim: The claim that tells tenants apart; then it is required.
    """

    name: Name | None = None
    issuer: Text
    audience: Texts
    audience_claim: Text = "aud"
    algorithms: Algorithms
    jwks_url: Url | None = None
    jwks_file: FilePath | None = None
    pem_file: FilePath | None = None
    secret_env: Variables = ()
    secret_file: FilePaths = ()
    typ: MediaTypes = ("at+jwt", "JWT")
    subject_claim: Text = "sub"
    scope_claim: Text | None = None
    tenant_claim: Text | None = None

    @model_validator(mode="after")
    def _agree(self) -> Issuer:
        if len(self.sources) > 1:
            named = " and ".join(f"`{source}`" for source in self.sources)
            raise contradiction(f"must have one source of keys, not {named}")
        self._served()
        if self.is_symmetric and len(self.algorithms) > 1:
            raise contradiction(
                f"has algorithms {list(self.algorithms)}, but a secret serves one only",
            )
        if not self.sources:
            self._discoverable()
        return self

    def _served(self) -> None:
        """Find algorithms that the source of keys cannot serve."""
        family = HMAC if self.is_symmetric else PUBLIC_KEY
        strangers = [a for a in self.algorithms if a not in family]
        if not strangers:
            return
        if not self.sources:
            raise contradiction(
                f"has algorithms {strangers}: must have `secret_env` or `secret_file` for them",
            )
        source = "a secret" if self.is_symmetric else self.sources[0]
        raise contradiction(
            f"has algorithms {strangers}, but {source} serves {', '.join(family)} only",
        )

    def _discoverable(self) -> None:
        """OpenID Connect Discovery section 3: the issuer is a URL without query and fragment."""
        if _NO_ISSUER.search(self.issuer) or not is_secure(self.issuer):
            raise contradiction(
                "must have `jwks_url`, `jwks_file`, `pem_file`, `secret_env` or `secret_file`, "
                "or an https:// issuer, whose keys OpenID discovery finds",
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """The settings that say where the keys are; none means discovery."""
        keys = ("jwks_url", "jwks_file", "pem_file", "secret_env", "secret_file")
        return tuple(key for key in keys if getattr(self, key))

    @property
    def origin(self) -> str:
        """Where the keys come from, for messages."""
        if not self.sources:
            return "OpenID discovery"
        named = getattr(self, self.sources[0])
        places = map(str, named if isinstance(named, tuple) else [named])
        return f"{self.sources[0]} {', '.join(places)}"

    @property
    def is_symmetric(self) -> bool:
        """Whether secrets verify its tokens."""
        return bool(self.secret_env or self.secret_file)

    @property
    def is_fetched(self) -> bool:
        """Whether its keys come over the network."""
        return not self.sources or self.jwks_url is not None


class KeyTable(Table):
    """Who may call by an API key; `mlguard key create` makes some.

    Attributes:
        file: Where keys are kept, as salted hashes, beside the settings.
        store: A Redis where they are kept instead, for services of several hosts.
        header: The header that carries a key; with "Authorization" it is `Bearer KEY`.
    """

    file: FilePath = Field(default=Path("api_keys.json"), validate_default=True)
    store: StoreUrl | None = Field(default=None, repr=False)
    header: HeaderName = "X-API-Key"

    @model_validator(mode="after")
    def _agree(self) -> KeyTable:
        if "file" in self.model_fields_set and self.store:
            raise contradiction("has `file` and `store`: keys are kept in one place")
        return self

    @field_serializer("store")
    def _without_password(self, store: str | None) -> str | None:
        return store and redacted_url(store)


class Auth(Table):
    """Who may call: the issuers, and what holds for all of them.

    The keys of one issuer may stand in the table itself, in place of `issuers`.

    Attributes:
        issuers: Each with its own audience, keys and claims; at least one, or one of the next two.
        api_keys: Who may call by an API key.
        own_login: Whether the app names callers too, by a function given to `guard.identify`.
        scopes: What a token must grant on every route that is not public.
        public: Routes, as the framework spells them, that need no token; "/ui/*" is all below /ui.
        leeway: Seconds that clocks may differ.
        max_age: Seconds after `iat` from which a token is refused, whatever its `exp`.
        failures_per_client: Refused tokens of an address, after which unknown ones wait; "off"
            where they never do.
        jwks_max_age: Seconds after which fetched keys are fetched anew, at the latest.
        jwks_max_stale: Seconds beyond that for which they serve while they cannot be fetched.
        jwks_timeout: Seconds that a fetch may take.
        jwks_cooldown: Seconds between fetches for keys that the issuer turned out not to have.
        revocation_store: A Redis through which revocations reach other hosts.
    """

    issuers: tuple[Issuer, ...]
    api_keys: KeyTable | None = None
    own_login: StrictBool = False
    scopes: Scopes = ()
    public: tuple[RouteText, ...] = ()
    leeway: Annotated[StrictInt, Field(ge=0, le=300)] = 10
    max_age: Annotated[StrictInt, Field(ge=1)] | None = None
    failures_per_client: RateOrOff = Rate(text="100/minute", limit=100, seconds=60)
    jwks_max_age: Annotated[StrictInt, Field(ge=1, le=86_400)] = 600
    jwks_max_stale: Annotated[StrictInt, Field(ge=0, le=604_800)] = 3600
    jwks_timeout: Annotated[StrictInt, Field(ge=1, le=30)] = 3
    jwks_cooldown: Annotated[StrictInt, Field(ge=1, le=3600)] = 10
    revocation_store: StoreUrl | None = Field(default=None, repr=False)

    @classmethod
    def known_keys(cls) -> dict[str, FieldInfo]:
        """List the keys that may stand in the table: those of one issuer too."""
        return Issuer.model_fields | super().known_keys()

    @model_validator(mode="before")
    @classmethod
    def _entered(cls, data: Any) -> Any:
        """Move the keys of one issuer into an entry, unless there are entries beside them."""
        if not isinstance(data, dict) or data.get("issuers", []) not in ([], ()):
            return data
        own = {key: value for key, value in data.items() if key in Issuer.model_fields}
        if not own and (data.get("api_keys") is not None or data.get("own_login")):
            return data | {"issuers": []}
        others = {key: value for key, value in data.items() if key not in own}
        return others | {"issuers": [own]}

    @model_validator(mode="after")
    def _unlike(self) -> Auth:
        """Find entries that cannot be told apart."""
        remedies = {"issuer": "give one entry both audiences", "name": "rename one"}
        for key, remedy in remedies.items():
            seen = [getattr(i, key) for i in self.issuers if getattr(i, key)]
            twice = next((value for value in seen if seen.count(value) > 1), None)
            if twice:
                raise contradiction(f"has two entries with the {key} {twice!r}: {remedy}")
        return self

    @property
    def credential(self) -> str:
        """What a caller brings, for messages."""
        brought = ["token"] if self.issuers else []
        brought += ["key"] if self.api_keys else []
        brought += ["login"] if self.own_login else []
        return " or ".join(brought)

    @property
    def tells_tenants(self) -> bool:
        """Whether a caller may have a tenant; each API key may."""
        is_told = self.api_keys is not None or self.own_login
        return is_told or any(i.tenant_claim for i in self.issuers)

    @property
    def key_header(self) -> str:
        """The header of their own in which API keys come, in lower case; "" where there is none."""
        header = self.api_keys.header.lower() if self.api_keys else ""
        return "" if header == "authorization" else header

    @field_serializer("revocation_store")
    def _without_password(self, store: str | None) -> str | None:
        return store and redacted_url(store)
