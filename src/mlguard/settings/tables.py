"""What may stand in the settings file?"""

from __future__ import annotations

import hashlib
import json
import os
import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Literal

from limits import parse as parse_rate
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

_HMAC = ("HS256", "HS384", "HS512")
_RSA = ("RS256", "RS384", "RS512")


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

    model_config = ConfigDict(extra="forbid", frozen=True)


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
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Text = Annotated[str, Field(min_length=1)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
Scope = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$")]  # RFC 6749 section 3.3
Size = Annotated[ByteSize, BeforeValidator(_size)]
Network = Annotated[IPv4Network | IPv6Network, BeforeValidator(_network)]
RouteText = Annotated[str, BeforeValidator(_path)]
FilePath = Annotated[Path, BeforeValidator(_existing)]
RateText = Annotated[Rate, BeforeValidator(_rate)]


class Service(Table):
    """Who this service is and whom it believes.

    Attributes:
        name: OpenTelemetry's service.name.
        environment: OpenTelemetry's deployment.environment.name.
        trusted_proxies: Networks whose X-Forwarded-For and sampled flag are believed.
        max_body: Bytes of a model route's request body that are read at most.
        pseudonym_key_env: Names the variable with the key that turns principals into pseudonyms;
            without it, a random key lives as long as the service on this host.
        companion: Whether a companion process stands beside the workers.
    """

    name: Name = "ml-service"
    environment: Text = "development"
    trusted_proxies: tuple[Network, ...] = ()
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
    """

    name: Name
    version: Text = "1"
    route: RouteText | None = None
    inputs: Text | None = None
    outputs: Text | None = None
    protocol: Literal["v1", "v2"] | None = None
    features: tuple[Text, ...] = ()
    reference: FilePath | None = None

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


class Auth(Table):
    """Whose tokens are accepted.

    Attributes:
        issuer: The `iss` that tokens must carry.
        audience: The `aud` that tokens must carry, one of several.
        jwks_file: A JSON Web Key Set with the issuer's public keys.
        secret_env: Names the variable with the HMAC secret.
        secret_file: The file with the HMAC secret.
        algorithms: The signature algorithms accepted; keys serve no other.
        scopes: What a token's `scope` must grant on every route that is not public.
        tenant_claim: The claim that tells tenants apart.
        leeway: Seconds that clocks may differ.
        public: Routes, as the framework spells them, that need no token.
    """

    issuer: Text
    audience: Annotated[tuple[Text, ...], Field(min_length=1)] | Text
    jwks_file: FilePath | None = None
    secret_env: Variable | None = None
    secret_file: FilePath | None = None
    algorithms: tuple[Literal["HS256", "HS384", "HS512", "RS256", "RS384", "RS512"], ...] = Field(
        min_length=1
    )
    scopes: tuple[Scope, ...] = ()
    tenant_claim: Text | None = None
    leeway: Annotated[StrictInt, Field(ge=0, le=300)] = 10
    public: tuple[RouteText, ...] = ()

    @model_validator(mode="after")
    def _agree(self) -> Auth:
        sources = [s for s in (self.jwks_file, self.secret_env, self.secret_file) if s]
        if len(sources) != 1:
            raise PydanticCustomError(
                "contradiction",
                "must have exactly one of `jwks_file`, `secret_env` and `secret_file`",
            )
        family = _RSA if self.jwks_file else _HMAC
        strangers = [a for a in self.algorithms if a not in family]
        if strangers:
            source = "jwks_file" if self.jwks_file else "a secret"
            raise PydanticCustomError(
                "contradiction",
                f"has algorithms {strangers}, but {source} serves {', '.join(family)} only",
            )
        return self

    @property
    def audiences(self) -> frozenset[str]:
        """The accepted audiences, however many were written."""
        return frozenset([self.audience] if isinstance(self.audience, str) else self.audience)


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
    _secrets: dict[str, bytes] = PrivateAttr(default_factory=dict)

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
        return self

    def resolve(self, source: str, secrets: dict[str, bytes]) -> None:
        """Note where the settings came from, and the secrets that they name."""
        self._source = source
        self._secrets.update(secrets)

    @property
    def secret(self) -> bytes:
        """The HMAC secret, resolved from the environment or the file; empty without one."""
        return self._secrets.get("auth", b"")

    @property
    def pseudonym_key(self) -> bytes | None:
        """The key of pseudonyms, where the operator gave one."""
        return self._secrets.get("pseudonym")

    @property
    def resolved(self) -> bool:
        """Whether what the settings only name has been fetched."""
        return bool(self._source)

    @property
    def source(self) -> str:
        """The file the settings came from, for messages."""
        return self._source

    def digest(self) -> str:
        """Name these settings: equal settings have equal digests."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
