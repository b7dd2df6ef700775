"""What stands beside the code agrees with it: hooks, workflow, citation, pins."""

from __future__ import annotations

import re
import tomllib

import yaml

import polysoma
from conftest import ROOT


def recipe(target: str) -> list[str]:
    """The commands of a target of the Makefile, without the folder of the virtual environment."""
    text = (ROOT / "Makefile").read_text()
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.M)
    assert lines is not None
    return [line.strip().removeprefix("$(BIN)/") for line in lines[1].splitlines()]


def test_hooks_check_what_make_lint_checks() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    # The tools of the virtual environment, which have the versions of constraints.txt.
    assert repository["repo"] == "local"
    hooks = [hook["entry"].removeprefix(".venv/bin/").split()[:2] for hook in repository["hooks"]]
    assert hooks == [command.split()[:2] for command in recipe("lint")]


def test_the_public_workflow_runs_make_test_on_linux_and_macos() -> None:
    job = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]["test"]
    assert job["steps"][-1]["run"] == "make test"
    assert {system.split("-")[0] for system in job["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
    (python,) = {step["with"]["python-version"] for step in job["steps"] if "python-version" in step.get("with", {})}
    assert f"CPython {python}" in (ROOT / "constraints.txt").read_text()


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"] and citation["authors"]
    assert citation["version"] == polysoma.__version__ and citation["license"] == project["license"]


def test_everything_that_is_asked_for_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = {
        re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = project["optional-dependencies"]
    # Ray has no pin: nothing here installs it.
    asked = [*project["dependencies"], *(name for extra, names in extras.items() if extra != "ray" for name in names)]
    names = {re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~ ]", text)[0]).lower() for text in asked}
    assert names - pins == {"polysoma"}


def test_tests_mirror_the_folders_of_the_package() -> None:
    tests, package = ROOT / "tests", ROOT / "src" / "polysoma"
    folders = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    assert len(folders) > 10
    assert [folder for folder in folders if not (package / folder).is_dir()] == []
