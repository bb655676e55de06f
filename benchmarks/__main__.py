"""What does it cost, and what do others charge?

python -m benchmarks [overhead] [tokens] [quotas]
"""

from __future__ import annotations

import os

# Read once per process, by what is imported.
os.environ["OTEL_SEMCONV_STABILITY_OPT_IN"] = "http"

import argparse
import time
from importlib import import_module

from benchmarks.measure import SECRET, say

PARTS = ("overhead", "tokens", "quotas")


def main() -> None:
    """Run the parts that are named, all of them where none is."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    named = parser.parse_args().parts
    for part in named:
        if part not in PARTS:
            parser.error(f"{part!r} is no part; known: {', '.join(PARTS)}")
    os.environ["BENCHMARK_SECRET"] = SECRET
    began = time.monotonic()
    for part in named or PARTS:
        import_module(f"benchmarks.{part}").main()
    say(f"\ntook {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
