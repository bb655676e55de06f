"""What did training look like? `mlguard reference`."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlguard.cli import calibrate, tables
from mlguard.cli.groups import group
from mlguard.cli.terminal import lasting, say, say_json
from mlguard.errors import InvalidReference, InvalidSettings

if TYPE_CHECKING:
    from mlguard.drift import Reference


def add(commands: Any) -> None:
    """Add the command to a parser."""
    actions = group(commands, "reference", "what training looked like")
    build = actions.add_parser("build", help="make a reference file of a table of training inputs")
    build.add_argument("data", type=Path, help="a .csv or .parquet file, one column a feature")
    build.add_argument("-o", "--output", type=Path, default=Path("reference.parquet"))
    build.add_argument(
        "--columns", nargs="+", help="the features, in the model's order; default: all others"
    )
    for option in ("--categorical", "--predictions", "--scores"):
        build.add_argument(option, nargs="+", default=(), metavar="COLUMN")
    build.add_argument("--time", metavar="COLUMN", help="when each row came: gives their order")
    build.add_argument("--timezone", metavar="ZONE", help="of times that name none; default: UTC")
    build.add_argument(
        "--ordered", action="store_true", help="the rows stand in the order in which they came"
    )
    build.add_argument("--segment", metavar="COLUMN", help="whose values have a reference each")
    tables.add_key(build)
    build.set_defaults(run=_build)
    show = actions.add_parser("show", help="what a reference file says, and can see")
    show.add_argument("file", type=Path)
    show.add_argument("--window", type=int, metavar="ROWS", help="default: what it proposes")
    show.add_argument("--json", action="store_true", help="for programs")
    show.set_defaults(run=_show)
    calibrate.add(actions)


def _build(options: argparse.Namespace) -> None:
    from mlguard.drift.reference import Reference

    table = tables.read(options.data)
    with lasting("calibrating") as progress:
        reference = Reference.build(
            table,
            categorical=options.categorical,
            features=options.columns,
            predictions=options.predictions,
            scores=options.scores,
            time=options.time,
            timezone=options.timezone,
            ordered=options.ordered,
            segment=options.segment,
            category_key=tables.key_of(options.category_key_env),
            progress=progress,
        )
    try:
        reference.save(options.output)
    except OSError as error:
        raise InvalidSettings(f"cannot be written: {error}", source=str(options.output)) from error
    say(f"{options.output}: {reference.rows} rows of {', '.join(reference.features)}")
    say(*_told(reference, reference.calibration.window))


def _show(options: argparse.Namespace) -> None:
    from mlguard.drift.reference import Reference

    reference = Reference.load(options.file)
    if options.window is not None and options.window < 1:
        raise InvalidReference(f"--window {options.window} must be at least 1")
    window = options.window or reference.calibration.window
    if options.json:
        say_json(_document(reference, window))
        return
    say(f"{options.file}: {reference.rows} rows, built {reference.created}")
    say(*_told(reference, window))


def _told(reference: Reference, window: int) -> Iterator[str]:
    calibration, seasons = reference.calibration, reference.seasons
    source = {
        "blocks": "from contiguous blocks of its rows, in their order",
        "rows": "from rows drawn at random, as their order is not known (--time, --ordered)",
    }[calibration.source]
    yield f"thresholds: {source}"
    divided = [text for text in (seasons.clock, seasons.segment) if text]
    if divided:
        zone = f" ({seasons.timezone})" if seasons.clock else ""
        yield f"rows are compared with those of their own {' and '.join(divided)}{zone}"
    yield f"proposed window: {calibration.window} rows"
    yield ""
    yield f"smallest shift that a window of {window} rows shows:"
    shifts = (
        (f"  {f.name}", _shift(calibration.detectable(f.name, window), is_number=f.is_continuous))
        for f in reference.profile
    )
    yield tables.write(("  feature", "shift"), shifts)
    for note in reference.notes:
        yield f"note: {note}"


def _document(reference: Reference, window: int) -> dict[str, Any]:
    shifts = ((f, reference.calibration.detectable(f.name, window)) for f in reference.profile)
    return {
        "rows": reference.rows,
        "created": reference.created,
        "proposed_window": reference.calibration.window,
        "window": window,
        "features": [
            {
                "name": feature.name,
                "smallest_shift": None if math.isinf(shift) else shift,
                "unit": "std" if feature.is_continuous else "share",
            }
            for feature, shift in shifts
        ],
        "notes": [*reference.notes],
    }


def _shift(smallest: float, *, is_number: bool) -> str:
    if math.isinf(smallest):
        return "none"
    return f"{smallest:.2f} std" if is_number else f"{smallest:.0%} of the rows"
