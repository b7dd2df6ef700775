"""What the docs print can be typed: commands parse. That they run is checked on purpose (make test-install)."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from conftest import ROOT
from polysoma.cli import COMMANDS
from polysoma.cli.bodies import Bodies
from polysoma.config import check

sys.path.insert(0, str(ROOT / "tests" / "interop"))
from check_install import blocks

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands(page: Path) -> list[list[str]]:
    """The words of each polysoma command in the blocks of a page."""
    found = []
    for kind, text, _ in blocks(page):
        for line in text.replace("\\\n", " ").splitlines() if kind != "python" else ():
            words = shlex.split(line, comments=True)
            if words[:1] == ["polysoma"]:
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_in_the_docs_parses(page: Path) -> None:
    for words in commands(page):
        name = next(" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in COMMANDS)
        with contextlib.redirect_stderr(None):
            try:
                check(tyro.cli(COMMANDS[name], args=words[len(name.split()) :]))
            except SystemExit:
                pytest.fail(f"{page.name}: polysoma {' '.join(words)}")


def test_every_command_is_in_the_docs() -> None:
    every = " ".join(re.sub(r"\\\|", "|", page.read_text()) for page in PAGES)
    for name in COMMANDS:
        first, _, second = name.partition(" ")
        written = rf"polysoma {first}( \S*\b{second}\b|\b)" if second else rf"polysoma {first}\b"
        assert re.search(written, every), name


def test_every_option_that_is_spoken_of_is_there() -> None:
    """Also in messages and in running text: what an error advises can be typed."""
    strange = []
    for file in [*sorted((ROOT / "src").rglob("*.py")), *PAGES]:
        for words, rest in re.findall(r"\bpolysoma ([a-z]+(?: [a-z]+)?)\b([^`)\n]*)", file.read_text()):
            name = words if words in COMMANDS else words.partition(" ")[0]
            known = {f"--{field.name.replace('_', '-')}" for field in dataclasses.fields(COMMANDS.get(name, Bodies))}
            spoken = {option.replace("--no-", "--") for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", rest)}
            if name in COMMANDS and (unknown := spoken - known - {"--help", "--debug"}):
                strange.append(f"{file.name}: polysoma {name} {unknown}")
    assert strange == []


def test_nothing_is_to_be_had_from_pypi() -> None:
    for page in PAGES:
        lines = [text for _, text, _ in blocks(page) if re.search(r"pip install [^\n]*\bpolysoma(\[|\s|$)", text)]
        assert lines == [], page.name


def test_python_in_the_docs_defines_what_it_uses() -> None:
    for page in PAGES:
        for kind, text, why in blocks(page):
            if kind == "python" and not why:
                done = subprocess.run(
                    [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821", "--quiet", "-"],
                    input=text, text=True, capture_output=True,
                )  # fmt: skip
                assert done.returncode == 0, f"{page.name}: {done.stdout} (or mark the block: not run: a fragment)"
