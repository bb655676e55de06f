"""What may stand in the settings file?"""

from __future__ import annotations

import hashlib
import json
import os
import re
from contextlib import suppress
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from limits import parse as parse_rate
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    field_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

HMAC = ("HS256", "HS384", "HS512")
RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
PUBLIC_KEY = (*RSA, "ES256", "ES384", "ES512", "EdDSA")


def secret_bytes(algorithm: str) -> int:
    """Say how long an HMAC secret must be: as long as the hash (RFC 7518 section 3.2)."""
    return int(algorithm.removeprefix("HS")) // 8


def _rate(value: object) -> Rate:
    if isinstance(value, Rate):
        return value
    if not _RATE.fullmatch(str(value)):
        raise PydanticCustomError("rate", 'must be a rate like "600/minute" or "10000 per 2 hours"')
    item = parse_rate(str(value))
    return Rate(text=str(value), limit=item.amount, seconds=item.get_expiry())


def _size(value: object) -> object:
    if isinstance(value, bool) or not value:
        raise PydanticCustomError("size", 'must be a size like "8 MiB"')
    return value


def _network(value: object) -> object:
    if not isinstance(value, str):
        raise PydanticCustomError("network", 'must be a network like "10.0.0.0/8" or "fd00::/8"')
    return value


def _url(value: object) -> str:
    """Demand https, but for this machine itself."""
    try:
        parts = urlsplit(value) if isinstance(value, str) else None
        host = parts.hostname if parts else None
        plain = parts is not None and parts.scheme == "http" and is_loopback(host)
        good = parts is not None and (parts.scheme == "https" or plain) and parts.port != 0
    except ValueError:
        good, host = False, None
    if not good or not host or _ODD_IN_URLS.search(str(value)):
        raise PydanticCustomError(
            "url", "must be an https:// URL without a password; http:// only for this machine"
        )
    return str(value)


def _store(value: object) -> str:
    if not isinstance(value, str) or not _STORE.fullmatch(value):
        raise PydanticCustomError("store", 'must be a URL like "rediss://redis.example.com:6379/0"')
    return value


def _failures(value: object) -> object:
    """Take a rate or "off"."""
    if value == "off":
        return value
    try:
        return _rate(value)
    except PydanticCustomError:
        raise PydanticCustomError("rate", 'must be a rate like "100/minute", or "off"') from None


def is_loopback(host: str | None) -> bool:
    """Say whether a host is this machine."""
    with suppress(ValueError):
        return ip_address(host or "").is_loopback
    return host == "localhost"


def _listed(value: object) -> object:
    """Take one name where several may stand."""
    return (value,) if isinstance(value, str | os.PathLike) else value


def _kinds(typ: tuple[str, ...]) -> tuple[str, ...]:
    """Spell "none", for a token without a `typ`, in one way."""
    return tuple("none" if kind.lower() == "none" else kind for kind in typ)


def _existing(value: object) -> Path:
    if not isinstance(value, str | os.PathLike) or not str(value):
        raise PydanticCustomError("path", "must be the path of a file")
    return Path(value)


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise PydanticCustomError("route", 'must be a path that begins with "/"')
    return value


class Table(BaseModel):
    """A table of the settings file: frozen, and no key beyond those named."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Rate(Table):
    """So many units in so much time.

    Attributes:
        text: The rate as the operator wrote it.
        limit: Units admitted in one window.
        seconds: Length of the window.
    """

    text: str
    limit: int
    seconds: int


_RATE = re.compile(
    r"\s*[1-9]\d*\s*(/|\s+per\s+)\s*([1-9]\d*\s*)?(second|minute|hour|day|month|year)s?\s*"
)
_PASSWORD = re.compile(r"(?<=://).*@|\?.*", re.DOTALL)
_ODD_IN_URLS = re.compile(r"[\s@\\\x00-\x1f\x7f]")
_STORE = re.compile(r"rediss?://[^\s\x00-\x1f\x7f]+")
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, Field(min_length=1)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$")]  # RFC 6749 section 3.3
Size = Annotated[ByteSize, BeforeValidator(_size)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
RouteText = Annotated[str, BeforeValidator(_path)]
FilePath = Annotated[Path, BeforeValidator(_existing)]
RateText = Annotated[Rate, BeforeValidator(_rate)]
Url = Annotated[str, BeforeValidator(_url)]
StoreUrl = Annotated[str, BeforeValidator(_store)]
Failures = Annotated[Rate | Literal["off"], BeforeValidator(_failures)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_listed), Field(min_length=1)]
Kinds = Annotated[Texts, AfterValidator(_kinds)]
Variables = Annotated[tuple[Variable, ...], BeforeValidator(_listed)]
FilePaths = Annotated[tuple[FilePath, ...], BeforeValidator(_listed)]
Algorithm = Literal[*HMAC, *PUBLIC_KEY]  # type: ignore[valid-type]
Algorithms = Annotated[tuple[Algorithm, ...], Field(min_length=1)]
Scopes = tuple[Scope, ...]


class Service(Table):
    """Who this service is and whom it believes.

    Attributes:
        name: OpenTelemetry's service.name.
        environment: OpenTelemetry's deployment.environment.name.
        trusted_proxies: Networks whose X-Forwarded-For and sampled flag are believed; "unix" is
            whoever connects through a Unix socket, and so has no address.
        max_body: Bytes of a model route's request body that are read at most.
        pseudonym_key_env: Names the variable with the key that turns principals into pseudonyms;
            without it, a random key lives as long as the service on this host.
        companion: Whether a companion process stands beside the workers.
    """

    name: Name = "ml-service"
    environment: Text = "development"
    trusted_proxies: tuple[Network | Literal["unix"], ...] = ()
    max_body: Size = ByteSize(8 * 1024 * 1024)
    pseudonym_key_env: Variable | None = None
    companion: StrictBool = True


class Model(Table):
    """A machine-learning model that the service serves.

    Attributes:
        name: The model's name in settings, metrics and spans.
        version: The version served unless the handler names another.
        route: The route, as the framework spells it, whose bodies are read without code.
        inputs: Where the rows are in the JSON request: keys joined by dots.
        outputs: Where the predictions are in the JSON answer.
        protocol: Fills `inputs` and `outputs`: v1 is KServe and TF-Serving, v2 Open Inference.
        features: Names of a row's fields, in order; default: the reference's.
        reference: The file that says what training looked like.
        scopes: What a token must grant to ask this model, beyond `auth.scopes`.
    """

    name: Name
    version: Text = "1"
    route: RouteText | None = None
    inputs: Text | None = None
    outputs: Text | None = None
    protocol: Literal["v1", "v2"] | None = None
    features: tuple[Text, ...] = ()
    reference: FilePath | None = None
    scopes: Scopes = ()

    @model_validator(mode="after")
    def _agree(self) -> Model:
        if self.protocol and (self.inputs or self.outputs):
            raise PydanticCustomError(
                "contradiction",
                "has `protocol`, which says where the rows are: remove `inputs` and `outputs`",
            )
        if self.route and not (self.inputs or self.protocol):
            raise PydanticCustomError(
                "contradiction",
                "has a `route`: say where its rows are, "
                'with `inputs = "instances"` or `protocol = "v1"`',
            )
        if len(set(self.features)) != len(self.features):
            raise PydanticCustomError("contradiction", "names a feature twice")
        return self


class Issuer(Table):
    """Whose tokens are accepted, and how they spell what they say.

    Without a source of keys, they are found through the issuer's OpenID Connect discovery.

    Attributes:
        name: Names the entry for overrides from the environment.
        issuer: The `iss` that tokens must carry.
        audience: The audiences accepted, one or several.
        audience_claim: The claim with the audience.
        algorithms: The signature algorithms accepted; a key serves one of them.
        jwks_url: Where the issuer's JSON Web Key Set is fetched.
        jwks_file: A JSON Web Key Set with the issuer's public keys.
        pem_file: The issuer's public keys or certificates as PEM.
        secret_env: Names the variables with the HMAC secrets, oldest to newest.
        secret_file: The files with the HMAC secrets, oldest to newest.
        typ: The `typ` headers accepted; "none" stands for a token without one.
        subject_claim: The claim that names the caller.
        scope_claim: The claim with what the caller may do; default: `scope`, else `scp`.
        tenant_claim: The claim that tells tenants apart.
    """

    name: Name | None = None
    issuer: Text = ""
    audience: Texts = ()
    audience_claim: Text = "aud"
    algorithms: Algorithms = ()
    jwks_url: Url | None = None
    jwks_file: FilePath | None = None
    pem_file: FilePath | None = None
    secret_env: Variables = ()
    secret_file: FilePaths = ()
    typ: Kinds = ("at+jwt", "JWT")
    subject_claim: Text = "sub"
    scope_claim: Text | None = None
    tenant_claim: Text | None = None

    @model_validator(mode="after")
    def _agree(self) -> Issuer:
        return self._consistent()

    def _consistent(self) -> Issuer:
        """Find contradictions between the keys of one issuer."""
        for key in ("issuer", "audience", "algorithms"):
            if not getattr(self, key):
                raise PydanticCustomError("lacking", f"must have `{key}`")
        if len(self.sources) > 1:
            named = " and ".join(f"`{source}`" for source in self.sources)
            raise PydanticCustomError("contradiction", f"must have one source of keys, not {named}")
        self._served()
        if self.is_symmetric and len(self.algorithms) > 1:
            raise PydanticCustomError(
                "contradiction",
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
            raise PydanticCustomError(
                "contradiction",
                f"has algorithms {strangers}: must have `secret_env` or `secret_file` for them",
            )
        source = "a secret" if self.is_symmetric else self.sources[0]
        raise PydanticCustomError(
            "contradiction",
            f"has algorithms {strangers}, but {source} serves {', '.join(family)} only",
        )

    def _discoverable(self) -> None:
        """OpenID Connect Discovery section 3: the issuer is a URL without query and fragment."""
        try:
            _url(self.issuer)
            good = not re.search("[?#]", self.issuer)
        except PydanticCustomError:
            good = False
        if not good:
            raise PydanticCustomError(
                "contradiction",
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


class Auth(Issuer):
    """Who may call: the keys of one issuer, or `issuers`, and what holds for all of them.

    Attributes:
        issuers: Several issuers, each with its own audience, keys and claims.
        scopes: What a token must grant on every route that is not public.
        public: Routes, as the framework spells them, that need no token.
        leeway: Seconds that clocks may differ.
        max_age: Seconds after `iat` from which a token is refused, whatever its `exp`.
        failures: Refused tokens from one client address, after which unknown ones wait.
        jwks_max_age: Seconds after which fetched keys are fetched anew, at the latest.
        jwks_max_stale: Seconds beyond that for which they serve while they cannot be fetched.
        jwks_timeout: Seconds that a fetch may take.
        jwks_cooldown: Seconds between fetches for keys that the issuer turned out not to have.
        store: A Redis through which revocations reach other hosts.
    """

    issuers: tuple[Issuer, ...] = ()
    scopes: Scopes = ()
    public: tuple[RouteText, ...] = ()
    leeway: Annotated[StrictInt, Field(ge=0, le=300)] = 10
    max_age: Annotated[StrictInt, Field(ge=1)] | None = None
    failures: Failures = Rate(text="100/minute", limit=100, seconds=60)
    jwks_max_age: Annotated[StrictInt, Field(ge=1, le=86_400)] = 600
    jwks_max_stale: Annotated[StrictInt, Field(ge=0, le=604_800)] = 3600
    jwks_timeout: Annotated[StrictInt, Field(ge=1, le=30)] = 3
    jwks_cooldown: Annotated[StrictInt, Field(ge=1, le=3600)] = 10
    store: StoreUrl | None = Field(default=None, repr=False)

    @field_serializer("store")
    def _without_password(self, store: str | None) -> str | None:
        return store and _PASSWORD.sub("", store)

    def _consistent(self) -> Auth:
        """Find contradictions between one issuer's keys and `issuers`."""
        own = [key for key in Issuer.model_fields if key in self.model_fields_set]
        if not self.issuers:
            super()._consistent()
        elif own:
            raise PydanticCustomError(
                "contradiction", f"has `issuers`: move {', '.join(own)} into its entries"
            )
        self._unlike()
        return self

    def _unlike(self) -> None:
        """Find entries that cannot be told apart."""
        remedies = {"issuer": "give one entry both audiences", "name": "rename one"}
        for key, remedy in remedies.items():
            seen = [getattr(i, key) for i in self.issuers if getattr(i, key)]
            twice = next((value for value in seen if seen.count(value) > 1), None)
            if twice:
                raise PydanticCustomError(
                    "contradiction", f"has two entries with the {key} {twice!r}: {remedy}"
                )

    @property
    def accepted(self) -> tuple[Issuer, ...]:
        """All issuers, however they were written."""
        return self.issuers or (self,)


class Quotas(Table):
    """How much a principal may ask.

    Attributes:
        store: Where counts are kept; memory:// is one process.
        requests: Windows of requests per principal.
        rows: Windows of predicted rows per principal and model; a batch of 1000 is 1000.
    """

    store: Literal["memory://"] = "memory://"
    requests: tuple[RateText, ...] = ()
    rows: tuple[RateText, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Quotas:
        if not self.requests and not self.rows:
            raise PydanticCustomError("contradiction", "must have `requests`, `rows` or both")
        return self


class Drift(Table):
    """How live inputs are compared with the reference.

    Attributes:
        window: Rows in one comparison.
        sample: Share of requests that give a row, in (0, 1].
        rows_per_request: Rows taken of one request at most; rows of one batch are not independent.
        report: Where the last comparison is written as a page for people.
    """

    window: Annotated[StrictInt, Field(ge=50, le=1_000_000)] = 1000
    sample: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    rows_per_request: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    report: FilePath | None = None


class Tracing(Table):
    """Where spans go.

    Attributes:
        endpoint: The OTLP/HTTP receiver, or "console", which prints each trace as a tree.
        sample: Share of traces that are kept, in [0, 1].
    """

    endpoint: Annotated[str, Field(pattern=r"^(https?://[^\s@]+|console)$")] = (
        "http://127.0.0.1:4318"
    )
    sample: Annotated[float, Field(ge=0, le=1, strict=True)] = 1.0


class Metrics(Table):
    """Where metrics are read.

    Attributes:
        path: The path that answers Prometheus, below the app's root.
    """

    path: RouteText = "/metrics"


class Settings(Table):
    """Everything the operator decided; a part whose table is missing is off, except metrics."""

    service: Service = Service()
    models: tuple[Model, ...] = ()
    auth: Auth | None = None
    quotas: Quotas | None = None
    drift: Drift | None = None
    tracing: Tracing | None = None
    metrics: Metrics = Metrics()

    _source: str = PrivateAttr("")
    _secrets: dict[str, tuple[bytes, ...]] = PrivateAttr(default_factory=dict)
    _pseudonym_key: bytes | None = PrivateAttr(None)

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        for key in ("name", "route"):
            seen = [getattr(m, key) for m in self.models if getattr(m, key)]
            twice = next((v for v in seen if seen.count(v) > 1), None)
            if twice:
                raise PydanticCustomError(
                    "contradiction", f"models: two models have the {key} {twice!r}"
                )
        if self.drift and not any(m.reference for m in self.models):
            raise PydanticCustomError(
                "contradiction",
                "drift: no model has a `reference` to compare with; "
                "`mlguard reference build` makes one",
            )
        for model in self.models:
            if model.scopes and not self.auth:
                raise PydanticCustomError(
                    "contradiction", f"models[{model.name}].scopes: needs the table [auth]"
                )
        if self.auth and self.auth.store and not self.service.companion:
            raise PydanticCustomError(
                "contradiction",
                "auth.store: needs the companion process, which `service.companion` switches off",
            )
        return self

    def resolve(
        self, source: str, secrets: dict[str, tuple[bytes, ...]], pseudonym_key: bytes | None
    ) -> None:
        """Note where the settings came from, and the secrets that they name."""
        self._source = source
        self._secrets.update(secrets)
        self._pseudonym_key = pseudonym_key

    @property
    def all_scopes(self) -> tuple[str, ...]:
        """Every scope that the service or a model demands."""
        demanded = [*(self.auth.scopes if self.auth else ())]
        demanded += [scope for model in self.models for scope in model.scopes]
        return tuple(dict.fromkeys(demanded))

    def secrets_of(self, issuer: Issuer) -> tuple[bytes, ...]:
        """Return an issuer's HMAC secrets, oldest to newest; empty where public keys verify."""
        return self._secrets.get(issuer.issuer, ())

    @property
    def pseudonym_key(self) -> bytes | None:
        """The key of pseudonyms, where the operator gave one."""
        return self._pseudonym_key

    @property
    def resolved(self) -> bool:
        """Whether what the settings only name has been fetched."""
        return bool(self._source)

    @property
    def source(self) -> str:
        """The file the settings came from, for messages."""
        return self._source

    def digest(self) -> str:
        """Name these settings: equal settings have equal digests; no secret is shown by it."""
        store = self.auth.store if self.auth else None
        text = json.dumps([self.model_dump(mode="json"), store], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
