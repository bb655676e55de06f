"""How does a command speak to a person, and to a program?"""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

from mlguard.errors import MLGuardError

_PATIENCE = 2.0  # seconds, after which a person is told what lasts


def say(*lines: str) -> None:
    """Write lines out; who reads no further, as `head` does, is told no more.

    Raises:
        MLGuardError: They cannot be written.
    """
    with _writing():
        print(*lines, sep="\n", flush=True)


def say_json(document: Any) -> None:
    """Write what was found for a program."""
    say(json.dumps(document, indent=2))


def complain(error: object) -> None:
    """Say on standard error what is wrong, as far as anybody listens."""
    with suppress(OSError):
        print(f"{paint('mlguard:', _RED, sys.stderr)} {error}", file=sys.stderr, flush=True)


def note(*lines: str) -> None:
    """Say on standard error what a person wants to know beside what was asked for."""
    with suppress(OSError):
        print(*lines, sep="\n", file=sys.stderr, flush=True)


@contextmanager
def speaking() -> Iterator[None]:
    """Have all that was written arrive, what others wrote too, as argparse does.

    Raises:
        MLGuardError: It cannot be written.
    """
    try:
        yield
    finally:
        with _writing():
            if sys.stdout is not None:
                sys.stdout.flush()


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        _silence()
    except OSError as error:
        _silence()
        raise MLGuardError(f"what was found cannot be written: {error.strerror}") from None


def _silence() -> None:
    """Let what is still to be written go nowhere: the interpreter tries again as it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


_BOLD, _DIM, _RED, _GREEN, _YELLOW = "1", "2", "31", "32", "33"


def bold(text: str) -> str:
    """Have what a person looks for stand out."""
    return paint(text, _BOLD)


def faint(text: str) -> str:
    """Have what a person may pass over stand back."""
    return paint(text, _DIM)


def good(text: str) -> str:
    """Show that something is well."""
    return paint(text, _GREEN)


def bad(text: str) -> str:
    """Show that something is not."""
    return paint(text, _RED)


def odd(text: str) -> str:
    """Show that something may not be meant."""
    return paint(text, _YELLOW)


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """Colour a text where a person looks."""
    if not text or not has_colour(sys.stdout if stream is None else stream):
        return text
    return f"\x1b[{colour}m{text}\x1b[0m"


def has_colour(stream: TextIO | None) -> bool:
    """Say whether to colour what is written there (no-color.org, bixense.com/clicolors)."""
    environ = os.environ
    if environ.get("NO_COLOR"):
        return False
    if any(environ.get(name, "0") not in ("", "0") for name in ("FORCE_COLOR", "CLICOLOR_FORCE")):
        return True
    is_wanted = environ.get("CLICOLOR") != "0" and environ.get("TERM") != "dumb"
    return is_wanted and is_watched(stream)


def is_watched(stream: TextIO | None) -> bool:
    """Say whether a person looks at what is written there."""
    return stream is not None and not stream.closed and stream.isatty()


def width() -> int:
    """Tell how long a line may be: a terminal's lines end there, a file's nowhere."""
    is_wide = not is_watched(sys.stdout) and "COLUMNS" not in os.environ
    return sys.maxsize if is_wide else shutil.get_terminal_size().columns


def wrapped(line: str, indent: int) -> list[str]:
    """Break a line; what follows stands so many columns in."""
    return textwrap.wrap(
        line,
        max(width(), 2 * indent),
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def titled(line: str, indent: int) -> Iterator[str]:
    """Break a line whose first columns say what the others are about."""
    first, *others = wrapped(line, indent)
    title, rest = first[:indent], first[indent:]
    yield f"{bold(title.rstrip())}{title[len(title.rstrip()) :]}{rest}"
    yield from others


def below(title: str, lines: Iterable[str]) -> Iterator[str]:
    """Tell something below its title, where there is something to tell."""
    told = list(lines)
    if told:
        yield title
    for line in told:
        yield from wrapped(f"  {line}", 4)


@contextmanager
def others_speak() -> Iterator[None]:
    """Have what an app prints stand on standard error: standard output is for what was found."""
    with redirect_stdout(sys.stderr):
        yield


@contextmanager
def lasting(what: str) -> Iterator[Progress]:
    """Tell a person what is done, where it takes longer than two seconds."""
    progress = Progress(what)
    try:
        yield progress
    finally:
        progress.end()


class Progress:
    """Tells on standard error what lasts, and how far it is: a person, never a file.

    Args:
        what: What is done.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._began = time.monotonic()
        self._is_told = self._has_ended = False
        self._writing = threading.Lock()
        self._timer = threading.Timer(_PATIENCE, self._tell, [f"{what} ..."])
        self._timer.daemon = True
        if is_watched(sys.stderr):
            self._timer.start()

    def __call__(self, part: float) -> None:
        """Tell how much of it is done, a share of 1."""
        if time.monotonic() - self._began > _PATIENCE and is_watched(sys.stderr):
            self._tell(f"{self._what}: {part:4.0%}")

    def end(self) -> None:
        """Take the line back, if there is one."""
        self._timer.cancel()
        with self._writing:
            self._has_ended = True
            if self._is_told:
                print("\r\x1b[K", end="", file=sys.stderr, flush=True)

    def _tell(self, text: str) -> None:
        with self._writing, suppress(OSError):
            if not self._has_ended:
                self._is_told = True
                print(f"\r{text}\x1b[K", end="", file=sys.stderr, flush=True)
