"""Does a table still look like training? `mlguard drift check`."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlguard.cli import tables
from mlguard.cli.terminal import bad, good, lasting, say, say_json
from mlguard.drift.hashing import CategoryHash
from mlguard.errors import InvalidSettings

if TYPE_CHECKING:
    from mlguard.drift import FeatureVerdict, Reference, Verdict

DRIFTED = 3
"""The exit code where there is drift: neither an error nor a wrong use of the command."""


def add(actions: Any) -> None:
    """Add the action to a parser."""
    check = actions.add_parser(
        "check",
        help="compare a table with a reference, as one window",
        epilog=f"Exit code: 0 without drift, {DRIFTED} with, 1 where it cannot be told.",
    )
    check.add_argument("--reference", type=Path, required=True, metavar="FILE")
    check.add_argument("--current", type=Path, required=True, metavar="DATA", help=".csv, .parquet")
    check.add_argument("--html", type=Path, metavar="FILE", help="write a page for people")
    tables.add_key(check)
    check.add_argument("--json", action="store_true", help="for programs")
    check.set_defaults(run=_check)


def _check(options: argparse.Namespace) -> int:
    from mlguard.drift import Reference, check

    reference = Reference.load(options.reference)
    window = tables.read(options.current)
    key = tables.key_of(options.category_key_env)
    hashing = CategoryHash(key) if key is not None else None
    if reference.category_key != (hashing.name if hashing else ""):
        text = "its categories were hashed with another key, or with none: --category-key-env"
        raise InvalidSettings(text, source=str(options.reference))
    if hashing is not None:
        window = hashing.frame(window, but=reference.seasons.time)
    try:
        with lasting("comparing with the reference"):
            verdict = check(reference, window)
    except ValueError as error:
        raise InvalidSettings(str(error), source=str(options.current)) from error
    if options.html is not None:
        _write(options, verdict, reference, window)
    found = sorted(verdict.features, key=lambda f: (not f.detected, -f.score / f.threshold))
    if options.json:
        say_json(asdict(verdict))
    else:
        say(tables.write(_HEADS, map(_cells, found)), "", _sum(verdict))
    return DRIFTED if verdict.detected else 0


def _sum(verdict: Verdict) -> str:
    count, total = len(verdict.drifted), f"{len(verdict.features)} features"
    said = bad(f"drift in {count} of {total}") if count else good(f"no drift in {total}")
    return f"{said}, {verdict.rows} rows"


_HEADS = ("feature", "score", "threshold", "missing", "strange", "drifted by")


def _cells(feature: FeatureVerdict) -> tuple[str, ...]:
    strange = feature.unseen_category_ratio + feature.out_of_range_ratio
    numbers = (f"{feature.score:.3f}", f"{feature.threshold:.3f}")
    shares = (f"{feature.missing_ratio:.1%}", f"{strange:.1%}")
    return (feature.name, *numbers, *shares, ", ".join(feature.reasons) or "-")


def _write(
    options: argparse.Namespace, verdict: Verdict, reference: Reference, window: Any
) -> None:
    from mlguard.drift.report import render

    name, when = options.current.name, datetime.now(UTC)
    page = render(verdict, reference, window, model=name, version="", when=when)
    try:
        options.html.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidSettings(f"cannot be written: {error}", source=str(options.html)) from error
