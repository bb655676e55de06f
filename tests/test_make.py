"""Is the virtual environment that make uses one that works?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.servers import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

FRAMEWORKS = ("fastapi", "flask")


def made(folder: Path, *options: str) -> str:
    """Return what `make demo` would do."""
    environment = {k: v for k, v in os.environ.items() if k not in ("MAKEFLAGS", "PYTHON")}
    found = subprocess.run(
        ["make", "--dry-run", "demo", *options],
        cwd=folder,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout whose environment is installed, and as new as the projects' files."""
    projects = [f"integrations/{framework}/pyproject.toml" for framework in FRAMEWORKS]
    for name in ("Makefile", "pyproject.toml", *projects):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, tmp_path / name)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / ".installed").touch()
    return tmp_path


def interpreter(folder: Path, script: str) -> None:
    path = folder / ".venv" / "bin" / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_one_that_works_is_used(folder: Path) -> None:
    """Nothing is installed anew."""
    interpreter(folder, f'exec {sys.executable} "$@"')

    assert "venv" not in made(folder).replace(".venv/bin/python -m examples.demo", "")


@pytest.mark.parametrize(
    "script",
    [
        pytest.param("exit 127", id="broken"),
        pytest.param("echo 'False (3, 9)'", id="too old"),
    ],
)
def test_one_that_does_not_work_is_made_anew(folder: Path, script: str) -> None:
    """A Python that does not run, or is too old, gives way."""
    interpreter(folder, script)

    assert "python3 -m venv --clear .venv" in made(folder)


def test_another_that_is_asked_for(folder: Path) -> None:
    """Whoever names a Python gets an environment of that one."""
    interpreter(folder, "echo 'True (3, 99)'")

    assert f"{sys.executable} -m venv --clear" in made(folder, f"PYTHON={sys.executable}")
    assert "--clear" not in made(folder)
