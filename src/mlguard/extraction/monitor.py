"""Who probes the model instead of using it?"""

from __future__ import annotations

import base64
import hashlib
import math
import os
import threading
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from mlguard.extraction import evidence as ev
from mlguard.extraction.answers import labels_of
from mlguard.extraction.evidence import Detectors, Step
from mlguard.extraction.fields import fields_of
from mlguard.extraction.principals import Account, AccountStore, Evidence, key_of
from mlguard.extraction.relations import RecentRows
from mlguard.extraction.repeats import Repeats, RowHash
from mlguard.extraction.signals import ALONE, NAMES, OFF_POPULATION, PART, Profile
from mlguard.extraction.verdict import ExtractionVerdict, Kind, Signal

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from mlguard.drift import Reference

FORMAT = 1
_TENTHS = 10
_OFF = np.array([name in OFF_POPULATION for name in NAMES])
_ALONE = np.arange(len(NAMES) - 1) < ALONE
_LOUD = 0.9 * ev.THRESHOLD
_FAINT = 0.1 * ev.THRESHOLD
_CALM = ev.THRESHOLD / 2


class ExtractionMonitor:
    """Watches the rows of principals, and says whose are no use of the model.

    It observes and never raises because of what is in rows. Threads may share it.

    Args:
        reference: What training looked like: a `Reference`, a frame, or rows.
        names: Of the features, where the reference is an array; rows may then go by name.
        most_principals: That are kept with their recent rows: up to 12 kB each.
        most_scores: That are kept with their evidence only: 0.4 kB each.
        hold: Rows that a verdict lasts at least, after the last that spoke for it.
        seed: Of the projection of wide rows: the same on all hosts that exchange steps.
        key: Of hashes and of the order in which a request's rows are taken; random where empty.
            Whoever knows it can make rows that weigh nothing.
    """

    def __init__(
        self,
        reference: Reference | Any,
        *,
        names: Iterable[str] | None = None,
        most_principals: int = 10_000,
        most_scores: int = 100_000,
        hold: int = 2_000,
        seed: int = 0,
        key: bytes = b"",
    ) -> None:
        for option, value in (("most_principals", most_principals), ("most_scores", most_scores)):
            if value < 1:
                raise ValueError(f"{option}={value!r} must be at least 1")
        if hold < 0:
            raise ValueError(f"hold={hold!r} must not be negative")
        self._reader, values = fields_of(reference, names)
        with np.errstate(all="ignore"):
            self._profile = Profile(self._reader, values, seed)
        secret = hashlib.blake2b(key).digest() if key else os.urandom(64)
        self._rng = np.random.default_rng(int.from_bytes(secret, "big"))
        self._hash = RowHash(secret)
        self._detectors = Detectors(self._profile.tolerances)
        self._hold = hold
        self._accounts = AccountStore(most_principals, most_scores, self._detectors.shape)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return of how many principals something is kept."""
        return len(self._accounts)

    @property
    def features(self) -> tuple[str, ...]:
        """Return the names of the model's inputs, in its order."""
        return self._reader.names

    def observe(self, principal: str, rows: Any, answers: Any = None) -> ExtractionVerdict:
        """Take the rows of one request, and say what its principal's rows look like so far.

        Args:
            principal: Whoever sent them; a tenant or a cohort may be one, too.
            rows: Lists in the order of the features, mappings by name, an array or a frame.
            answers: The model's: a label, or probabilities, for each row.
        """
        values = self._reader.read(rows)
        labels = labels_of(answers, len(values))
        key = key_of(principal)
        with self._lock, np.errstate(all="ignore"):
            account = self._account(key)
            for at in range(0, len(values), PART):
                self._take(account, values[at : at + PART], labels[at : at + PART])
            return self._verdict(account.evidence)

    def step(self, principal: str, rows: Any, answers: Any = None) -> Step:
        """Take rows as `observe` does, and return what they do to the evidence, for other hosts."""
        values = self._reader.read(rows)
        labels = labels_of(answers, len(values))
        nothing = np.zeros(self._detectors.shape)
        whole = Step(nothing, np.full_like(nothing, ev.NOTHING))
        with self._lock, np.errstate(all="ignore"):
            account = self._account(key_of(principal))
            for at in range(0, len(values), PART):
                part = self._take(account, values[at : at + PART], labels[at : at + PART])
                whole = whole.then(part)
        return whole

    def apply(self, principal: str, step: Step) -> ExtractionVerdict:
        """Take what rows did elsewhere; return the verdict."""
        key = key_of(principal)
        with self._lock:
            account = self._account(key)
            known = account.evidence
            known.rows += step.counted
            known.counted += step.counted
            known.logs = step.apply(known.logs)
            self._judge(known, known.logs)
            return self._verdict(known)

    def verdict(self, principal: str) -> ExtractionVerdict:
        """Return what is said of a principal, without new rows."""
        with self._lock:
            known = self._accounts.evidence(key_of(principal))
            return self._verdict(known or Evidence(self._detectors.nothing()))

    def state(self, principal: str) -> dict[str, Any]:
        """Return what is kept of a principal, for an operator: numbers, none of them of a row."""
        key = key_of(principal)
        with self._lock:
            known = self._accounts.evidence(key)
            whole = self._accounts.peek(key)
        if known is None:
            return {}
        logs = ev.of_signal(known.logs)
        said = {name: float(log) for name, log in zip(NAMES, logs, strict=True) if log > 0}
        return {
            "kind": known.kind,
            "rows": known.rows,
            "counted": known.counted,
            "evidence": dict(sorted(said.items(), key=lambda item: -item[1])),
            "takes": ev.THRESHOLD,
            "bytes": whole.size if whole is not None else known.logs.nbytes // 2,
            "kept_rows": len(whole.recent.rows) if whole is not None else 0,
        }

    def forget(self, principal: str) -> bool:
        """Keep nothing of a principal; say whether there was something."""
        with self._lock:
            return self._accounts.drop(key_of(principal))

    def suspects(self) -> dict[str, ExtractionVerdict]:
        """Return the verdicts on all who have one; long names are hashed."""
        with self._lock:
            return {
                key: self._verdict(known)
                for key, known in self._accounts.items()
                if known.kind != "none"
            }

    def scores(self) -> dict[str, Any]:
        """Return the evidence against all, as JSON takes it: no rows are in it."""
        with self._lock:
            kept = {key: known.packed() for key, known in self._accounts.items()}
        return {
            "format": FORMAT,
            "signals": list(NAMES),
            "principals": {
                key: [base64.b64encode(logs).decode(), *rest] for key, (logs, *rest) in kept.items()
            },
        }

    def restore(self, scores: Mapping[str, Any]) -> int:
        """Take up the evidence that `scores` returned; return of how many principals.

        What another version wrote, with other signals, is left aside.
        """
        if scores.get("format") != FORMAT or scores.get("signals") != list(NAMES):
            return 0
        with self._lock:
            for key, (logs, *rest) in scores["principals"].items():
                packed = (base64.b64decode(logs), *rest)
                self._accounts.pack(key, Evidence.unpacked(packed, self._detectors.shape))
            return len(scores["principals"])

    def _account(self, key: str) -> Account:
        account = self._accounts.get(key)
        if account is None:
            known = self._accounts.evidence(key) or Evidence(self._detectors.nothing())
            recent = RecentRows.new(self._profile.width)
            account = Account(known, recent, self._profile.retention.new(), Repeats())
            self._accounts.put(key, account)
        return account

    def _take(
        self, account: Account, values: NDArray[np.float64], labels: NDArray[np.int64]
    ) -> Step:
        """Take some rows, and return the step that they are."""
        known = account.evidence
        known.rows += len(values)
        fresh = account.repeats.new(self._hash(values))
        if len(fresh) < len(values):
            values, labels = values[fresh], labels[fresh]
        nothing = np.zeros(self._detectors.shape)
        if not len(values):
            return Step(nothing, np.full_like(nothing, ev.NOTHING))
        known.counted += len(values)
        profile = self._profile
        batch = profile.batch(values, account.recent)
        events, does_walk = profile.events(batch, labels, account.recent)
        is_apart = ~(does_walk | events[:, ALONE])
        lost = profile.retention.windows(batch.points.by_rank[is_apart], account.sums)
        # A file may be sorted: its rows are taken in an order that nobody can choose.
        if len(events) > 1:
            order = self._rng.permutation(len(events))
            events, does_walk = events[order], does_walk[order]
        is_silent = does_walk[:, None] & _ALONE
        step, most = self._detectors.of_rows(events, is_silent, lost, known.logs)
        known.logs = step.apply(known.logs)
        self._judge(known, most)
        return step

    def _judge(self, known: Evidence, most: NDArray[np.float64]) -> None:
        """Say what somebody is; what was said lasts until the evidence has gone, and longer."""
        if known.kind == "none" and most.max() < ev.THRESHOLD:
            return  # a mean is no larger
        signals = ev.of_signal(most)
        kind = _kind(signals, ev.THRESHOLD)
        if kind != "none":
            if kind == "probing" or known.kind != "probing":
                known.kind = kind
                of_kind = _OFF if kind == "off_population" else ~_OFF
                loud = np.flatnonzero((signals > _LOUD) & of_kind)
                known.because = tuple(dict.fromkeys((*known.because, *(NAMES[at] for at in loud))))
                known.until = known.counted + self._hold
        elif known.kind != "none" and known.counted >= known.until:
            known.kind = _kind(ev.of_signal(known.logs), _CALM)
            if known.kind == "none":
                known.because = ()

    def _verdict(self, known: Evidence) -> ExtractionVerdict:
        if known.kind == "none" and known.logs.max() <= _FAINT:
            return ExtractionVerdict("none", 0.0, (), known.rows, known.counted)
        logs = ev.of_signal(known.logs)
        strengths = dict.fromkeys(known.because, 1.0)
        for name, log in zip(NAMES, logs.tolist(), strict=True):
            if log > _FAINT and name not in strengths:
                strengths[name] = _tenths(log)
        found = [Signal(*each) for each in strengths.items() if each[1]]
        found.sort(key=lambda signal: -signal.strength)
        score = max(_tenths(ev.together(logs[_OFF])), _tenths(ev.together(logs[~_OFF])))
        score = 1.0 if known.kind != "none" else score
        return ExtractionVerdict(known.kind, score, tuple(found), known.rows, known.counted)


def _kind(signals: NDArray[np.float64], threshold: float) -> Kind:
    if ev.together(signals[~_OFF]) >= threshold:
        return "probing"
    return "off_population" if ev.together(signals[_OFF]) >= threshold else "none"


def _tenths(log: float) -> float:
    """Return evidence as a part of what a verdict takes, rounded down: it tells less."""
    if math.isinf(log) or log <= 0:
        return 0.0
    return min(1.0, int(_TENTHS * log / ev.THRESHOLD) / _TENTHS)
