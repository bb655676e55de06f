"""How is a person told what each part saw of a request, and a program?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlguard.cli.sending import Response
from mlguard.cli.terminal import bad, bold, good, odd, titled, wrapped
from mlguard.cli.trial.found import Trial, code, problem
from mlguard.tracing.console import tree

_WIDEST = 200  # characters of a body that are shown
_OURS = ("ratelimit", "retry-after", "www-authenticate", "mlguard-")


def told(trial: Trial, target: str) -> Iterator[str]:
    """Tell what each part saw to a person."""
    request, answer = trial.request, trial.answer
    yield from wrapped(f"{target}, guarded by {trial.settings}", 2)
    yield from wrapped(f"{bold(f'{request.method} {request.path}')}, {trial.origin}", 2)
    sent = _cut(_text(request.body))
    for about, said in (
        ("sent", [sent] if sent else []),
        ("who", [trial.who]),
        ("answer", [_line(answer)]),
        ("rows", [f"{rows} of {model} {v}" for (model, v), rows in trial.rows.items()] or ["none"]),
        ("quotas", trial.left or ["none counts it"]),
        ("drift", trial.drift),
        ("trace", tree(trial.spans) or ["off: there is no table [tracing]"]),
        ("metrics", [_sample(*sample) for sample in trial.metrics]),
        ("headers", [f"{n}: {v}" for n, v in answer.headers if n.startswith(_OURS)]),
        ("log", [odd(line) for line in trial.log]),
    ):
        for number, text in enumerate(said):
            yield from titled(f"  {'' if number else about:9}{text}", 11)
    if trial.refused is not None:
        yield ""
        yield bold("The same without a credential")
        yield from titled(f"  {'answer':9}{_line(trial.refused)}", 11)
    yield ""
    count = sum(trial.rows.values())
    if not trial.wrong:
        yield f"{good('ok')}: {count} {'row' if count == 1 else 'rows'} counted and charged"


def _line(answer: Response) -> str:
    refusal = problem(answer)
    said = f"{refusal['code']}: {refusal.get('title')}" if "code" in refusal else _text(answer.body)
    colour = good if answer.status < 400 else bad
    return f"{colour(str(answer.status))} in {answer.seconds * 1000:.1f} ms: {_cut(said)}"


def _text(body: bytes) -> str:
    """Show bytes so that a terminal obeys nothing in them."""
    text = body.decode("utf-8", "replace")
    if sum(not c.isprintable() and not c.isspace() for c in text) > len(text) // 10:
        return f"{len(body)} bytes"
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 3] + "..."


def _sample(name: str, labels: Mapping[str, str], value: float) -> str:
    said = ", ".join(f'{key}="{label}"' for key, label in labels.items())
    return f"{name}{{{said}}} {value:g}" if said else f"{name} {value:g}"


def document(trial: Trial, target: str) -> dict[str, Any]:
    """Write what each part saw for a program."""
    request = trial.request
    return {
        "target": target,
        "ok": not trial.wrong,
        "wrong": trial.wrong,
        "settings": trial.settings,
        "request": {
            "method": request.method,
            "path": request.path,
            "origin": trial.origin,
            "body": _text(request.body),
        },
        "who": trial.who,
        "answer": _written(trial.answer),
        "rows": [{"model": m, "version": v, "rows": n} for (m, v), n in trial.rows.items()],
        "left": trial.left,
        "drift": trial.drift,
        "trace": [
            {"name": s.name, "attributes": {k: str(v) for k, v in (s.attributes or {}).items()}}
            for s in trial.spans
        ],
        "metrics": [{"name": n, "labels": {**of}, "value": v} for n, of, v in trial.metrics],
        "log": trial.log,
        "without_credential": trial.refused and _written(trial.refused),
    }


def _written(answer: Response) -> dict[str, Any]:
    return {
        "status": answer.status,
        "code": code(answer) or None,
        "headers": [[name, value] for name, value in answer.headers],
        "body": _text(answer.body),
    }
