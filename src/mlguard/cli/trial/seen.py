"""What did the parts of a guard see of the request that has passed?"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlguard.app.front import GuardedApp
from mlguard.cli.sending import Response
from mlguard.cli.trial.found import Sample, Trial, code, title
from mlguard.routes.coverage import rate
from mlguard.testing import GuardTester

_POLICY = re.compile(r'"([^"]+)";q=(\d+)(?:;w=(\d+))?')
_LEFT = re.compile(r'"([^"]+)";r=(\d+)')
_WIDEST = 200  # characters of a row that are shown


class Heard(logging.Handler):
    """Keeps what the kit says, in place of the handlers that a service would have."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line, once."""
        if record.getMessage() not in self.lines:
            self.lines.append(record.getMessage())


Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(guard: GuardedApp[Any]) -> Samples:
    """Read what counts and is not part of a histogram."""
    guard.service.flush()
    return {
        (sample["name"], tuple(sorted(sample["labels"].items()))): sample["value"]
        for family in guard.service.metrics.snapshot()
        for sample in family["samples"]
        if sample["name"].endswith(("_total", "_count"))
    }


def rows(metrics: Sequence[Sample]) -> dict[tuple[str, str], int]:
    """Tell how many rows each model and version was asked."""
    return {
        (labels["model"], labels["version"]): int(value)
        for name, labels, value in metrics
        if name == "mlguard_inference_rows_total"
    }


def left(answer: Response) -> list[str]:
    """Say what is left of each limit, by the headers of an answer."""
    left = dict(_LEFT.findall(answer.header("ratelimit")))
    said = []
    for name, amount, window in _POLICY.findall(answer.header("ratelimit-policy")):
        what = name.rpartition("-")[0] or name
        limit = rate(int(amount), int(window)) if window else amount
        said.append(f"{limit} {what}: {left[name]} left" if name in left else f"{limit} {what}")
    return said


def drift(
    guard: GuardedApp[Any], tester: GuardTester, rows: Mapping[tuple[str, str], int]
) -> Iterator[str]:
    """Say what the drift check got, and how far its first verdict is."""
    if guard.service.settings.drift is None:
        yield "off: no model has a `reference`, which `mlguard reference build` makes"
        return
    sampled = tester.sampled
    for name, version in rows:
        wanted = tester.rows_wanted(name)
        if not wanted:
            yield f"{name}: it has no `reference`"
            continue
        values = [row for model, v, row in sampled if (model, v) == (name, version)]
        shown = f": {json.dumps(values[0])[:_WIDEST]}" if values else ""
        yield (
            f"{name}: {len(values)} of {rows[name, version]} rows sampled{shown}; "
            f"{max(0, wanted - len(values))} more to the first verdict"
        )


def wrong(trial: Trial, guard: GuardedApp[Any], *, is_made_up: bool) -> str:
    """Say what is not as it should be, and what to do."""
    answer, where = trial.answer, f"{trial.request.method} {trial.request.path}"
    refusal = code(answer)
    if not 200 <= answer.status < 300:
        if refusal:
            return f"the guard refused {where}: {answer.status} {refusal}: {title(answer)}"
        if answer.status >= 500:
            kinds = [labels.get("error_type") for _, labels, _ in trial.metrics]
            kind = next((kind for kind in kinds if kind and kind != str(answer.status)), "")
            raised = f": {answer.error}" if answer.error else f" ({kind})" if kind else ""
            return f"the app failed at {where}: {answer.status}{raised}"
        hint = ": it was made up; give one that the app takes, with --example FILE"
        if answer.status == 404:
            hint += ", or a path that it serves, with --route"
        return f"the app refused the example: {answer.status}{hint if is_made_up else ''}"
    if not sum(trial.rows.values()):
        has_models = bool(guard.service.settings.models)
        hint = "name its route in `models[].route`" if has_models else "no model is in the settings"
        return f"no row was counted at {where}: {hint}; `mlguard init` proposes settings"
    unread = [labels for name, labels, _ in trial.metrics if name == "mlguard_rows_unread_total"]
    if unread:
        sides = " and ".join(dict.fromkeys(f"`{labels['side']}`" for labels in unread))
        return f"nothing was read at {sides} of models[{unread[0]['model']}]: correct the settings"
    return ""
