"""Imports go downwards only, by the table in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from conftest import ROOT

PACKAGE = ROOT / "src" / "polysoma"
UPWARDS = {("policy/policy.py", "acting")}
"""`policy.agent()`, which imports when it is called."""


def floors() -> dict[str, int]:
    """Top folders and modules of the package, to how high they are."""
    table = (ROOT / "docs" / "architecture.md").read_text().partition("| floor |")[2].partition("\n\n")[0]
    rows = [re.findall(r"`([\w/.]+)`", line.split("|")[2]) for line in table.splitlines()[2:]]
    return {name.rstrip("/").removesuffix(".py"): -height for height, names in enumerate(rows) for name in names}


def imported(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """Full names of what a module imports when it runs, anywhere in it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, node.module or ""]).rstrip(".")
            yield from (f"{module}.{alias.name}" for alias in node.names)
        yield from imported(node, package)


def test_every_module_has_a_floor() -> None:
    names = {path.stem if path.is_file() else path.name for path in PACKAGE.iterdir()}
    held = {name for name in names if (PACKAGE / f"{name}.py").is_file() or (PACKAGE / name / "__init__.py").is_file()}
    assert held - {"__init__", "__main__"} == set(floors())


def test_imports_go_downwards_only() -> None:
    known, wrong = floors(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] in ("__init__", "__main__"):
            continue
        for name in imported(ast.parse(path.read_text()), ["polysoma", *parts[:-1]]):
            top = name.split(".")[1] if name.startswith("polysoma.") and name.count(".") else ""
            where = "/".join(parts) + ".py"
            if top in known and known[top] > known[parts[0]] and (where, top) not in UPWARDS:
                wrong.append(f"{where} imports {name}")
    assert not wrong


def test_the_table_is_read_as_it_is_written() -> None:
    known = floors()
    assert known["cli"] > known["serving"] == known["play"] > known["data"] > known["simulators"] > known["files"]
    code = "from a import b\nif TYPE_CHECKING:\n import c\ndef f():\n import d"
    assert set(imported(ast.parse(code), [])) == {"a.b", "d"}
