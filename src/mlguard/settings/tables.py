"""What may stand in the settings file?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    ByteSize,
    Field,
    PrivateAttr,
    StrictBool,
    StrictInt,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from mlguard.settings.issuers import Auth, Issuer
from mlguard.settings.quotas import Quotas, misnamed
from mlguard.settings.sharing import sharing_problem
from mlguard.settings.values import (
    REST,
    Classes,
    FilePath,
    HeadSize,
    ModelName,
    Name,
    Network,
    PathText,
    Place,
    Places,
    RouteText,
    Scope,
    Scopes,
    SelectorText,
    Size,
    StoreUrl,
    Table,
    Text,
    Variable,
    contradiction,
    spelt,
)
from mlguard.urls import redacted_url


def _twice(values: Sequence[str]) -> str | None:
    return next((value for value in values if values.count(value) > 1), None)


class ServiceSettings(Table):
    """Who this service is and whom it believes.

    Attributes:
        name: OpenTelemetry's service.name.
        environment: OpenTelemetry's deployment.environment.name.
        mode: "observe" decides, counts and tells of each request, and refuses none.
        trusted_proxies: Networks whose X-Forwarded-For and sampled flag are believed; "unix" is
            whoever connects through a Unix socket, and so has no address.
        max_uri: Bytes that path and query may have together; more is a 414.
        max_header: Bytes that any one header that is read may have; more is a 431.
        max_body: Bytes of a model route's request body that are read at most.
        body_timeout: Seconds in which a body that is read must have come; later is a 408. Of WSGI
            servers, gunicorn and werkzeug let it be held; others have timeouts of their own.
        pseudonym_key_env: Names the variable with the key that turns principals into pseudonyms;
            without it, a random key lives as long as the service's folder on this host.
        host_file: Whether the workers of a host meet in a file: for the metrics of all, for
            revocations, drift and `host://`.
        folder: Where the service's private folder is made, a local folder that its user can write
            to; without it, in the runtime folder or the temporary folder. A folder in
            `quotas.store` wins.
    """

    name: Name = "ml-service"
    environment: Text = "development"
    mode: Literal["enforce", "observe"] = "enforce"
    trusted_proxies: tuple[Network | Literal["unix"], ...] = ()
    max_uri: HeadSize = ByteSize(8 * 1024)
    max_header: HeadSize = ByteSize(16 * 1024)
    max_body: Size = ByteSize(8 * 1024 * 1024)
    body_timeout: Annotated[StrictInt, Field(ge=1, le=3600)] = 30
    pseudonym_key_env: Variable | None = None
    host_file: StrictBool = True
    folder: FilePath | None = None


class Model(Table):
    """A machine-learning model that the service serves.

    Attributes:
        name: The model's name in settings, metrics and spans.
        version: The version served unless the handler names another.
        aliases: Other names by which clients ask it; "" where they name none.
        model_from: Where a request names its model, where several share a route: "path:name",
            "query:model" or "body:model". An entry named "*" takes every other name; all those are
            called "_other".
        version_from: Where a request names the version.
        versions: The versions that it may name; every other one is called "_other".
        route: The route, as the framework spells it, whose bodies are read without code.
        routes: The same, where there are several.
        inputs: Where the rows are in the JSON request: keys and indexes joined by dots, a JSON
            Pointer (which a key with a dot needs), or "" for the whole body. What is no JSON: the
            fields of a "form", the parameters of the "query", "files" that are uploaded, "csv".
        shape: What stands there: a list of "rows", one "row" (an object, a flat list, an image, a
            text), "columns" of an object, or "auto" for whatever it may be.
        outputs: Where the predictions are in the JSON answer, as in `inputs`; several where an
            answer has several, of which the first is what performance is measured by.
        protocol: Fills `inputs` and `outputs`: v1 is KServe and TF-Serving, v2 Open Inference.
        features: Names of a row's fields, in order; without it the reference's.
        reference: The file that says what training looked like; with it drift is checked.
        scopes: What a token must grant to ask this model, beyond `auth.scopes`.
        task: What it answers, for its performance: a class, or a number.
        classes: Its classes, in the order of their scores, `[0, 1]` unless they are named; of two,
            the last is the positive one.
        scores: Where the classes' probabilities are in the JSON answer; with v2, a tensor's name.
        threshold: The probability from which a row is positive, where only scores are answered.
        calibration: The file that says what its scores are worth.
    """

    name: ModelName
    version: Text = "1"
    aliases: tuple[str, ...] = ()
    model_from: SelectorText | None = None
    version_from: SelectorText | None = None
    versions: tuple[Text, ...] = ()
    route: RouteText | None = None
    routes: tuple[RouteText, ...] = ()
    inputs: Place | None = None
    shape: Literal["auto", "rows", "row", "columns"] = "auto"
    outputs: Places | None = None
    protocol: Literal["v1", "v2"] | None = None
    features: tuple[Text, ...] = ()
    reference: FilePath | None = None
    scopes: Scopes = ()
    task: Literal["classification", "regression"] | None = None
    classes: Classes = ()
    scores: Place | None = None
    threshold: Annotated[float, Field(gt=0, lt=1, strict=True)] = 0.5
    calibration: FilePath | None = None

    @model_validator(mode="after")
    def _agree(self) -> Model:
        if self.protocol and (self.inputs, self.outputs) != (None, None):
            raise contradiction(
                "has `protocol`, which says where the rows are: remove `inputs` and `outputs`",
            )
        if self.protocol and self.shape != "auto":
            raise contradiction("has `protocol`, which says what its rows are: remove `shape`")
        if self.inputs in ("files", "csv") and self.shape not in ("auto", "rows"):
            raise contradiction(f'reads "{self.inputs}", whose shape is known: remove `shape`')
        if self.route and self.routes:
            raise contradiction("has `route` and `routes`: name them all in `routes`")
        if self.all_routes and self.inputs is None and not self.protocol:
            has = "`routes`" if self.routes else "a `route`"
            raise contradiction(
                f"has {has}: say where its rows are, "
                'with `inputs = "instances"` or `protocol = "v1"`',
            )
        if len(set(self.features)) != len(self.features):
            raise contradiction("names a feature twice")
        self._naming_agrees()
        self._task_agrees()
        return self

    def _naming_agrees(self) -> None:
        """Find what is said of names and versions that nobody would look for."""
        for name in ("model_from", "version_from"):
            if name in self.model_fields_set and not self.all_routes:
                raise contradiction(f"has `{name}`, but no `route` whose requests could say it")
        if self.aliases and not self.model_from:
            raise contradiction("has `aliases`: say where requests name it, with `model_from`")
        if self.versions and not self.version_from:
            raise contradiction("has `versions`: say where requests name one, with `version_from`")

    def _task_agrees(self) -> None:
        """Find what only a classification has."""
        if self.task != "classification":
            for name in ("classes", "scores", "threshold", "calibration"):
                if name in self.model_fields_set:
                    raise contradiction(f'has `{name}`: say `task = "classification"` too')
        if self.scores is not None and not (self.outputs or self.protocol):
            raise contradiction("has `scores`: say where its predictions are, with `outputs`")

    @property
    def all_routes(self) -> tuple[str, ...]:
        """Every route whose bodies are read without code."""
        return (self.route,) if self.route else self.routes


class Drift(Table):
    """How live inputs are compared with the reference: of every model that has one.

    Attributes:
        enabled: Whether they are; without the table too, as soon as a model has a `reference`.
        window: Rows in one comparison; without it what a model's reference proposes.
        max_age: Seconds after which fewer rows are compared, without waiting for more.
        min_rows: Rows below which such a comparison is skipped.
        drifted_windows: Comparisons in which a feature must drift for an alert.
        last_windows: The last comparisons of which.
        sample: Share of requests that give a row.
        rows_per_request: Rows taken of one request at most; rows of one batch are not independent.
        report: Where the last comparison is written as a page for people, with how each score went
            over the last 200 windows; those are in a file of that name that ends in `.history`,
            without any value of a row. Of several models each has its own, `drift-iris.html`.
        route: The route at which the app shows that page; of several, `?model=` says whose.
        scope: What a token must grant to see it.
        category_key_env: Names the variable with the key, of at least 16 bytes, with which texts
            are hashed before they leave the worker; the reference is built with the same
            (`--category-key-env`).
        store: A Redis through which the rows of all hosts reach `mlguard drift serve`; without one
            each host judges its own.
    """

    enabled: StrictBool = True
    window: Annotated[StrictInt, Field(ge=50, le=1_000_000)] | None = None
    max_age: Annotated[float, Field(ge=1, le=31_536_000, strict=True)] = 86_400.0
    min_rows: Annotated[StrictInt, Field(ge=30, le=1_000_000)] = 200
    drifted_windows: Annotated[StrictInt, Field(ge=1, le=100)] = 2
    last_windows: Annotated[StrictInt, Field(ge=1, le=100)] = 2
    sample: Annotated[float, Field(gt=0, le=1, strict=True)] = 1.0
    rows_per_request: Annotated[StrictInt, Field(ge=1, le=1000)] = 1
    report: FilePath | None = None
    route: PathText | None = None
    scope: Scope = "mlguard.drift"
    category_key_env: Variable | None = None
    store: StoreUrl | None = Field(default=None, repr=False)

    @field_serializer("store")
    def _without_password(self, store: str | None) -> str | None:
        return store and redacted_url(store)


class FeedbackSettings(Table):
    """How truths that come late find the predictions that they are about.

    Attributes:
        retention: Seconds for which a call's predictions are kept, and labels are taken.
        max_calls: Calls that are kept at most; the oldest give way.
        window: The last labels of a model, from which its performance is measured.
        route: The path that takes labels, below the app's root.
        scope: What a token must grant to send some.
    """

    retention: Annotated[StrictInt, Field(ge=60, le=31_536_000)] = 604_800
    max_calls: Annotated[StrictInt, Field(ge=100, le=10_000_000)] = 100_000
    window: Annotated[StrictInt, Field(ge=10, le=10_000)] = 1000
    route: PathText | None = None
    scope: Scope = "mlguard.feedback"


class TracingSettings(Table):
    """Where spans go.

    Attributes:
        endpoint: The OTLP/HTTP receiver, with or without /v1/traces, or "console", which prints
            each trace as a tree; without it what OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or
            OTEL_EXPORTER_OTLP_ENDPOINT says, else http://127.0.0.1:4318.
        sample: Share of traces begun here that are kept; where it is not set,
            OTEL_TRACES_SAMPLER may say it.
        server_spans: Who makes a request's span: "ours", or the "packages" of OpenTelemetry's
            instrumentation.
    """

    endpoint: (
        Annotated[
            str,
            spelt(
                r"https?://[^\s@]+|console",
                'a URL like "http://127.0.0.1:4318" without a password, or "console"',
            ),
        ]
        | None
    ) = None
    sample: Annotated[float, Field(ge=0, le=1, strict=True)] = 1.0
    server_spans: Literal["ours", "packages"] = "ours"


class MetricsSettings(Table):
    """Where metrics are read.

    Attributes:
        path: The path that answers Prometheus, below the app's root.
    """

    path: PathText = "/metrics"


class Settings(Table):
    """Everything the operator decided.

    A part whose table is missing is off, but for metrics, and for drift where a model has a
    `reference`.
    """

    service: ServiceSettings = ServiceSettings()
    models: tuple[Model, ...] = ()
    auth: Auth | None = None
    quotas: Quotas | None = None
    drift: Drift | None = Field(default=None, validate_default=True)
    feedback: FeedbackSettings | None = None
    tracing: TracingSettings | None = None
    metrics: MetricsSettings = MetricsSettings()

    _source: str = PrivateAttr("")
    _secrets: dict[str, tuple[bytes, ...]] = PrivateAttr(default_factory=dict)
    _pseudonym_key: bytes | None = PrivateAttr(None)
    _category_key: bytes | None = PrivateAttr(None)

    @field_validator("drift")
    @classmethod
    def _is_checked(cls, drift: Drift | None, info: ValidationInfo) -> Drift | None:
        """Check drift as soon as a model has a reference, unless that is switched off."""
        if drift is None:
            has_any = any(model.reference for model in info.data.get("models", ()))
            return Drift() if has_any else None
        return drift if drift.enabled else None

    @model_validator(mode="after")
    def _agree(self) -> Settings:
        if twice := _twice([m.name for m in self.models]):
            raise contradiction(f"models: two models have the name {twice!r}")
        if wrong := sharing_problem(self.models):
            raise contradiction(f"models: {wrong}")
        if self.drift:
            self._drift_agrees(self.drift)
        for model in self.models:
            if model.scopes and not self.auth:
                raise contradiction(f"models[{model.name}].scopes: needs the table [auth]")
        if self.auth and self.auth.revocation_store and not self.service.host_file:
            raise contradiction(
                "auth.revocation_store: needs the file in which the workers of a host meet, "
                "which `service.host_file` switches off",
            )
        if self.feedback:
            self._feedback_agrees(self.feedback)
        if self.quotas:
            self._quotas_agree(self.quotas)
        return self

    def _drift_agrees(self, drift: Drift) -> None:
        """Find what drift checks need and the rest of the settings lacks."""
        if drift.drifted_windows > drift.last_windows:
            raise contradiction(
                f"drift.drifted_windows = {drift.drifted_windows}: must be at most "
                f"drift.last_windows, which is {drift.last_windows}",
            )
        if not any(m.reference for m in self.models):
            raise contradiction(
                "drift: no model has a `reference` to compare with; "
                "`mlguard reference build` makes one",
            )
        if not drift.store and not self.service.host_file and "drift" in self.model_fields_set:
            raise contradiction(
                "drift: needs the file in which the workers of a host meet, which "
                "`service.host_file` switches off, or a Redis in `drift.store`",
            )
        if drift.route and not (drift.report and self.auth):
            raise contradiction(
                "drift.route: needs `drift.report`, which says where the page is written, and "
                "the table [auth], or anybody could see it",
            )

    def _feedback_agrees(self, feedback: FeedbackSettings) -> None:
        """Find what labels need and the rest of the settings lacks."""
        if not any(m.task for m in self.models):
            raise contradiction(
                "feedback: no model has a `task`, which says what its predictions are",
            )
        if feedback.route and not self.auth:
            raise contradiction("feedback.route: needs the table [auth], or anybody could send")
        if not self.service.host_file and not self.shares_redis:
            raise contradiction(
                "feedback: needs the file in which the workers of a host meet, which "
                "`service.host_file` switches off, or a Redis in `quotas.store`",
            )

    @property
    def shares_redis(self) -> bool:
        """Whether the service counts in a Redis, where its hosts meet."""
        return self.quotas is not None and self.quotas.store.startswith("redis")

    def _quotas_agree(self, quotas: Quotas) -> None:
        """Find what the quotas name and the rest of the settings lacks."""
        if place := misnamed(quotas, self.model_names):
            raise contradiction(f"quotas.{place}: no model has that name")
        if quotas.plans and not self.auth:
            raise contradiction("quotas.plans: needs the table [auth], whose tokens name a plan")
        if quotas.tenant and not (self.auth and self.auth.tells_tenants):
            raise contradiction(
                "quotas.tenant: needs `auth.tenant_claim` or [auth.api_keys], which tell tenants "
                "apart",
            )
        if quotas.store.startswith("host://") and not self.service.host_file:
            raise contradiction(
                "quotas.store: host:// needs the file in which the workers of a host meet, "
                "which `service.host_file` switches off",
            )

    @property
    def model_names(self) -> tuple[str, ...]:
        """Every name that models have in metrics and spans, that of the rest included."""
        names = dict.fromkeys(m.name for m in self.models)
        if any(m.model_from for m in self.models):
            names[REST] = None
        return tuple(names)

    def resolve(
        self,
        source: str,
        secrets: dict[str, tuple[bytes, ...]],
        pseudonym_key: bytes | None,
        category_key: bytes | None,
    ) -> None:
        """Note where the settings came from, and the secrets that they name."""
        self._source = source
        self._secrets.update(secrets)
        self._pseudonym_key = pseudonym_key
        self._category_key = category_key

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
    def category_key(self) -> bytes | None:
        """The key with which texts are hashed before they are compared, where there is one."""
        return self._category_key

    @property
    def folder(self) -> Path | None:
        """Where the service's private folder is made, None where the platform keeps such."""
        return (self.quotas.folder if self.quotas else None) or self.service.folder

    @property
    def meeting(self) -> str:
        """Whose workers meet on a host: a service's by its name, else by its settings file.

        So services that nobody named do not share their counts.
        """
        if "name" in self.service.model_fields_set:
            return self.service.name
        file = Path(self._source)
        return f"{self.service.name} {file.resolve() if file.is_file() else self.digest()}"

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
        stores = [
            self.auth.revocation_store if self.auth else None,
            self.auth.api_keys.store if self.auth and self.auth.api_keys else None,
            self.quotas.store if self.quotas else None,
            self.drift.store if self.drift else None,
        ]
        text = json.dumps([self.model_dump(mode="json"), stores], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()
