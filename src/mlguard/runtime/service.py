"""What must be alive for the guard to work, and when does it start?"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from mlguard import metrics as exposition
from mlguard.auth import Authenticator, KeySet
from mlguard.errors import InvalidSettings, MissingExtra
from mlguard.guard import Guard, Offer
from mlguard.logs import LOGGER, Seldom
from mlguard.metrics import Metrics
from mlguard.quotas import MemoryLedger, Quota
from mlguard.runtime.companion import Companion, CompanionConfig, DriftModel
from mlguard.settings import Auth, Settings, load
from mlguard.tracing import Relay, exporting, provider

_DRIFT_PACKAGES = ("evidently", "pandas", "pyarrow")


class Service:
    """A guard and what runs beside it. Making one starts nothing; `start` does, once per process.

    Args:
        source: The settings: a path, a mapping or Settings.
        tracer_provider: A provider that is configured already, which is joined.

    Raises:
        InvalidSettings: The settings contradict what must be true.
        MissingExtra: A part that is on needs packages that are not installed.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | Settings,
        *,
        tracer_provider: trace.TracerProvider | None = None,
    ) -> None:
        self.settings = settings = load(source)
        _demand_packages(settings)
        self.metrics = Metrics((m.name, m.version) for m in settings.models)
        self._spans: SpanProcessor | None = None
        self._relay = Relay()
        self._log = Seldom()
        self._lock = threading.Lock()
        self._pid: int | None = None
        self._key = settings.pseudonym_key
        self._companion = self._make_companion() if settings.service.companion else None
        self.tracer_provider, self.joined = self._provider(tracer_provider)
        self.guard = Guard(
            settings,
            authenticator=_authenticator(settings, self._pseudonym),
            quota=Quota(settings.quotas, MemoryLedger()) if settings.quotas else None,
            metrics=self.metrics,
            tracer=self.tracer_provider.get_tracer("mlguard") if self.tracer_provider else None,
            offer=self._companion.offer if self._companion and settings.drift else None,
            pseudonym=self._pseudonym,
        )

    def rehearse(self, *, keys: KeySet, spans: SpanProcessor, offer: Offer) -> None:
        """Cut everything outside off, for tests: only before the start.

        Args:
            keys: Verify tokens instead of the configured ones.
            spans: Takes the spans instead of an exporter.
            offer: Takes the sampled rows instead of the companion.
        """
        if self.started:
            raise AssertionError("a service that has started cannot be rehearsed")
        self._companion = None
        self._spans = spans
        self.guard.rehearse(keys, offer)

    @property
    def started(self) -> bool:
        """Whether this process has started."""
        return self._pid == os.getpid()

    def start(self) -> None:
        """Start what runs beside the requests; does nothing where this process has done so."""
        with self._lock:
            if self.started:
                return
            if self.settings.drift:
                self.metrics.set_drift_worker_up(False)
            if self._companion:
                self._companion.start()
            if self.tracer_provider is not None and not self.joined:
                self._relay.begin(self._spans or self._exporting())
            if self._pid is None:  # not inherited from a process that forked
                atexit.register(self.close)
            self._pid = os.getpid()

    def close(self) -> None:
        """Send what is still held and stop; takes a few seconds at most."""
        if not self.started:
            return
        with self._lock:
            self._pid = None
            if self._companion:
                self._companion.close()
            self._relay.end()

    def expose(self, accept: str) -> tuple[int, str, bytes]:
        """Write the metrics of all workers; blocks for at most a second.

        Where others cannot be asked, this worker's numbers alone would pass for a counter reset:
        then the scrape fails, which Prometheus shows as `up` 0.

        Args:
            accept: The Accept header, which chooses between OpenMetrics and the classic text.

        Returns:
            The HTTP status, the content type and the text.
        """
        families = self._companion.collect() if self._companion else self.metrics.snapshot()
        if families is None and self._companion and not self._companion.is_alone:
            return 503, "text/plain; charset=utf-8", b"the companion process cannot be reached\n"
        return 200, *exposition.expose(families or self.metrics.snapshot(), accept)

    def _make_companion(self) -> Companion:
        settings = self.settings
        drift = settings.drift
        models = tuple(
            DriftModel(m.name, m.version, m.features, str(m.reference))
            for m in settings.models
            if drift and m.reference
        )
        config = CompanionConfig(
            service=settings.service.name,
            digest=settings.digest(),
            drift_models=models,
            window=drift.window if drift else 0,
            report=str(drift.report) if drift and drift.report else None,
            secrets=_secret_variables(settings),
        )
        return Companion(
            config,
            snapshot=self.metrics.snapshot,
            on_state=self._companion_is,
            on_drop=self.metrics.rows_dropped,
        )

    def _companion_is(self, up: bool) -> None:
        self.metrics.set_degraded("companion", not up)

    def _provider(
        self, given: trace.TracerProvider | None
    ) -> tuple[trace.TracerProvider | None, bool]:
        """Join what is configured already; else make a provider of this service's own."""
        if self.settings.tracing is None:
            return None, False
        if given is None and isinstance(trace.get_tracer_provider(), TracerProvider):
            given = trace.get_tracer_provider()
        if given is not None:
            LOGGER.info("an OpenTelemetry provider is configured already and joined")
            return given, True
        own = provider(self.settings, self.settings.tracing)
        own.add_span_processor(self._relay)
        return own, False

    def _exporting(self) -> SpanProcessor:
        if self.settings.tracing is None:
            raise AssertionError("tracing is off")
        return exporting(self.settings.tracing, self._exported)

    def _exported(self, taken: bool) -> None:
        self.metrics.set_degraded("tracing", not taken)
        if not taken and self.settings.tracing:
            self._log.warning(
                "export", "spans are lost: %s does not take them", self.settings.tracing.endpoint
            )

    def _pseudonym(self, key: tuple[str, str, str]) -> str:
        if self._key is None:
            self._key = self._companion.key() if self._companion else os.urandom(32)
        return hmac.new(self._key, json.dumps(key).encode(), hashlib.sha256).hexdigest()[:16]


def _secret_variables(settings: Settings) -> tuple[str, ...]:
    auth = settings.auth
    named = (auth.secret_env if auth else None, settings.service.pseudonym_key_env)
    return tuple(name for name in named if name)


def stable_conventions() -> None:
    """Ask OpenTelemetry's instrumentations for the stable HTTP conventions.

    They read this once per process, at the first instrumentation; what an operator has set stays.
    """
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def _authenticator(settings: Settings, pseudonym: Any) -> Authenticator | None:
    auth = settings.auth
    if auth is None:
        return None
    return Authenticator(auth, _keys(settings, auth), pseudonym)


def _keys(settings: Settings, auth: Auth) -> KeySet:
    """Build the keys that verify tokens, or say which setting gives none."""
    try:
        if auth.jwks_file is None:
            return KeySet.from_secret(settings.secret, algorithms=auth.algorithms)
        return KeySet.from_document(auth.jwks_file.read_bytes(), algorithms=auth.algorithms)
    except (OSError, ValueError) as error:
        key = next(k for k in ("jwks_file", "secret_env", "secret_file") if getattr(auth, k))
        problem = f"auth.{key} = '{getattr(auth, key)}': {error}"
        raise InvalidSettings(problem, source=settings.source) from error


def _demand_packages(settings: Settings) -> None:
    """Find out whether drift checks could run, without importing what they import."""
    if settings.drift is None:
        return
    from importlib.util import find_spec

    missing = [name for name in _DRIFT_PACKAGES if find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"[drift] needs {', '.join(missing)}: run `pip install 'mlguard-core[drift]'`, "
            "or remove the table [drift]"
        )
