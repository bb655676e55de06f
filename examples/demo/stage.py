"""How far is the play?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


class Stage:
    """Shows one act after the other: a moving bar on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began = time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the curtain rose."""
        return time.monotonic() - self._began

    @contextmanager
    def act(self, title: str, total: int | None = None) -> Iterator[Callable[[], None]]:
        """Play an act; gives what to call after each of its `total` steps."""
        bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total}" if total else ""),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        began = time.monotonic()
        with bar:
            task = bar.add_task(title, total=total)
            yield lambda: bar.advance(task)
        took = time.monotonic() - began
        said = f"[green]✓[/] {title} [dim]{took:.1f} s[/]"
        self._console.print(said, soft_wrap=True, highlight=False)
