"""Does the code that people copy run?"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from mlguard.cli import main
from mlguard.reference import Reference
from mlguard.settings import load
from mlguard.testing import Rehearsal

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
GUIDE = (ROOT / "docs" / "guide.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "mlguard.toml").write_text(blocks(README, "toml")[0])
    monkeypatch.setenv("IRIS_SECRET", "0" * 64)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_fastapi_twin_runs(folder: Path) -> None:
    """The FastAPI service of the README is guarded by the settings of the README."""
    names: dict[str, Any] = {}
    exec(blocks(README, "python")[0], names)
    rehearsal = Rehearsal(names["guard"])
    with TestClient(names["app"]) as client:
        body = {"instances": [[5.1, 3.5, 1.4, 0.2]]}

        assert client.post("/predict", json=body).status_code == 401
        answer = client.post("/predict", json=body, headers=rehearsal.headers())
        assert answer.json() == {"predictions": [pytest.approx(10.2)]}


def test_the_flask_twin_runs(folder: Path) -> None:
    """The Flask service of the README is guarded by the settings of the README."""
    names: dict[str, Any] = {"__name__": "service"}
    exec(blocks(README, "python")[1], names)
    rehearsal = Rehearsal(names["guard"])
    client = names["app"].test_client()
    body = {"instances": [[5.1, 3.5, 1.4, 0.2]]}

    assert client.post("/predict", json=body).status_code == 401
    answer = client.post("/predict", json=body, headers=rehearsal.headers())
    assert answer.json == {"predictions": [pytest.approx(10.2)]}


def test_the_handler_form_runs(folder: Path) -> None:
    """guard.inference of the README runs outside of a request too."""
    names: dict[str, Any] = {"__name__": "service"}
    exec(blocks(README, "python")[1], names)
    rehearsal = Rehearsal(names["guard"])

    class Model:
        def predict(self, rows: list[list[float]]) -> list[float]:
            return [sum(row) for row in rows]

    exec(blocks(README, "python")[2], {**names, "rows": [[1.0]], "model": Model()})

    assert rehearsal.metric("mlguard_inference_rows_total", model="iris", version="1") == 1


def test_the_commands_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`mlguard check` and `mlguard token mint` of the README work on its settings."""
    assert main(["check", "mlguard.toml"]) == 0
    assert main(["token", "mint", "--subject", "alice"]) == 0
    assert re.search(r"^ey[\w-]+\.[\w-]+\.[\w-]+$", capsys.readouterr().out, re.MULTILINE)


def test_the_readme_fits_two_screens() -> None:
    """A stranger reads it to its end."""
    assert len(README.splitlines()) <= 115


def test_the_guides_drift_check_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drift check without a web framework runs as it stands."""
    code = next(block for block in blocks(GUIDE, "python") if "check(" in block)
    rows = [[float(n % 7), float(n % 5)] for n in range(500)]
    Reference.build({"a": [r[0] for r in rows], "b": [r[1] for r in rows]}).save(
        tmp_path / "reference.parquet"
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"window": rows[:200]}
    exec(code, names)

    assert names["verdict"].detected is False


def test_the_guide_names_every_setting() -> None:
    """The table of settings is complete, and names nothing that is not there."""
    from mlguard.settings import Settings
    from mlguard.settings.mistakes import table_of

    expected = {
        f"{name}{'[]' if name == 'models' else ''}.{key}"
        for name, field in Settings.model_fields.items()
        for key in (table_of(field.annotation) or Settings).model_fields
    }
    named = set(re.findall(r"`(\w+(?:\[\])?\.\w+)`", GUIDE.split("**Any key")[0]))

    assert named - {"mlguard.toml", "1.0"} == expected


@pytest.mark.parametrize("page", ["README.md", "docs/guide.md", "examples/README.md"])
def test_links_lead_somewhere(page: str) -> None:
    """Every relative link of a page is a file."""
    here = ROOT / page
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", here.read_text())

    assert [link for link in links if not (here.parent / link.strip()).exists()] == []


def test_the_readmes_settings_are_valid(folder: Path) -> None:
    """Every TOML block of the README is a settings file."""
    for block in blocks(README, "toml"):
        assert load(tomllib.loads(block)).service.name
