"""How much do events say against a principal?

A Shiryaev-Roberts e-detector per signal: `M <- (M + 1) L`, where L is the likelihood of what was
seen if events came at a rate r, over the likelihood at the tolerated rate t. Where events are no
more frequent than t, whatever came before, the mean of M after n rows is at most n: so M reaches c
within n rows by chance n / c of the time at most, and that holds for the mean over several
detectors, too (Shin, Ramdas and Rinaldo, 2022, "E-detectors").

A row's step M -> a M + b is exact, and so is that of many rows: steps of several hosts compose.
Everything is kept as logarithms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

THRESHOLD = math.log(1e8)
"""At which evidence there is a verdict: by chance in 1 of 10 000 accounts of 10 000 rows."""
CEILING = THRESHOLD + math.log(1e3)
"""Evidence beyond it is forgotten, so that an account can return to what is normal."""
NOTHING = -math.inf
_REACH = (0.5, 0.9)
"""The rates that are looked for: so far from what is tolerated to always."""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """What some rows do to the evidence: `M -> exp(log_a) M + exp(log_b)`.

    Attributes:
        log_a: Of each detector and alternative.
        log_b: The same.
        counted: Rows that it is of.
    """

    log_a: Floats
    log_b: Floats
    counted: int = 0

    def then(self, later: Step) -> Step:
        """Return the step that both are, one after the other."""
        return Step(
            self.log_a + later.log_a,
            np.logaddexp(later.log_a + self.log_b, later.log_b),
            self.counted + later.counted,
        )

    def apply(self, evidence: Floats) -> Floats:
        """Return the evidence thereafter."""
        return np.minimum(np.logaddexp(self.log_a + evidence, self.log_b), CEILING)


class Detectors:
    """Turns events into evidence: one detector a signal, each with several alternatives.

    Args:
        tolerances: The rate of each signal's events that is tolerated.
    """

    def __init__(self, tolerances: Floats) -> None:
        t = np.asarray(tolerances, np.float64)[:, None]
        rates = t + np.array(_REACH) * (1 - t)
        self._quiet = np.log((1 - rates) / (1 - t))
        self._more = np.log(rates / t) - self._quiet
        self.shape = self._quiet.shape

    def nothing(self) -> Floats:
        """Return the evidence against somebody new."""
        return np.full(self.shape, NOTHING)

    def of_rows(
        self,
        events: NDArray[np.bool_],
        is_silent: NDArray[np.bool_],
        windows: list[bool],
        evidence: Floats,
    ) -> tuple[Step, Floats]:
        """Return the step of rows and of the windows that they filled, and the most on the way.

        Args:
            events: Rows by signals, of all but the last.
            is_silent: Rows that say nothing of some signals.
            windows: Events of the last signal.
            evidence: Before.
        """
        logs = self._quiet[:-1] + events[:, :, None] * self._more[:-1]
        begun = logs
        if is_silent.any():
            logs[is_silent] = 0.0
            begun = np.where(is_silent[:, :, None], NOTHING, logs)
        step, most = _path(logs, begun, evidence[:-1])
        last = Step(np.zeros((1, self.shape[1])), np.full((1, self.shape[1]), NOTHING))
        top = evidence[-1:]
        if windows:
            given = np.array(windows)[:, None, None]
            logs = self._quiet[-1:] + given * self._more[-1:]
            last, top = _path(logs, logs, top)
        both = Step(
            np.concatenate([step.log_a, last.log_a]),
            np.concatenate([step.log_b, last.log_b]),
            len(events),
        )
        return both, np.concatenate([most, top])


def _path(logs: Floats, begun: Floats, evidence: Floats) -> tuple[Step, Floats]:
    """Return the step that rows make, and the most evidence on the way.

    Args:
        logs: What each row's likelihoods multiply the evidence by.
        begun: What each row adds, as a change may have come with it.
        evidence: Before.
    """
    if len(logs) == 1:
        return Step(logs[0], begun[0], 1), np.logaddexp(logs[0] + evidence, begun[0])
    sums = np.cumsum(logs, axis=0)
    since = np.logaddexp.accumulate(begun - sums, axis=0)
    most = (sums + np.logaddexp(evidence, since)).max(axis=0)
    return Step(sums[-1], sums[-1] + since[-1], len(logs)), most


def of_signal(evidence: Floats) -> Floats:
    """Return each signal's evidence: the mean over its alternatives."""
    top: Floats = evidence.max(axis=-1)
    with np.errstate(invalid="ignore"):
        rest = np.log(np.exp(evidence - top[..., None]).mean(axis=-1))
    return np.where(np.isneginf(top), NOTHING, top + rest)


def together(evidence: Floats) -> float:
    """Return the evidence of several signals: their mean."""
    if not len(evidence):
        return NOTHING
    top = float(evidence.max())
    return top if math.isinf(top) else top + math.log(np.exp(evidence - top).mean())
