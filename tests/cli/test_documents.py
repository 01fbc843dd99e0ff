"""The documents say what is there: tests that the README names exist, links lead somewhere."""

import re
import tomllib
from pathlib import Path

import pytest

from workbench.boundaries import not_modelled

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\[([^\]]+)\]\(([^)#]+)\)")
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md")


def test_every_claim_of_the_readme_names_a_test_that_exists():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text[text.index("## What you can rely on") : text.index("## What is not modelled")]
    claims = [link for link in LINK.findall(table) if link[1].startswith("tests/")]
    assert len(claims) > 10
    for name, file in claims:
        assert f"def test_{name}(" in (ROOT / file).read_text(encoding="utf-8"), name


def test_the_panel_says_all_that_the_readme_says_is_not_modelled():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = readme.split("## What is not modelled\n")[1].split("\n## ")[0]
    assert "- " + " - ".join(not_modelled()) == " ".join(part.split())
    assert len(not_modelled()) > 8


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_to_files_lead_somewhere(document):
    path = ROOT / document
    for _, target in LINK.findall(path.read_text(encoding="utf-8")):
        assert "://" in target or (path.parent / target).exists(), target


def test_the_lock_is_pinned_by_hash_and_names_no_place():
    text = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    assert "://" not in text and "index-url" not in text and "find-links" not in text
    wanted = re.split(r"\n(?=[a-z])", text.strip())
    assert all("==" in entry and "--hash=sha256:" in entry for entry in wanted)


def test_the_lock_has_everything_that_the_project_asks_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"],
             *project["project"]["optional-dependencies"]["app"]]  # fmt: skip
    locked = re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.lock").read_text(), re.M)
    for requirement in asked:
        name = re.match(r"[A-Za-z0-9_-]+", requirement)
        assert name is not None and name.group().lower() in locked, requirement


@pytest.mark.parametrize("notebook", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=str)
def test_notebooks_are_kept_without_output(notebook):
    import nbformat

    for cell in nbformat.read(notebook, as_version=4).cells:
        assert cell.cell_type != "code" or (not cell.outputs and cell.execution_count is None)
