"""What does it cost, and what do others charge?

python -m benchmarks [overhead] [refusals] [neighbours] [servers] [scaling] [tokens] [quotas] [host]
    [leases] [performance] [drift] [extraction] [soak]
"""

from __future__ import annotations

import argparse
import logging
import os
import time
from importlib import import_module
from pathlib import Path

from benchmarks import chart, report
from benchmarks.report import Found
from benchmarks.service import SECRET
from benchmarks.turns import say

PARTS = (
    *("overhead", "refusals", "neighbours", "servers", "scaling"),
    *("tokens", "quotas", "host", "leases", "performance", "drift", "extraction", "soak"),
)
BUILD = Path("build")


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", help="what was found")
    parser.add_argument("--chart", type=Path, default=BUILD / "cost.svg", help="and a picture")
    given = parser.parse_args()
    for part in given.parts:
        if part not in PARTS:
            parser.error(f"{part!r} is no part; known: {', '.join(PARTS)}")
    return given


def set_environment() -> None:
    """Leave nothing to chance: what the parts import reads this once."""
    for name in [each for each in os.environ if each.startswith(("OTEL_", "FASTAPI_OTEL_"))]:
        del os.environ[name]
    os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"
    os.environ["BENCHMARK_SECRET"] = SECRET


def main() -> None:
    """Run the parts that are named, all of them where none is."""
    given = arguments()
    set_environment()
    # What is refused on purpose is not worth a line.
    logging.getLogger("mlguard").addHandler(logging.NullHandler())
    began = time.monotonic()
    found: dict[str, Found] = {}
    for part in given.parts or PARTS:
        say(f"{part} ({time.monotonic() - began:.0f} s)")
        found[part] = import_module(f"benchmarks.{part}").main() or Found({})
        # After each: what a later one does must not take it away.
        report.write(given.json, found)
    print(report.conclude(found.values()))
    say(f"\nwrote {given.json}")
    if drawn := chart.chart({name: each.figures for name, each in found.items()}):
        given.chart.parent.mkdir(parents=True, exist_ok=True)
        given.chart.write_text(drawn)
        say(f"wrote {given.chart}")
    say(f"took {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
