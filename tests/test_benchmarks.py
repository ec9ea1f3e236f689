"""Benchmark scripts: what they import from each other and from the package is there."""

import ast
import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.rglob("*.py"))


def names_of(script: Path) -> set[str]:
    """Names that a script defines or imports at its top level."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(script.read_text())):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    return found


@pytest.mark.skipif(not SCRIPTS, reason="an installed package has no benchmarks")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: str(p.relative_to(FOLDER)))
def test_imports_of_a_benchmark_exist(script: Path) -> None:
    """Nobody runs all of them after a change: a class had been renamed under one of them."""
    beside = {p.stem: p for folder in (FOLDER, script.parent) for p in folder.glob("*.py")}
    for node in ast.walk(ast.parse(script.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.module is None:
            continue
        wanted = {alias.name for alias in node.names}
        if node.module in beside:
            assert wanted <= names_of(beside[node.module]), node.module
        elif node.module.split(".")[0] == "zoomldm":
            module = importlib.import_module(node.module)
            for name in wanted:
                if not hasattr(module, name):
                    importlib.import_module(f"{node.module}.{name}")


def test_joining_pages_keeps_what_was_written_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    joined = importlib.import_module("join_pages").written_by_hand
    before = "# A\n\nby x\n\n## Said\n\ntext\n\n## B\n\n1\n\n## Other\n\n### Part\n"
    after = "# A\n\nby y\n\n## B\n\n2\n"
    wanted = "# A\n\nby y\n\n## Said\n\ntext\n\n## B\n\n2\n\n## Other\n\n### Part\n"
    assert joined(before, after) == wanted
    assert joined("", after) == joined(after, after) == after
