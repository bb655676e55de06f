"""What does importing cost, and what is there for users?"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module

import pytest

from tests.servers import ROOT

FRAMEWORKS = ("fastapi", "starlette", "flask", "werkzeug")
SCIENCE = ("numpy", "pandas", "sklearn", "scipy", "pyarrow", "evidently")
LIMITERS = ("limits", "slowapi", "flask_limiter")  # of which each brings many storages
FILE = ("sqlite3", "multiprocessing")  # of the workers of a host, where they meet in one
PUBLIC = [
    "Identity",
    "Inference",
    "InvalidSettings",
    "MLGuard",
    "MLGuardError",
    "Principal",
    "Refusal",
    "Refused",
]


def after(statement: str) -> tuple[float, set[str]]:
    """Return how many CPU seconds a statement takes in a fresh interpreter, and what it loads."""
    program = (
        "import json, sys, time; began = time.process_time();"
        f"{statement};"
        "took = time.process_time() - began;"
        "print(json.dumps([took, sorted({m.partition('.')[0] for m in sys.modules})]))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=True
    )
    took, modules = json.loads(done.stdout)
    return took, set(modules)


def test_importing_is_fast() -> None:
    """`import mlguard` takes less than 0.3 seconds, at the best of three."""
    assert min(after("import mlguard")[0] for _ in range(3)) < 0.3


@pytest.mark.parametrize(
    ("module", "without"),
    [
        pytest.param("mlguard", (*FRAMEWORKS, *SCIENCE, "pydantic", "jose"), id="the package"),
        pytest.param("mlguard.auth", (*FRAMEWORKS, *SCIENCE), id="tokens"),
        pytest.param("mlguard.reference", (*FRAMEWORKS, *SCIENCE), id="references"),
        pytest.param(
            "mlguard.extraction", (*FRAMEWORKS, *SCIENCE[1:], "evidently"), id="extraction"
        ),
        pytest.param("mlguard.drift", (*FRAMEWORKS, "evidently", "sklearn"), id="drift"),
        pytest.param(
            "mlguard.app.service", (*FRAMEWORKS, *SCIENCE, *LIMITERS, *FILE), id="the service"
        ),
        pytest.param("mlguard.testing", (*FRAMEWORKS, *SCIENCE), id="testing"),
        pytest.param("mlguard.cli", (*FRAMEWORKS, *SCIENCE), id="the commands"),
        pytest.param(
            "mlguard_fastapi", ("flask", "werkzeug", *SCIENCE, *LIMITERS, "sqlite3"), id="FastAPI"
        ),
        pytest.param(
            "mlguard_flask", ("fastapi", "starlette", *SCIENCE, *LIMITERS, *FILE), id="Flask"
        ),
    ],
)
def test_importing_loads_nothing_more(module: str, without: tuple[str, ...]) -> None:
    """A part loads what it needs: no other framework, and nothing that only some settings need."""
    _, modules = after(f"import {module}")

    assert modules & set(without) == set()


FACE = {
    "mlguard_fastapi": PUBLIC,
    "mlguard_flask": PUBLIC,
    "mlguard.auth": ["InvalidToken", "KeySet", "verify_jws"],
    "mlguard.drift": ["Calibration", "FeatureVerdict", "Reference", "Verdict", "check"],
    "mlguard.errors": [
        "BlockingCall",
        "InvalidReference",
        "InvalidSettings",
        "MLGuardError",
        "MissingExtra",
        "ProtocolError",
        "Refused",
        "UnknownModel",
    ],
    "mlguard.extraction": ["ExtractionMonitor", "Verdict"],
    "mlguard.reference": ["Feature", "Reference"],
    "mlguard.settings": ["Settings"],
    "mlguard.testing": ["GuardTester"],
}
"""What users may import; whatever else is there may change with any version."""


@pytest.mark.parametrize(("module", "names"), FACE.items(), ids=FACE)
def test_the_public_face(module: str, names: list[str]) -> None:
    """The names that users may import are there, and the adapters have no other."""
    imported = import_module(module)

    assert set(names) <= vars(imported).keys()
    if module in ("mlguard_fastapi", "mlguard_flask", "mlguard.drift", "mlguard.reference"):
        assert sorted(imported.__all__) == names


def test_errors_are_public() -> None:
    """Each error of the tree may be caught by its name."""
    import mlguard.errors

    found = [n for n, v in vars(mlguard.errors).items() if isinstance(v, type)]
    assert sorted(found) == FACE["mlguard.errors"]


def test_pages_and_examples_import_the_public_face() -> None:
    """What is shown to users imports nothing else."""
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.py")]
    shown = [
        (module, name.split(" as ")[0].strip())
        for page in pages
        for module, names in re.findall(
            r"^ *from (mlguard[\w.]*) import ([\w, ]+)", page.read_text(), re.MULTILINE
        )
        for name in names.split(",")
    ]

    assert len(shown) > 10
    assert [(module, name) for module, name in shown if name not in FACE.get(module, ())] == []


def test_the_package_has_a_version_only() -> None:
    """`mlguard` itself has nothing but its version: parts are imported from where they are."""
    program = "import mlguard; print([n for n in vars(mlguard) if not n.startswith('_')])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name != "MLGuard"])
def test_twins_share_their_words(name: str) -> None:
    """What both adapters export but their guard is one and the same class."""
    import mlguard_fastapi
    import mlguard_flask

    assert getattr(mlguard_fastapi, name) is getattr(mlguard_flask, name)
