"""Who asked for the play, and how does it end? `python -m examples.demo --help`"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from examples.demo.stage import Stage


def main() -> int:
    """Play; return the exit code."""
    options = _options()
    console = Console()
    signal.signal(signal.SIGTERM, _leave)
    try:
        console.print(
            "[bold]mlguard[/]: one model served twice, by FastAPI and by Flask, both guarded."
        )
        stage = Stage(console)
        with stage.act("Load scikit-learn"):
            from examples.demo import play
        try:
            play.play(console, stage, options.folder, seed=options.seed, serve=options.serve)
        except play.ServiceFailed as failed:
            console.print(f"\n[bold red]The demo failed:[/] {escape(str(failed))}", highlight=False)
            return 1
    except KeyboardInterrupt:
        console.print("\nInterrupted; everything is stopped.")
        return 130
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description=__doc__)
    parser.add_argument(
        "--serve", action="store_true", help="keep both services running afterwards"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what the clients send")
    parser.add_argument(
        "--folder", type=Path, default=Path(".demo"), help="where everything is written (.demo)"
    )
    options = parser.parse_args()
    options.folder = options.folder.absolute()
    return options


def _leave(*_: object) -> None:
    """Let a polite kill stop the services too."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
