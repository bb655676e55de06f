"""What must be alive for the guard to work, and when does it start?"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import json
import os
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from mlguard import metrics as exposition
from mlguard.app.revoked import FirstReading
from mlguard.app.scrape import Page, SingleFlight
from mlguard.auth import Authenticator, KeySet
from mlguard.errors import MissingExtra
from mlguard.guard import Guard, Offer
from mlguard.keys import KeyFetcher, rings
from mlguard.ledger import Limit, MemoryLedger
from mlguard.logs import LOGGER, Seldom
from mlguard.metrics import Metrics
from mlguard.quota_store.choose import ledger
from mlguard.quota_store.failover import Failover
from mlguard.quotas import Quota
from mlguard.revocations import Revocation, Revocations, RevocationsFull
from mlguard.runtime.companion import Companion, CompanionConfig, DriftModel
from mlguard.settings import PREFIX, Quotas, Settings, load
from mlguard.tracing import Tracing

PSEUDONYMS = 10_000  # remembered
_STORES = (f"{PREFIX}AUTH__REVOCATION_STORE", f"{PREFIX}QUOTAS__STORE")
_DRIFT_PACKAGES = ("evidently", "pandas", "pyarrow")


class Service:
    """A guard and what runs beside it. Making one starts nothing; `start` does, once per process.

    Args:
        source: The settings: a path, a mapping or Settings.
        tracer_provider: A provider that is configured already, which is joined.

    Raises:
        InvalidSettings: The settings contradict what must be true.
        MissingExtra: A part that is on needs packages that are not installed.

    Attributes:
        started: Whether this process has started.
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
        self._log = Seldom()
        self._lock = threading.Lock()
        self.started = False
        self._has_begun = False
        self._pseudonym_key = settings.pseudonym_key
        self._pseudonym = lru_cache(PSEUDONYMS)(self._hashed)
        self._revoked = Revocations()
        self._first_reading = self._make_first_reading()
        self._rings = rings(settings)
        self._fetcher = self._make_fetcher()
        self._config = self._companion_config()
        self._companion = self._make_companion() if settings.service.companion else None
        # Routes may declare limits where the settings have none.
        quotas = settings.quotas or Quotas.model_construct()
        counts = ledger(quotas, self._config, self.metrics)
        self._failover = counts if isinstance(counts, Failover) else None
        self.tracing = Tracing(settings, tracer_provider or _configured())
        self.guard = Guard(
            settings,
            authenticator=Authenticator(settings.auth, self._rings, self._pseudonym, self._revoked)
            if settings.auth
            else None,
            quota=Quota(
                quotas,
                counts,
                is_shared=self._failover is not None,
                on_ended=self._window_ended,
            ),
            metrics=self.metrics,
            tracing=self.tracing,
            offer=self._companion.offer if self._companion and settings.drift else None,
            pseudonym=self._pseudonym,
        )
        self.metrics.before_snapshot = self.guard.recorder.fold
        self._scrapes = SingleFlight(self.expose)

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
        self._fetcher = None
        self._failover = None
        self._first_reading = None
        self._revoked.is_known = True
        self.guard.quota.count_in(MemoryLedger())
        self.tracing.rehearse(spans)
        self.guard.rehearse(keys, offer)

    @property
    def tracer_provider(self) -> trace.TracerProvider | None:
        """Whose tracers make this service's spans; None where tracing is off."""
        return self.tracing.provider

    def start(self) -> None:
        """Start what runs beside the requests; does nothing where this process has done so."""
        with self._lock:
            if self.started:
                return
            if self._failover:  # first, as it may refuse to start
                self._failover.start()
            if self._first_reading:
                self._first_reading.start()
                if not self._revoked.is_known:
                    self.metrics.set_degraded("revocations", True)
            if self.settings.drift:
                self.metrics.set_drift_worker_up(False)
            if self._companion:
                self._remember(self._companion)
                self._companion.start()
            if self._fetcher:
                self._fetcher.start()
            self.tracing.start(self._exported, self.metrics.spans_dropped)
            self.guard.recorder.start()
            if not self._has_begun:  # nor inherited from a process that forked
                atexit.register(self.close)
                _forget_at_fork(self)
            self._has_begun = self.started = True

    def forked(self) -> None:
        """Be in a forked process, where nothing has started."""
        self.started = False
        self._lock = threading.Lock()

    def close(self) -> None:
        """Send what is still held and stop; takes a few seconds at most."""
        if not self.started:
            return
        with self._lock:
            self.started = False
            if self._fetcher:
                self._fetcher.close()
            if self._first_reading:
                self._first_reading.close()
            if self._failover:
                self._failover.close()
            if self._companion:
                self._companion.close()
            self.guard.recorder.close()
            self.tracing.close()

    def flush(self) -> None:
        """Bring the metrics up to date, and send the spans of all requests that have ended."""
        self.guard.recorder.fold()
        self.tracing.flush()

    def scrape(self, accept: str) -> Future[Page]:
        """Answer Prometheus: one page for all who ask while it is being made."""
        return self._scrapes.ask(accept)

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

    def _companion_config(self) -> CompanionConfig:
        settings = self.settings
        drift = settings.drift
        models = tuple(
            DriftModel(m.name, m.version, m.features, str(m.reference))
            for m in settings.models
            if drift and m.reference
        )
        quotas = settings.quotas
        return CompanionConfig(
            service=settings.service.name,
            digest=settings.digest(),
            drift_models=models,
            window=drift.window if drift else 0,
            report=str(drift.report) if drift and drift.report else None,
            secrets=_secret_variables(settings),
            counts_apart=quotas is not None and quotas.store == "memory://",
            store=settings.auth.revocation_store if settings.auth else None,
        )

    def _make_companion(self) -> Companion:
        return Companion(
            self._config,
            snapshot=self.metrics.snapshot,
            on_state=self._companion_is,
            on_drop=self.metrics.rows_dropped,
            on_revoked=self._told,
        )

    def _window_ended(self, limit: Limit, share: float) -> None:
        self.metrics.quota_used(limit.model, limit.name, share)

    def _make_fetcher(self) -> KeyFetcher | None:
        auth = self.settings.auth
        fetched = [i.issuer for i in auth.issuers if i.is_fetched] if auth else []
        if auth is None or not fetched:
            return None
        rings = {issuer: self._rings[issuer] for issuer in fetched}
        for issuer, ring in rings.items():
            self.metrics.measure_keys_age(issuer, ring.age)
        return KeyFetcher(auth, rings, on_result=self._fetched)

    def _fetched(self, issuer: str, result: str) -> None:
        self.metrics.keys_fetched(result)
        self.metrics.set_degraded("keys", any(ring.is_failing for ring in self._rings.values()))

    def revoke(self, revocation: Revocation) -> None:
        """Refuse what it names from now on: here at once, soon wherever the companion tells.

        Returns at once in a worker; elsewhere it blocks until others are told. Without a companion
        process it holds in this process only.

        Raises:
            RevocationsFull: There is no room for more, here or on the way.
            OSError: Outside of a worker: it cannot be kept.
        """
        refused = self._learn([revocation])  # first, as telling others may raise
        if self._companion:
            self._companion.revoke([revocation])
        else:
            LOGGER.warning("a revocation holds in this process only: there is no companion")
        if refused:
            raise RevocationsFull(refused)

    def _make_first_reading(self) -> FirstReading | None:
        store = self.settings.auth.revocation_store if self.settings.auth else None
        self._revoked.is_known = store is None
        if store is None:
            return None
        return FirstReading(store, self.settings.service.name, self._known_now)

    def _known_now(self, revocations: Sequence[Revocation]) -> None:
        self._told(revocations)
        self._revoked.is_known = True
        self.metrics.set_degraded("revocations", False)

    def _remember(self, companion: Companion) -> None:
        """Learn what was revoked earlier; where that cannot be read, the companion may know."""
        try:
            self._learn(companion.known_revocations())
        except OSError as error:
            self.metrics.set_degraded("revocations", True)
            LOGGER.warning("what was revoked earlier cannot be read: %s", error)

    def _told(self, revocations: Sequence[Revocation]) -> None:
        if refused := self._learn(revocations):
            text = "%d revocations do not hold here: no room"
            self._log.warning("revocations", text, refused)

    def _learn(self, revocations: Sequence[Revocation]) -> int:
        return self._revoked.learn(revocations, time.time())[1]

    def _companion_is(self, up: bool) -> None:
        self.metrics.set_degraded("companion", not up)

    def _exported(self, taken: bool) -> None:
        self.metrics.set_degraded("tracing", not taken)
        if not taken and self.settings.tracing:
            self._log.warning(
                "export", "spans are lost: %s does not take them", self.tracing.endpoint
            )

    def _hashed(self, key: tuple[str, str, str]) -> str:
        if self._pseudonym_key is None:
            self._pseudonym_key = self._companion.key() if self._companion else os.urandom(32)
        digest = hmac.new(self._pseudonym_key, json.dumps(key).encode(), hashlib.sha256)
        return digest.hexdigest()[:16]


def _forget_at_fork(service: Service) -> None:
    """Have a forked process start what its parent did."""
    known = weakref.ref(service)

    def forget() -> None:
        if (found := known()) is not None:
            found.forked()

    os.register_at_fork(after_in_child=forget)


def _configured() -> trace.TracerProvider | None:
    """Find a provider that the process is configured with, which is joined."""
    found = trace.get_tracer_provider()
    if not isinstance(found, TracerProvider):
        return None
    LOGGER.info("an OpenTelemetry provider is configured already and joined")
    return found


def _secret_variables(settings: Settings) -> tuple[str, ...]:
    auth = settings.auth
    named = [name for issuer in (auth.issuers if auth else ()) for name in issuer.secret_env]
    key = settings.service.pseudonym_key_env
    return (*named, *_STORES, *([key] if key else []))


def stable_conventions() -> None:
    """Ask OpenTelemetry's instrumentations for the stable HTTP conventions.

    They read this once per process, at the first instrumentation; what an operator has set stays.
    """
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def _demand_packages(settings: Settings) -> None:
    """Find out whether optional parts could run, without importing what they import."""
    from importlib.util import find_spec

    missing = [name for name in _DRIFT_PACKAGES if settings.drift and find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"[drift] needs {', '.join(missing)}: run `pip install 'mlguard-core[drift]'`, "
            "or remove [drift] from the settings"
        )
