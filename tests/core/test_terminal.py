"""How does a command speak to a person, and to a program?"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mlguard.cli import main, terminal
from mlguard.cli.terminal import Progress, lasting, others_speak, wrapped

COMMAND = (sys.executable, "-c", "import sys; from mlguard.cli import main; sys.exit(main())")
NEITHER = {"NO_COLOR": "", "FORCE_COLOR": "", "CLICOLOR": "", "CLICOLOR_FORCE": "", "TERM": "xterm"}
FILE = '[quotas]\nrequests = ["600/minute"]\n'


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mlguard.toml").write_text(FILE)


def on_a_terminal(*arguments: str, environ: dict[str, str]) -> str:
    """Run a command whose streams are a terminal; return what stands there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | NEITHER | environ,
    ):
        os.close(theirs)
        said = b""
        try:
            while chunk := os.read(ours, 65536):
                said += chunk
        except OSError:  # Linux says so that the other end is closed
            pass
    os.close(ours)
    return said.decode()


@pytest.mark.parametrize(
    ("environ", "is_coloured"),
    [
        ({}, True),
        ({"NO_COLOR": "1"}, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, False),
        ({"CLICOLOR": "0"}, False),
        ({"TERM": "dumb"}, False),
    ],
    ids=str,
)
def test_colours_of_a_terminal(environ: dict[str, str], is_coloured: bool) -> None:
    """A person sees colours, unless they are not wanted."""
    said = on_a_terminal("check", environ={"COLUMNS": "80", **environ})

    assert ("\x1b[32mok\x1b[0m" in said) == is_coloured
    assert ("\x1b[" in said) == is_coloured


@pytest.mark.parametrize(
    ("environ", "is_coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"CLICOLOR_FORCE": "1"}, True)],
    ids=str,
)
def test_colours_of_a_pipe(environ: dict[str, str], is_coloured: bool) -> None:
    """A pipe gets plain text without trailing blanks, unless colours are wanted there."""
    environment = os.environ | NEITHER | environ
    said = subprocess.run(
        [*COMMAND, "check"], capture_output=True, text=True, env=environment
    ).stdout

    assert ("\x1b[" in said) == is_coloured
    assert [line for line in said.splitlines() if line != line.rstrip()] == []


def test_mistakes_are_red() -> None:
    """What is wrong stands out on a terminal as well."""
    said = on_a_terminal("check", "nowhere.toml", environ={})

    assert said.startswith("\x1b[31mmlguard:\x1b[0m nowhere.toml: no such file")


def test_ctrl_c(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends a command without a word, with the code that shells have for it."""
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    Path("interrupted.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code = main(["check", "interrupted:app"])
    finally:
        signal.signal(signal.SIGINT, before)

    assert (code, *capsys.readouterr()) == (130, "", "")


class TestProgress:
    @pytest.fixture
    def watched(self, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
        """Say whether a person looks at standard error."""

        def watch(is_watched: bool) -> None:
            monkeypatch.setattr(terminal, "is_watched", lambda _: is_watched)

        return watch

    def test_what_lasts(
        self,
        watched: Callable[[bool], None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """What lasts is told with how far it is, and the line is taken back at the end."""
        monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
        watched(True)

        with lasting("calibrating") as progress:
            progress(0.25)

        said = capsys.readouterr().err
        assert "\rcalibrating:  25%\x1b[K" in said
        assert said.endswith("\r\x1b[K")

    def test_without_a_share(
        self,
        watched: Callable[[bool], None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """What cannot say how far it is is named all the same."""
        monkeypatch.setattr(terminal, "_PATIENCE", 0.0)
        watched(True)

        progress = Progress("importing service")
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
        progress.end()

        assert capsys.readouterr().err == "\rimporting service ...\x1b[K\r\x1b[K"

    @pytest.mark.parametrize(("patience", "is_watched"), [(0.0, False), (60.0, True)])
    def test_nobody_waits(
        self,
        patience: float,
        is_watched: bool,
        watched: Callable[[bool], None],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        """Nothing is told into a file, nor of what is quick."""
        monkeypatch.setattr(terminal, "_PATIENCE", patience)
        watched(is_watched)

        with lasting("calibrating") as progress:
            progress(0.25)

        assert capsys.readouterr().err == ""


def test_what_an_app_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """What an app prints is not among what was found."""
    with others_speak():
        print("loading")

    assert capsys.readouterr() == ("", "loading\n")


@pytest.mark.parametrize(("columns", "lines"), [("40", 4), (None, 1)], ids=["narrow", "a file"])
def test_wrapping(columns: str | None, lines: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines end where a terminal does, and nowhere in a file."""
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)

    found = wrapped("  quotas   " + "600/minute requests, " * 4, 11)

    assert len(found) == lines
    assert max(map(len, found)) <= (int(columns) if columns else 200)
    assert all(line.startswith(" " * 11) for line in found[1:])
