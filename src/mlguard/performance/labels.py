"""Which calls do labels belong to, and what becomes of each?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from mlguard.call_ids import time_of
from mlguard.performance.measure import measure
from mlguard.performance.task import Said, Task

MOST_ROWS = 1000
"""Rows of a call whose predictions are kept: a batch of more is seldom labelled row by row."""

MOST_VALUES = 5000
"""Classes, scores and numbers that are kept of a call."""

GRACE = 30.0
"""Seconds in which a call's predictions may still be on their way to where they are kept."""

LABELLED, UNKNOWN, LATE, DUPLICATE = "ok", "unknown", "late", "duplicate"
WRONG_LENGTH, INVALID, DROPPED = "wrong_length", "invalid", "dropped"


class KeptCall(NamedTuple):
    """What is kept of a call until its labels come.

    Attributes:
        id: Its name.
        model: Which model was asked.
        version: The version that answered.
        said: What it said of each row; None of one where that made no sense.
    """

    id: str
    model: str
    version: str
    said: list[Said | None]


@dataclass(frozen=True, slots=True)
class Label:
    """The truths of one call.

    Attributes:
        call_id: Its name, as its answer told it.
        truths: One of each row; None where one is not known.
    """

    call_id: str
    truths: tuple[Any, ...]


class Found(NamedTuple):
    """What is known of a call.

    Attributes:
        call: What is kept.
        is_labelled: Whether its truths have come already.
    """

    call: KeptCall
    is_labelled: bool


class Labelled(NamedTuple):
    """A call whose truths have come.

    Attributes:
        version: The version that answered.
        said: What it said of each row.
        truths: As they came.
    """

    version: str
    said: list[Said | None]
    truths: list[Any]


class Became(NamedTuple):
    """What became of the truths of one call.

    Attributes:
        label: The truths.
        result: As `mlguard_feedback_labels_total` says it.
        model: Whose they are; "" where nobody knows.
        version: The version that answered.
    """

    label: Label
    result: str
    model: str = ""
    version: str = ""


class CallStore(Protocol):
    """Where calls wait for their labels."""

    def keep(self, calls: Sequence[KeptCall], /) -> None:
        """Write calls down."""

    def find(self, ids: Sequence[str], /) -> Mapping[str, Found]:
        """Return what is kept of calls."""

    def label(self, call: KeptCall, truths: Sequence[object], now: float, /) -> bool:
        """Write the truths of a call down; False where others were first."""

    def recent(self, model: str, most: int, /) -> list[Labelled]:
        """Return the calls of a model that were labelled last, the newest first."""

    def forget(self, now: float, /) -> bool:
        """Forget what is too old, and the oldest of too many; False where more is to be done."""

    def close(self) -> None:
        """Let go of what it holds."""


def label_of(call_id: object, truths: Any) -> Label:
    """Take the truths of a call in whatever shape they come; one alone is that of a single row.

    Raises:
        TypeError: The name is none.
    """
    if not isinstance(call_id, str):
        raise TypeError(f"call_id must be the text that the answer told, not {call_id!r}")
    if hasattr(truths, "tolist"):
        truths = truths.tolist()
    is_many = isinstance(truths, list | tuple)
    return Label(call_id[:64], tuple(truths[: MOST_ROWS + 1]) if is_many else (truths,))


def join(
    store: CallStore,
    tasks: Mapping[str, Task],
    labels: Sequence[Label],
    *,
    now: float,
    retention: float,
) -> Iterator[Became]:
    """Write down the truths of calls that are known; tell what became of each.

    Args:
        store: Where the calls are.
        tasks: By the names of the models.
        labels: The truths.
        now: Seconds since 1970.
        retention: Seconds after which they come too late.
    """
    called = {each.call_id: time_of(each.call_id) for each in labels}
    dated = {call_id: at for call_id, at in called.items() if at is not None}
    found = store.find([call_id for call_id, at in dated.items() if now - at <= retention])
    for label in labels:
        known = found.get(label.call_id)
        if known is None:
            at = dated.get(label.call_id)
            is_late = at is not None and now - at > retention
            yield Became(label, LATE if is_late else UNKNOWN)
            continue
        call = known.call
        task = tasks.get(call.model)
        result, truths = (INVALID, []) if task is None else _fitting(task, call, label)
        if not result and (known.is_labelled or not store.label(call, truths, now)):
            result = DUPLICATE
        yield Became(label, result or LABELLED, call.model, call.version)


def _fitting(task: Task, call: KeptCall, label: Label) -> tuple[str, list[Any]]:
    """Say why truths cannot be those of a call, "" where they may; and return them as read."""
    if len(label.truths) != len(call.said):
        return WRONG_LENGTH, []
    read = [None if value is None else task.truth(value) for value in label.truths]
    is_junk = any(r is None and v is not None for r, v in zip(read, label.truths, strict=True))
    return INVALID if is_junk or not any(r is not None for r in read) else "", read


class Performance(NamedTuple):
    """How well a version of a model did.

    Attributes:
        version: Which.
        labels: By how many labels.
        metrics: By their names.
    """

    version: str
    labels: int
    metrics: dict[str, float]


def performances(task: Task, calls: Iterable[Labelled], most: int) -> list[Performance]:
    """Measure each version of a model by the newest of its labels.

    Args:
        task: What the model is there for.
        calls: The newest first.
        most: Labels of all versions that count.
    """
    pairs: dict[str, list[tuple[Said, Any]]] = {}
    for call in calls:
        for said, value in zip(call.said, call.truths, strict=True):
            truth = None if value is None else task.truth(value)
            if said and truth is not None and most > 0 and _is_said(task, said):
                pairs.setdefault(call.version, []).append((said, truth))
                most -= 1
    return [Performance(v, len(found), measure(task, found)) for v, found in pairs.items()]


def _is_said(task: Task, said: Said) -> bool:
    """Say whether a model still says such things: its settings may have changed since."""
    if task.kind == "regression":
        return not isinstance(said[0], str)
    scores = 1 if task.is_binary else len(task.classes)
    return said[0] in task.classes and len(said) - 1 in (0, scores)
