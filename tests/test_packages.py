"""Is what is put on an index what somebody needs who finds it there?"""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.servers import ROOT

ADAPTERS = ("fastapi", "flask")


def project(place: str) -> dict:
    return tomllib.loads((ROOT / place / "pyproject.toml").read_text())


@pytest.mark.parametrize("framework", ADAPTERS)
def test_an_adapter_has_the_extras_of_the_core(framework: str) -> None:
    """Who installs an adapter with an extra gets the core of that version with it."""
    core, adapter = project(".")["project"], project(f"integrations/{framework}")["project"]
    version = core["version"]

    assert adapter["version"] == version
    assert f"mlguard-core=={version}" in adapter["dependencies"]
    assert adapter["optional-dependencies"] == {
        extra: [f"mlguard-core[{extra}]=={version}"] for extra in core["optional-dependencies"]
    }


@pytest.mark.parametrize("framework", ADAPTERS)
def test_all_name_the_same_places(framework: str) -> None:
    """The pages on the index lead to one repository."""
    assert (
        project(f"integrations/{framework}")["project"]["urls"] == project(".")["project"]["urls"]
    )


def test_links_of_the_readme_are_absolute_on_the_index() -> None:
    """Every link of the README leads to the repository, where the index shows it."""
    text = (ROOT / "README.md").read_text()
    hook = project(".")["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for each in hook["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)

    links = re.findall(r"\]\(([^)]+)\)", text)
    assert [link for link in links if not link.startswith("https://")] == []


@pytest.mark.parametrize("framework", ADAPTERS)
def test_an_adapters_page_shows_the_service_of_the_readme(framework: str) -> None:
    """The code on an adapter's page is that of the README, which is run."""
    page = (ROOT / "integrations" / framework / "README.md").read_text()
    code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    assert code == [
        re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[
            ADAPTERS.index(framework)
        ]
    ]
