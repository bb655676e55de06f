"""What must be alive for the guard to work, and when does it start?"""

from __future__ import annotations

import atexit
import hashlib
import hmac
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from mlguard import forks
from mlguard import metrics as exposition
from mlguard.app.background import Background
from mlguard.app.drivers import on_event_loop
from mlguard.app.revoked import FirstReading
from mlguard.app.scrape import Page, SingleFlight, WorkersApart
from mlguard.auth import ApiKeys, Authenticator, KeySet
from mlguard.errors import MissingExtra
from mlguard.guard import Guard, Offer, Parts, tasks_of
from mlguard.host.processes import Process
from mlguard.keys import KeyFetcher, KeyReader, key_store, rings
from mlguard.ledger import Limit, MemoryLedger
from mlguard.logs import LOGGER, RateLimitedLog
from mlguard.metrics import Metrics, merge
from mlguard.quotas import Quota
from mlguard.revocations import Revocation, Revocations, RevocationsFull
from mlguard.settings import Quotas, Settings, load
from mlguard.tracing import Tracing

if TYPE_CHECKING:
    from mlguard.analyst.sender import RowSender
    from mlguard.app.feedback import Feedback
    from mlguard.app.host import Host
    from mlguard.performance import CallStore
    from mlguard.quota_store.failover import Failover

PSEUDONYMS = 10_000  # remembered
_FOLD = 0.5  # seconds
_READ_AGAIN = 0.5
_CARRY = 1.0  # at the latest
_KEYS = 60.0
_DRIFT_PACKAGES = ("evidently", "pandas", "pyarrow")


class Service:
    """A guard and what runs beside it. Making one starts nothing; `start` does, once per process.

    Args:
        source: The settings: a path, a mapping or Settings.
        tracer_provider: A provider that is configured already, which is joined.
        departures: What a framework raises in a handler whose client has left.

    Raises:
        InvalidSettings: The settings contradict what must be true.
        MissingExtra: A part that is on needs packages that are not installed.

    Attributes:
        feedback: Keeps calls and takes labels; None where they are not expected.
        started: Whether this process has started.
        serves_once: Whether this process was forked for one request, and closes after it.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Mapping[str, Any] | Settings,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        departures: tuple[type[BaseException], ...] = (),
    ) -> None:
        self.settings = settings = _with_what_is_there(load(source))
        _demand_packages(settings)
        self.metrics = Metrics((m.name, m.version) for m in settings.models)
        self._log = RateLimitedLog()
        self._lock = threading.Lock()
        self._maker = Process.mine()
        self.started = False
        self.serves_once = False
        self._has_begun = False
        self._pseudonym_key = settings.pseudonym_key
        self._pseudonym = lru_cache(PSEUDONYMS)(self._hashed)
        self._revoked = Revocations()
        self._first_reading = self._make_first_reading()
        self._rings = rings(settings)
        self._fetcher = self._make_fetcher()
        self._host = self._make_host()
        self._sender = _row_sender(settings, self.metrics)
        # Routes may declare limits where the settings have none.
        quotas = settings.quotas or Quotas.model_construct()
        self._failover = self._make_failover(quotas)
        self.tracing = Tracing(settings, tracer_provider or _configured())
        keys = self._make_api_keys()
        self._key_reader = self._make_key_reader(keys)
        authenticator = (
            Authenticator(settings.auth, self._rings, self._pseudonym, self._revoked, keys)
            if settings.auth
            else None
        )
        self.feedback = self._make_feedback()
        parts = Parts(
            settings,
            authenticator=authenticator,
            quota=Quota(
                quotas,
                self._failover or MemoryLedger(),
                is_shared=self._failover is not None,
                on_ended=self._window_ended,
            ),
            metrics=self.metrics,
            tracing=self.tracing,
            offer=self._offer(),
            keep=self.feedback.keep if self.feedback else None,
            pseudonym=self._pseudonym,
            wake=lambda: self._background.wake("records"),
            departures=departures,
        )
        self.guard = Guard(parts)
        self.metrics.before_snapshot = parts.recorder.fold
        self._name_chores()
        self._scrapes = SingleFlight(self.expose, self._have_done, self.expose_at_once)
        forks.watch(self)

    def _name_chores(self) -> None:
        """Say what is done beside the requests."""
        self._background = background = Background("mlguard-background")
        if self._host:
            self._host.add_to(background)
        background.add("deadlines", _FOLD, self.guard.parts.deadlines.check)
        background.add("records", _FOLD, self.guard.parts.recorder.fold)
        if self._fetcher:  # which has threads of its own
            background.add("keys", _KEYS, self._fetcher.look_after)
        if self._failover:
            background.add("quotas", _CARRY, self._failover.look_after, may_wait=True)
        if self._first_reading:
            background.add("revoked", _READ_AGAIN, self._first_reading.look_after, may_wait=True)
        if self._key_reader:  # a file may be far away, too
            background.add("api keys", _READ_AGAIN, self._key_reader.look_after, may_wait=True)
        if self._sender:
            background.add("rows", _FOLD, self._sender.send, may_wait=True)
        if self.feedback:  # after the records, which hold the calls
            may_wait = self.settings.shares_redis
            background.add("feedback", _FOLD, self.feedback.flush, may_wait=may_wait)
        if self.tracing.is_exported:
            background.add("spans", _FOLD, self.tracing.flush, may_wait=True)

    def _have_done(self, job: Callable[[], None]) -> None:
        self._background.hand_over(job)

    def replace_for_tests(
        self, *, keys: KeySet, spans: SpanProcessor, offer: Offer, calls: CallStore
    ) -> None:
        """Cut everything outside off, for tests: only before the start.

        Args:
            keys: Verify tokens instead of the configured ones.
            spans: Takes the spans instead of an exporter.
            offer: Takes the sampled rows instead of the analyst.
            calls: Keeps what labels are for, instead of a file.
        """
        if self.started:
            raise AssertionError("a service that has started cannot be tested")
        self._host = None
        self._sender = None
        self._fetcher = None
        self._failover = None
        self._first_reading = None
        self._key_reader = None
        self._revoked.is_known = True
        self.guard.parts.quota.count_in(MemoryLedger())
        self.tracing.replace_for_tests(spans)
        self.guard.replace_for_tests(keys, offer)
        if self.feedback:
            self.feedback.replace_for_tests(calls)
        self._name_chores()

    @property
    def tracer_provider(self) -> trace.TracerProvider | None:
        """Whose tracers make this service's spans; None where tracing is off."""
        return self.tracing.provider

    def start(self) -> None:
        """Start what runs beside the requests; does nothing where this process has done so."""
        with self._lock:
            if self.started:
                return
            if self._host:
                self._host.start(self._maker)  # first, as it may refuse to start
            if self._failover:
                self._failover.start()
            if self._first_reading:
                self._first_reading.start()
                if not self._revoked.is_known:
                    self.metrics.set_degraded("revocations", True)
            if self._key_reader:
                self._key_reader.start()
            if self.settings.drift and not self.settings.drift.store:
                self.metrics.set_drift_worker_up(False)
            if self._fetcher:
                self._fetcher.start()
            self.tracing.start(self._exported, self.metrics.spans_dropped)
            if not self.serves_once:
                self._background.start()
            if self._fetcher and not on_event_loop():  # threads wait: few of the first could
                self._fetcher.wait()
            if not self._has_begun:  # nor inherited from a process that forked
                atexit.register(self.close)
            self._has_begun = self.started = True

    def before_fork(self) -> None:
        """Hold what is done in the background, but what may wait for others for long."""
        self._background.before_fork()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; in a child, nothing has started."""
        self._background.after_fork(in_child=in_child)
        if in_child:
            self.started = False
            self.serves_once = forks.is_for_one_request()
            self._lock = threading.Lock()
            self._scrapes = SingleFlight(self.expose, self._have_done, self.expose_at_once)
            self.guard.parts.recorder.forked()
            self.metrics.forget()

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
            if self._key_reader:
                self._key_reader.close()
            self._background.close()
            if self._failover:
                self._failover.close()
            if self._sender:
                self._sender.close()
            if self.feedback:
                self.feedback.close()
            if self._host:
                self._host.close()
            self.tracing.close()

    def flush(self) -> None:
        """Bring the metrics up to date, and send the spans of all requests that have ended."""
        self.guard.parts.recorder.fold()
        if self.feedback:
            self.feedback.flush()
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
        try:
            families = self._host.collect() if self._host else self.metrics.snapshot()
        except WorkersApart as error:
            text = f"the workers of this host cannot meet: {error}\n"
            return 503, "text/plain; charset=utf-8", text.encode()
        if self.feedback:
            families = merge([families, self.feedback.families()])
        return 200, *exposition.expose(families, accept)

    def expose_at_once(self, accept: str) -> tuple[int, str, bytes] | None:
        """Write the metrics as `expose` does; None where that may wait, or take a while."""
        is_soon = self.metrics.are_few and self.guard.parts.recorder.folds_at_once
        if self.feedback or not is_soon:
            return None
        families = self._host.collect_alone() if self._host else self.metrics.snapshot()
        return None if families is None else (200, *exposition.expose(families, accept))

    def _window_ended(self, limit: Limit, share: float) -> None:
        self.metrics.quota_used(limit.model, limit.name, share)

    def _make_host(self) -> Host | None:
        if not self.settings.service.host_file:
            return None
        from mlguard.app.host import Host  # SQLite is large, and not everybody's

        return Host(self.settings, self.metrics, self._revoked)

    def _make_failover(self, quotas: Quotas) -> Failover | None:
        """Make what counts beyond this process, where the settings say so."""
        if quotas.store == "memory://":
            return None
        from mlguard.quota_store.choose import failover

        on_host = self._host.ledger if self._host else None
        return failover(
            quotas,
            self.settings.service.name,
            on_host,
            self.metrics,
            lambda seconds: self._background.wake("quotas", seconds),
        )

    def _offer(self) -> Offer | None:
        """Find what takes sampled rows, where drift is checked."""
        offer = self._sender.offer if self._sender else self._host.offer if self._host else None
        if offer is None or self.settings.category_key is None:
            return offer
        return _hashing(offer, self.settings.category_key)

    def _make_feedback(self) -> Feedback | None:
        """Make what keeps calls and takes labels: in a Redis where the service counts in one."""
        feedback, quotas = self.settings.feedback, self.settings.quotas
        if feedback is None:
            return None
        from mlguard.app.feedback import Feedback, kept_in_redis

        store: CallStore
        if quotas is not None and self.settings.shares_redis:
            store = kept_in_redis(self.settings.service.name, feedback, quotas)
        elif self._host is not None:
            store = self._host.calls(feedback)
        else:
            raise AssertionError("the settings say where calls are kept")
        return Feedback(feedback, tasks_of(self.settings), store, self.metrics)

    def _make_api_keys(self) -> ApiKeys | None:
        """Make what knows the API keys, where somebody may call by one."""
        auth, quotas = self.settings.auth, self.settings.quotas
        if auth is None or auth.api_keys is None:
            return None
        return ApiKeys(
            self._pseudonym,
            plan_claim=quotas.plan_claim if quotas else "plan",
            header=auth.api_keys.header,
        )

    def _make_key_reader(self, keys: ApiKeys | None) -> KeyReader | None:
        store = key_store(self.settings)
        if keys is None or store is None:
            return None
        return KeyReader(store, keys, partial(self.metrics.set_degraded, "api_keys"))

    def _make_fetcher(self) -> KeyFetcher | None:
        auth = self.settings.auth
        fetched = [i.issuer for i in auth.issuers if i.is_fetched] if auth else []
        if auth is None or not fetched:
            return None
        rings = {issuer: self._rings[issuer] for issuer in fetched}
        for issuer, ring in rings.items():
            self.metrics.measure_keys_age(issuer, ring.age)
        return KeyFetcher(
            auth, rings, on_result=self._fetched, wake=lambda: self._background.wake("keys")
        )

    def _fetched(self, issuer: str, result: str) -> None:
        self.metrics.keys_fetched(result)
        self.metrics.set_degraded("keys", any(ring.is_failing for ring in self._rings.values()))

    def revoke(self, revocation: Revocation) -> None:
        """Refuse what it names from now on: here at once, soon wherever the service runs.

        Returns at once on an event loop, and where nothing runs that could write it down but this
        process, blocks until others can know. Without the host's file it holds here only.

        Raises:
            RevocationsFull: There is no room for more.
            OSError: Outside of a worker: it cannot be kept.
        """
        if self._host is None:
            LOGGER.warning("a revocation holds in this process only: service.host_file is false")
            refused = self._revoked.learn([revocation], time.time())[1]
        elif not self.started:
            refused = self._host.tell(revocation)
        else:
            refused = self._host.learn(revocation)
            if not on_event_loop():
                self._host.share()
            self._background.wake("host")
            self._background.wake("revocations")
        if refused:
            raise RevocationsFull(refused)

    def _make_first_reading(self) -> FirstReading | None:
        store = self.settings.auth.revocation_store if self.settings.auth else None
        self._revoked.is_known = store is None
        if store is None:
            return None
        return FirstReading(store, self.settings.service.name, self._known_now)

    def _known_now(self, revocations: Sequence[Revocation]) -> None:
        if self._host:
            self._host.learn(*revocations)
        self._revoked.is_known = True
        self.metrics.set_degraded("revocations", False)

    def _exported(self, taken: bool) -> None:
        self.metrics.set_degraded("tracing", not taken)
        if not taken and self.settings.tracing:
            self._log.warning(
                "export", "spans are lost: %s does not take them", self.tracing.endpoint
            )

    def _hashed(self, key: tuple[str, str, str]) -> str:
        if self._pseudonym_key is None:
            self._pseudonym_key = self._common_key()
        digest = hmac.new(self._pseudonym_key, json.dumps(key).encode(), hashlib.sha256)
        return digest.hexdigest()[:16]

    def _common_key(self) -> bytes:
        """Return the key that all workers of this host share, or where there is none its own."""
        try:
            if self._host:
                return self._host.key()
        except OSError as error:
            LOGGER.warning("pseudonyms are of this worker only, for want of a key: %s", error)
        return os.urandom(32)


def _hashing(offer: Offer, key: bytes) -> Offer:
    """Have the texts of rows hashed before they are handed on."""
    from mlguard.drift.hashing import CategoryHash

    hashing = CategoryHash(key)
    return lambda model, version, values, said: offer(model, version, hashing.row(values), said)


def _row_sender(settings: Settings, metrics: Metrics) -> RowSender | None:
    """Make this worker's way to who judges the rows of all hosts, where the settings want that."""
    if not settings.drift or not settings.drift.store:
        return None
    from mlguard.analyst.config import AnalystConfig
    from mlguard.analyst.sender import RowSender  # what no Redis needs is not loaded
    from mlguard.redis.rows import RowStreams

    return RowSender(
        AnalystConfig.of(settings).models,
        RowStreams(settings.drift.store, settings.service.name),
        on_drop=metrics.rows_dropped,
        on_away=partial(metrics.set_degraded, "drift"),
    )


def _configured() -> trace.TracerProvider | None:
    """Find a provider that the process is configured with, which is joined."""
    found = trace.get_tracer_provider()
    if not isinstance(found, TracerProvider):
        return None
    LOGGER.info("an OpenTelemetry provider is configured already and joined")
    return found


def stable_conventions() -> None:
    """Ask OpenTelemetry's instrumentations for the stable HTTP conventions.

    They read this once per process, at the first instrumentation; what an operator has set stays.
    """
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")


def _with_what_is_there(settings: Settings) -> Settings:
    """Leave drift out where nobody asked for it by name and it cannot be checked, and say so."""
    if settings.drift is None or "drift" in settings.model_fields_set:
        return settings
    missing = _missing(_DRIFT_PACKAGES)
    if missing:
        needs = f"that needs {', '.join(missing)}: run `pip install 'mlguard-core[drift]'`"
    elif not settings.service.host_file:
        needs = "that needs the file of the workers, which service.host_file switches off"
    else:
        return settings
    LOGGER.warning(
        "a model has a reference, and its inputs are not checked for drift: %s; "
        "or set drift.enabled to false",
        needs,
    )
    return settings.model_copy(update={"drift": None})


def _demand_packages(settings: Settings) -> None:
    """Find out whether optional parts could run, without importing what they import."""
    store = settings.auth.revocation_store if settings.auth else None
    keys = settings.auth.api_keys if settings.auth else None
    kept = keys.store if keys else None
    counts = settings.quotas.store if settings.quotas else ""
    for part, extra, packages in (
        ("[drift]", "drift", _DRIFT_PACKAGES if settings.drift else ()),
        ("auth.revocation_store", "redis", ("hiredis",) if store else ()),
        ("auth.api_keys.store", "redis", ("hiredis",) if kept else ()),
        ("quotas.store", "redis", ("hiredis",) if counts.startswith("redis") else ()),
    ):
        if missing := _missing(packages):
            raise MissingExtra(
                f"{part} needs {', '.join(missing)}: run `pip install 'mlguard-core[{extra}]'`, "
                f"or remove {part} from the settings"
            )


def _missing(packages: Sequence[str]) -> list[str]:
    from importlib.util import find_spec

    return [name for name in packages if find_spec(name) is None]
